// Clients over TLS: the npm SDK with `ws`, Chromium, and what the backend gets to see of a client's certificate.

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import { after, before, describe, it } from 'node:test';

import WebSocket from 'ws';

import { launch } from './support/browser.mjs';
import { Authority } from './support/certificates.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, sdk, subscribed } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

/** A WebSocket of Node that trusts the authority, and shows a certificate of its own. */
const over = (authority, own) => class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { ca: authority.pem, cert: own?.pem, key: own?.keyPem });
  }
};

/** A backend that lets everybody in and remembers what it was asked. */
async function backend() {
  const asked = [];
  const server = http.createServer(async (request, response) => {
    let body = '';
    for await (const part of request) body += part;
    const question = body ? JSON.parse(body) : {};
    asked.push({ path: request.url, ...question });
    const answer = request.url === '/connect' ? { result: { user: 'ann' } } : {};
    response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { asked, url: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}

for (const driver of drivers) {
  describe(`over TLS on ${driver}`, () => {
    let authority;
    let clients;
    let daemon;
    let asked;
    let wss;
    let secure;

    before(async () => {
      authority = new Authority();
      clients = new Authority();
      asked = await backend();
      const { cert, key } = authority.sign('localhost');
      const config = configuration({
        tls: { cert, key, client_certificates: 'request', client_ca_file: clients.file },
        client: { connect_hook: 'b', allowed_origins: ['*'] },
        hook: [{ name: 'b', endpoint: `${asked.url}/connect` }],
        tunnel: [{ name: 't', endpoint: `${asked.url}/tunnel` }],
        events: { types: ['connected'] },
      });
      daemon = await Daemon.start({ driver, config, args: ['--listen-tls', '127.0.0.1:0'] });
      const port = await until(() => daemon.output.match(/wss:\/\/127\.0\.0\.1:(\d+)\//)?.[1], 'a port that speaks TLS');
      secure = `localhost:${port}`;
      wss = `wss://${secure}/connection/websocket`;
    });
    after(async () => {
      assert.equal(await daemon.stop(), 0);
      asked.close();
      authority.close();
      clients.close();
    });

    it('serves the SDK', async () => {
      const client = sdk(wss, { websocket: over(authority) });
      const subscription = await subscribed(client, 'news');
      const text = 'x'.repeat(100_000);
      await daemon.publish('news', { text });
      await until(() => subscription.seen.publications.length === 1, 'the publication');
      assert.equal(subscription.seen.publications[0].data.text, text);
      await client.publish('news', { from: 'the client' });
      await until(() => subscription.seen.publications.length === 2, 'its own publication');
      assert.deepEqual(client.log.errors, []);
      client.disconnect();
    });

    it('serves requests of HTTP, several on a connection', async () => {
      const agent = new https.Agent({ ca: authority.pem, keepAlive: true, maxSockets: 1 });
      for (let time = 0; time < 3; time += 1) {
        const request = https.get(`https://${secure}/health`, { agent });
        const [response] = await once(request, 'response');
        assert.equal(response.statusCode, 200);
        assert.equal(request.reusedSocket, time > 0);
        response.resume();
        await once(response, 'end');
      }
      agent.destroy();
    });

    it('serves a browser: wss and an event stream', async () => {
      const browser = await launch();
      try {
        const context = await browser.newContext({ ignoreHTTPSErrors: true });
        const page = await context.newPage();
        await page.goto(`https://${secure}/health`);
        const heard = page.evaluate((url) => new Promise((done, fail) => {
          const socket = new WebSocket(url);
          socket.onopen = () => socket.send('{"id":1,"connect":{}}');
          socket.onmessage = ({ data }) => done(JSON.parse(data.split('\n')[0]).connect?.ping);
          socket.onerror = () => fail(new Error('the WebSocket failed'));
        }), wss);
        assert.equal(await heard, 25);
        const stream = page.evaluate((url) => new Promise((done, fail) => {
          const source = new EventSource(url);
          source.onmessage = ({ data }) => { source.close(); done(data); };
          source.onerror = () => fail(new Error('the stream failed'));
        }), `https://${secure}/sse?channel=streamed`);
        await until(async () => {
          const { num_clients: count } = await daemon.api('presence_stats', { channel: 'streamed' });
          return count === 1;
        }, 'the stream is subscribed');
        await daemon.publish('streamed', { n: 1 });
        assert.ok((await stream).includes('"n":1'));
      } finally {
        await browser.close();
      }
    });

    it('shows the certificate of a client to the backend', async () => {
      const own = clients.sign('sensor-7');
      const fingerprint = new X509Certificate(own.pem).fingerprint256.replaceAll(':', '').toLowerCase();
      const certificate = { subject: 'CN=sensor-7', fingerprint };
      const client = sdk(wss, { websocket: over(authority, own) });
      await connected(client);
      const question = asked.asked.filter(({ path }) => path === '/connect').at(-1);
      assert.deepEqual(question.certificate, certificate);
      client.disconnect();
      const tunnel = new (over(authority, own))(`wss://${secure}/tunnel/t`);
      await once(tunnel, 'open');
      const hello = asked.asked.find(({ path, type }) => path === '/tunnel' && type === 'connect');
      assert.deepEqual(hello.certificate, certificate);
      tunnel.close();
      const events = async () => {
        const response = await fetch(`${daemon.http}/api/events?after=0`, { headers: { 'X-API-Key': 'key-of-the-tests' } });
        return (await response.json()).events;
      };
      await until(async () => (await events()).some((event) => event.certificate), 'the event of it');
      assert.deepEqual((await events()).find((event) => event.certificate).certificate, certificate);
      // Whoever shows none is asked about without one, and a header says nothing.
      const without = sdk(wss, { websocket: over(authority) });
      await connected(without);
      assert.equal(asked.asked.filter(({ path }) => path === '/connect').at(-1).certificate, undefined);
      without.disconnect();
    });
  });
}
