// TLS with the clients that people have: openssl, curl, Chromium, npm `centrifuge` and `ws`; every transport; bad input.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import tls from 'node:tls';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import WebSocket from 'ws';

import { launch, serveSdk } from './support/browser.mjs';
import { API_KEY, drivers } from './support/daemon.mjs';
import { forms, received, sdk, subscribed } from './support/sdk.mjs';
import { Authority, Client, fingerprint, startSecure, trusting } from './support/tls.mjs';
import { lineLoop, pollLoop, socketLoop } from './support/unidirectional.mjs';
import { until, within } from './support/wait.mjs';

const run = promisify(execFile);
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
const request = 'GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n';

/** curl with an authority: what it wrote. Its failures have `stderr`. */
const curl = async (authority, ...words) =>
  (await run('curl', ['-sS', '--http1.1', '--max-time', '20', '--cacert', authority.file, ...words])).stdout;

/** In the page: every way to listen, over TLS. Every loop is a text of the tests' own. */
function listenEveryWay({ base, channel, loops }) {
  const [poll, lines, socket] = loops.map((text) => eval(`(${text})`));
  const got = (window.got = { events: [], lines: [], polls: [], sockets: [], sdk: [], ready: [] });
  const events = new EventSource(`${base}/sse?${new URLSearchParams({ channel })}`);
  events.addEventListener('ready', () => got.ready.push('events'));
  events.onmessage = (event) => got.events.push(JSON.parse(event.data).data);
  poll(base, { channel }, (message) => got.polls.push(message.data), () => {});
  window.streams = lines(base, { channel }, (message) => got.lines.push(message.data), () => {});
  window.socket = socket(base, { channel }, (message) => got.sockets.push(message.data), () => {});
  const client = new Centrifuge(`${base.replace('http', 'ws')}/connection/websocket`);
  const sub = client.newSubscription(channel);
  sub.on('subscribed', () => got.ready.push('sdk'));
  sub.on('publication', (context) => got.sdk.push(context.data));
  sub.subscribe();
  client.connect();
}

for (const driver of drivers) {
  describe(`TLS on ${driver}`, () => {
    const authority = new Authority();
    const signed = authority.sign('served');
    let site;
    let daemon;

    before(async () => {
      site = await serveSdk();
      const config = { client: { allowed_origins: [site.origin] } };
      daemon = await startSecure({ driver, signed, config, args: ['--shards', '2', '--echo'] });
    });
    after(async () => {
      await site?.close();
      assert.equal(await daemon?.stop(), 0);
      authority.remove();
    });

    const https = () => `https://${daemon.secure}`;

    for (const form of forms) {
      test(`the SDK in ${form}: publications, calls, and what it missed`, async () => {
        const client = sdk(`wss://${daemon.secure}/connection/websocket`, { form, websocket: trusting(authority) });
        const channel = `sdk-${form}`;
        const subscription = await subscribed(client, channel, { recoverable: true, positioned: true });
        // Longer than a record of TLS, and empty ones.
        const long = 'x'.repeat(50_000);
        await daemon.publish(channel, long);
        await daemon.publish(channel, '');
        await received(subscription, [long, '']);
        await subscription.publish(long);
        client.disconnect();
        await daemon.publish(channel, 'missed');
        client.connect();
        await received(subscription, [long, '', long, 'missed']);
        assert.equal(subscription.seen.subscribed.at(-1).recovered, true);
        client.disconnect();
      });
    }

    for (const version of ['TLSv1.2', 'TLSv1.3']) {
      test(`npm ws over ${version}: messages of every length, and the close`, async () => {
        const options = { ca: authority.pem, minVersion: version, maxVersion: version };
        const socket = new WebSocket(`wss://${daemon.secure}/echo`, options);
        await within(once(socket, 'open'), 'the socket opens');
        assert.equal(socket._socket.getProtocol(), version);
        for (const length of [0, 1, 125, 126, 16_383, 16_384, 16_385, 60_000]) {
          const answer = within(once(socket, 'message'), `the echo of ${length} bytes`);
          socket.send(Buffer.alloc(length, 7));
          assert.deepEqual((await answer)[0], Buffer.alloc(length, 7));
        }
        const closed = within(once(socket, 'close'), 'the close');
        socket.close(1000);
        assert.equal((await closed)[0], 1000);
      });

      test(`openssl over ${version}: a session is resumed`, async () => {
        const file = authority.path(`session-${version}`);
        const only = version === 'TLSv1.2' ? '-tls1_2' : '-tls1_3';
        for (const [word, kind] of [['-sess_out', 'New'], ['-sess_in', 'Reused']]) {
          const client = new Client(daemon.securePort, authority, only, word, file);
          await client.said(new RegExp(`${kind}, ${version}`, 'g'));
          // Tickets of TLS 1.3 come behind the handshake.
          client.type(request);
          await client.said(/HTTP\/1\.1 200 OK/g);
          if (word === '-sess_out') await until(() => existsSync(file), 'the session is written');
          await client.close();
        }
      });
    }

    test('openssl: keys change in both directions, again and again', async () => {
      const client = new Client(daemon.securePort, authority, '-tls1_3');
      await client.said(/New, TLSv1\.3/g);
      for (const [round, command] of ['K', 'k', 'K', 'K', 'k'].entries()) {
        // `K` asks the daemon for new keys as well. A command is a line of its own read.
        client.type(`${command}\n`);
        await client.said(/KEYUPDATE/g, round + 1);
        client.type(request);
        await client.said(/HTTP\/1\.1 200 OK/g, round + 1);
      }
      await client.close();
    });

    test('openssl: nothing is negotiated once more', async () => {
      const client = new Client(daemon.securePort, authority, '-tls1_2');
      await client.said(/New, TLSv1\.2/g);
      client.type('R\n');
      await client.said(/RENEGOTIATING[^]*alert no renegotiation/g);
      await until(() => client.ended, 'the connection ends');
      assert.equal(await daemon.faults(/tls_renegotiation/), 1);
    });

    test('curl: the API and every way to listen, as the docs have them', async () => {
      const key = ['-H', `X-API-Key: ${API_KEY}`];
      const publish = (data) => curl(authority, ...key, '-d', JSON.stringify({ channel: 'news', data }), `${https()}/api/publish`);
      assert.equal(JSON.parse(await publish('first')).result.offset, 1);
      assert.match(await curl(authority, ...key, `${https()}/metrics`), /trunkline_tls_handshakes_total \d/);
      const history = JSON.parse(await curl(authority, `${https()}/history?channel=news&limit=10`));
      assert.deepEqual(history.messages.map((message) => message.data), ['first']);
      const position = history.position;
      const query = `channel=news&position=${encodeURIComponent(position)}`;
      // Streams end with curl's time.
      const poll = curl(authority, `${https()}/poll?${query}`);
      const stream = (way) => run('curl', ['-sN', '--max-time', '4', '--cacert', authority.file, `${https()}/${way}?${query}`])
        .then(() => assert.fail('it ends in time'), (ended) => ended.stdout);
      const streams = ['sse', 'stream'].map(stream);
      // Whether they listen already or not: the position says where they go on.
      await publish('second');
      assert.deepEqual(JSON.parse(await poll).messages.map((message) => message.data), ['second']);
      const [sse, lines] = await Promise.all(streams);
      assert.match(sse, /data: .*"second"/);
      assert.deepEqual(lines.split('\n').filter(Boolean).map(JSON.parse).filter((line) => line.channel).map((line) => line.data), ['second']);
    });

    test('Chromium: every way to listen gets everything in order', async () => {
      const browser = await launch();
      try {
        const page = await browser.newPage({ ignoreHTTPSErrors: true });
        await page.goto(site.origin);
        const loops = [pollLoop, lineLoop, socketLoop].map(String);
        await page.evaluate(listenEveryWay, { base: https(), channel: 'page', loops });
        const got = () => page.evaluate(() => window.got);
        await until(
          async () => (await got()).ready.length >= 2
            && (await page.evaluate(() => window.streams.state.ready + (window.socket.state?.ready ?? 1))) >= 2,
          async () => `all listen: ${JSON.stringify(await got())}`,
        );
        for (const n of range(1, 20)) await daemon.publish('page', n);
        const ways = ['events', 'lines', 'polls', 'sockets', 'sdk'];
        await until(async () => {
          const all = await got();
          return ways.every((way) => all[way].at(-1) === 20);
        }, async () => JSON.stringify(await got()));
        const all = await got();
        for (const way of ['events', 'lines', 'sdk']) assert.deepEqual(all[way], range(1, 20), way);
        // A poll and a plain socket may begin at any of them; from there on nothing is missing.
        for (const way of ['polls', 'sockets']) assert.deepEqual(all[way], range(all[way][0], 20), way);
      } finally {
        await browser.close();
      }
    });

    test('what is no TLS, and TLS on the plain port: a sentence each', async () => {
      assert.match(await curl(authority, `http://${daemon.secure}/health`), /This port speaks TLS/);
      assert.equal(await daemon.faults(/tls_plain_http/), 1);
      await assert.rejects(curl(authority, `https://${daemon.address}/health`), (error) => error.code === 35);
      assert.equal(await daemon.faults(/tls_on_plain_port/), 1);
      // A name that no certificate is for gets the first one, and its client decides.
      const [host, port] = daemon.secure.split(':');
      const socket = tls.connect({ host, port, servername: 'unknown.test', ca: authority.pem, checkServerIdentity: () => undefined });
      await within(once(socket, 'secureConnect'), 'a handshake');
      assert.equal(socket.getPeerX509Certificate().fingerprint256, fingerprint(signed.cert));
      socket.destroy();
      await assert.rejects(
        curl(authority, '--connect-to', `unknown.test:443:${daemon.secure}`, 'https://unknown.test/health'),
        (error) => error.code === 60,
      );
    });
  });

  describe(`client certificates on ${driver}`, () => {
    const [authority, clients, strangers] = ['servers', 'clients', 'strangers'].map((name) => new Authority(name));
    const signed = authority.sign('served');
    let daemon;

    before(async () => {
      const asking = { client_certificates: 'require', client_ca_file: clients.file };
      daemon = await startSecure({ driver, signed, tls: asking });
    });
    after(async () => {
      assert.equal(await daemon?.stop(), 0);
      for (const one of [authority, clients, strangers]) one.remove();
    });

    test('curl with one is served; without, with an expired one or a stranger\'s it is not', async () => {
      const health = (own) => curl(authority, ...(own ? ['--cert', own.cert, '--key', own.key] : []),
        '-o', '/dev/null', '-w', '%{http_code}', `https://${daemon.secure}/health`);
      for (const version of ['1.2', '1.3']) {
        const only = [`--tlsv${version}`, '--tls-max', version];
        const known = clients.sign(`known-${version}`, ['ann']);
        assert.equal(await curl(authority, ...only, '--cert', known.cert, '--key', known.key, '-o', '/dev/null', '-w',
          '%{http_code}', `https://${daemon.secure}/health`), '200');
      }
      for (const [own, cause] of [
        [undefined, /tls_client_certificate_missing/],
        [clients.sign('old', ['ann'], -1), /tls_client_certificate_expired/],
        [strangers.sign('stranger', ['ann']), /tls_client_certificate_unknown/],
      ]) {
        await assert.rejects(health(own), (error) => error.code > 0);
        assert.equal(await daemon.faults(cause), 1, String(cause));
      }
    });
  });

  describe(`a certificate that is changed on ${driver}`, () => {
    test('subscribers of the SDK stay, and new ones get the new one', async () => {
      const authority = new Authority();
      const signed = authority.sign('served');
      const daemon = await startSecure({ driver, signed });
      const clients = range(1, 50).map(() =>
        sdk(`wss://${daemon.secure}/connection/websocket`, { websocket: trusting(authority) }));
      const subscriptions = await Promise.all(clients.map((client) => subscribed(client, 'all')));
      const shown = async () => {
        const [host, port] = daemon.secure.split(':');
        const socket = tls.connect({ host, port, servername: 'localhost', ca: authority.pem });
        await within(once(socket, 'secureConnect'), 'a handshake');
        const found = socket.getPeerX509Certificate().fingerprint256;
        socket.destroy();
        return found;
      };
      const before = fingerprint(signed.cert);
      assert.equal(await shown(), before);
      authority.replace(signed, authority.sign('next'));
      daemon.signal('SIGHUP');
      await until(async () => (await shown()) !== before, () => `another certificate; it said ${daemon.output}`);
      assert.equal(await shown(), fingerprint(signed.cert));
      await daemon.publish('all', 'after');
      for (const subscription of subscriptions) await received(subscription, ['after']);
      for (const client of clients) {
        assert.equal(client.log.connecting.length, 1, 'it never connected again');
        client.disconnect();
      }
      assert.equal(await daemon.stop(), 0);
      authority.remove();
    });
  });
}
