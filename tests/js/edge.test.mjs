// docs/edge.md as it is written: trunkline alone with certbot's hook, behind nginx, behind HAProxy in both ways.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, readFileSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import tls from 'node:tls';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import WebSocket from 'ws';

import { API_KEY, binary, drivers } from './support/daemon.mjs';
import { Front, admitting, blocks, daemonOf, replaced } from './support/edge.mjs';
import { freePort } from './support/ports.mjs';
import { received, sdk, subscribed, token } from './support/sdk.mjs';
import { Authority, fingerprint, trusting } from './support/tls.mjs';
import { until, within } from './support/wait.mjs';

const run = promisify(execFile);
const key = ['-H', `X-API-Key: ${API_KEY}`];

const curl = async (authority, ...words) =>
  (await run('curl', ['-sS', '--http1.1', '--max-time', '30', '--cacert', authority.file, ...words])).stdout;
const status = (authority, ...words) => curl(authority, '-o', '/dev/null', '-w', '%{http_code}', ...words);

/** The certificate that a port shows. */
async function shown(authority, port) {
  const socket = tls.connect({ host: '127.0.0.1', port, servername: 'localhost', ca: authority.pem });
  await within(once(socket, 'secureConnect'), 'a handshake');
  const found = socket.getPeerX509Certificate().fingerprint256;
  socket.destroy();
  return found;
}

/** A listener's address: their lines come one after the other, and a test may be there before the last. */
const listens = (daemon, line) => until(() => daemon.output.match(line)?.[1], () => `${line} in: ${daemon.output}`);
const tlsOf = (daemon) => listens(daemon, /listening on ([\d.]+:\d+) \(TLS/);
/** Where the API of `api_listen` is. */
const apiOf = async (daemon) => `http://${await listens(daemon, /API listening on ([\d.]+:\d+)/)}`;

/** Publishes, past the front. */
const publishTo = (authority, url, channel, data) =>
  curl(authority, ...key, '-d', JSON.stringify({ channel, data }), `${url}/api/publish`).then((text) => {
    assert.ok(JSON.parse(text).result?.offset, text);
  });

/** Clients of every kind through a TLS port: the SDK, a page's WebSocket, event streams, polls. */
async function everyWay(authority, port, api) {
  const base = `https://localhost:${port}`;
  await until(async () => (await status(authority, `${base}/health`)) === '200', 'the front has found the daemon');
  const client = sdk(`wss://localhost:${port}/connection/websocket`, { websocket: trusting(authority), token: token('ann') });
  const subscription = await subscribed(client, 'news');
  // A page of the same host: its origin is what the browser sees, TLS and all.
  const page = new WebSocket(`wss://localhost:${port}/ws?channel=news&token=${token('bob')}`, { ca: authority.pem, origin: base });
  let heard = '';
  page.on('message', (data) => (heard += data));
  await within(once(page, 'open'), 'a page connects');
  await until(() => heard.includes('"ready"'), () => `ready, heard ${heard}`);
  const query = `channel=news&token=${token('cid')}`;
  const { position } = JSON.parse(await curl(authority, `${base}/poll?${query}&wait=0`));
  const poll = curl(authority, `${base}/poll?${query}&position=${encodeURIComponent(position)}&wait=20`);
  const stream = run('curl', ['-sN', '--max-time', '3', '--cacert', authority.file, `${base}/sse?${query}&position=${encodeURIComponent(position)}`])
    .then(() => assert.fail('it ends in time'), (ended) => ended.stdout);
  await publishTo(authority, api, 'news', 'over the edge');
  await received(subscription, ['over the edge']);
  await until(() => heard.includes('over the edge'), () => `a publication, heard ${heard}`);
  assert.deepEqual(JSON.parse(await poll).messages.map((message) => message.data), ['over the edge']);
  assert.match(await stream, /over the edge/);
  const closed = within(once(page, 'close'), 'the close');
  page.close(1000);
  assert.equal((await closed)[0], 1000);
  client.disconnect();
}

for (const driver of drivers) {
  describe(`at the edge on ${driver}`, () => {
    const authority = new Authority();
    const signed = authority.sign('served');
    let daemon;
    let front;
    let backend;

    after(() => authority.remove());

    const stop = async () => {
      await front?.stop();
      front = undefined;
      assert.equal(await daemon?.stop(), 0);
      daemon = undefined;
      await backend?.stop();
      backend = undefined;
    };

    /** What both proxies that end TLS stand in front of, and a backend that sees the fields they forward. */
    const startBehindProxy = async () => {
      backend = await admitting('ann');
      daemon = await daemonOf(blocks('Behind nginx', 'toml')[0], {
        driver,
        authority,
        changes: { '127.0.0.1:8000': '127.0.0.1:0' },
        more: `[[hook]]\nname = "who"\nendpoint = "${backend.endpoint}"\nforward_headers = ["X-Forwarded-For", "X-Forwarded-Proto"]\n`
          + '[client]\nconnect_hook = "who"\n',
      });
    };

    describe('alone, with the hook of certbot', () => {
      const lineage = authority.path('lineage');
      const served = authority.path('tls');
      const heading = "Alone, with a certificate from Let's Encrypt";
      /** The hook; at the first time there is no daemon to be told. */
      const renew = async ({ cert, key: ofIt }, tell) => {
        mkdirSync(lineage, { recursive: true });
        copyFileSync(cert, path.join(lineage, 'fullchain.pem'));
        copyFileSync(ofIt, path.join(lineage, 'privkey.pem'));
        const hook = replaced(blocks(heading, 'sh')[0], {
          '-o trunkline -g trunkline ': '',
          '/etc/trunkline/tls': served,
          'systemctl kill --signal=HUP --kill-whom=main trunkline': tell,
        });
        await run('sh', [authority.write('hook', hook)], { env: { ...process.env, RENEWED_LINEAGE: lineage } });
      };

      before(async () => {
        await renew(signed, 'true');
        daemon = await daemonOf(blocks(heading, 'toml')[0], {
          driver,
          authority,
          changes: {
            '/etc/trunkline/tls': served, '127.0.0.1:8000': '127.0.0.1:0', '[::]:443': '127.0.0.1:0', '127.0.0.1:9000': '127.0.0.1:0',
          },
        });
      });
      after(stop);

      test('every way is served, and a renewed certificate is taken up', async () => {
        const port = Number((await tlsOf(daemon)).split(':')[1]);
        await everyWay(authority, port, await apiOf(daemon));
        assert.equal(await shown(authority, port), fingerprint(signed.cert));
        const next = authority.sign('next');
        await renew(next, `kill -HUP ${daemon.pid}`);
        await until(async () => (await shown(authority, port)) === fingerprint(next.cert), () => daemon.output);
      });
    });

    describe('behind nginx', () => {
      const heading = 'Behind nginx';
      before(async () => {
        await startBehindProxy();
        const port = await freePort();
        front = await Front.nginx(authority, replaced(blocks(heading, 'nginx')[0], {
          '127.0.0.1:8000': daemon.address,
          'listen 443 ssl': `listen 127.0.0.1:${port} ssl`,
          'push.example.com': 'localhost',
          '/etc/nginx/tls/fullchain.pem': signed.cert,
          '/etc/nginx/tls/privkey.pem': signed.key,
        }), port);
      });
      after(stop);

      test('every way is served', () => everyWay(authority, front.port, daemon.http));

      test('the API stays inside, and nobody claims another address', async () => {
        const base = `https://localhost:${front.port}`;
        for (const hidden of ['/api/info', '/metrics']) assert.equal(await status(authority, ...key, base + hidden), '404', hidden);
        const asked = backend.asked.length;
        await status(authority, '-H', 'X-Forwarded-For: 192.0.2.1', `${base}/poll?channel=news&wait=0`);
        await until(() => backend.asked.length > asked, 'the backend is asked');
        assert.equal(backend.asked.at(-1)['x-forwarded-for'], '127.0.0.1');
        assert.equal(backend.asked.at(-1)['x-forwarded-proto'], 'https');
      });
    });

    describe('behind HAProxy that passes TLS through', () => {
      const heading = 'TLS passed through';
      before(async () => {
        const port = await freePort();
        daemon = await daemonOf(blocks(heading, 'toml')[0], {
          driver,
          authority,
          changes: {
            '127.0.0.1:9000': '127.0.0.1:0',
            '127.0.0.1:8443': `127.0.0.1:${await freePort()}`,
            '/etc/trunkline/tls/fullchain.pem': signed.cert,
            '/etc/trunkline/tls/privkey.pem': signed.key,
          },
        });
        daemon.proxied = await tlsOf(daemon);
        front = await Front.haproxy(authority, replaced(blocks(heading, 'haproxy')[0], {
          'bind :443': `bind 127.0.0.1:${port}`,
          '127.0.0.1:8443': daemon.proxied,
          'maxconn 200000': 'maxconn 200',
        }), port);
      });
      after(stop);

      test('every way is served, with the certificate of trunkline', async () => {
        await everyWay(authority, front.port, await apiOf(daemon));
        assert.equal(await shown(authority, front.port), fingerprint(signed.cert));
        assert.doesNotMatch(front.output, /DOWN/);
      });

      test('who comes without the header is closed, before TLS says a word', async () => {
        const [host, port] = daemon.proxied.split(':');
        const socket = net.connect({ host, port });
        let said = 0;
        socket.on('data', (data) => (said += data.length)).on('error', () => {});
        socket.write(Buffer.from('16030100c8010000c40303', 'hex'));
        await within(once(socket, 'close'), 'the close');
        assert.equal(said, 0);
      });
    });

    describe('behind HAProxy that ends TLS', () => {
      const heading = 'TLS ended there';
      before(async () => {
        await startBehindProxy();
        const port = await freePort();
        const both = authority.write('push.pem', readFileSync(signed.cert, 'utf8') + readFileSync(signed.key, 'utf8'));
        front = await Front.haproxy(authority, replaced(blocks(heading, 'haproxy')[0], {
          'bind :443': `bind 127.0.0.1:${port}`,
          '/etc/haproxy/push.pem': both,
          '127.0.0.1:8000': daemon.address,
          'maxconn 200000': 'maxconn 200',
        }), port);
      });
      after(stop);

      test('every way is served', async () => {
        await everyWay(authority, front.port, daemon.http);
        assert.doesNotMatch(front.output, /DOWN/);
      });

      test('the API stays inside, and nobody claims another address', async () => {
        const base = `https://localhost:${front.port}`;
        for (const hidden of ['/api/info', '/metrics']) assert.equal(await status(authority, ...key, base + hidden), '404', hidden);
        const asked = backend.asked.length;
        await status(authority, '-H', 'X-Forwarded-For: 192.0.2.1', `${base}/poll?channel=news&wait=0`);
        await until(() => backend.asked.length > asked, 'the backend is asked');
        assert.equal(backend.asked.at(-1)['x-forwarded-for'], '127.0.0.1');
      });
    });
  });
}

test('the block for a load balancer is a configuration', async () => {
  const authority = new Authority();
  const [block] = blocks("Behind a cloud's load balancer", 'toml');
  const file = authority.write('trunkline.toml', replaced(block, {
    '/etc/trunkline/api.key': authority.write('api.key', API_KEY),
    '/etc/trunkline/token.key': authority.write('token.key', 'x'.repeat(32)),
  }));
  const { stdout, stderr } = await run(binary, ['check', file]);
  assert.match(stdout + stderr, /8000/);
  authority.remove();
});
