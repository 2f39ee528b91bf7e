// What the backend gets to see of a client's certificate: in hook calls, in tunnels, in events.

import assert from 'node:assert/strict';
import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, describe, it } from 'node:test';

import WebSocket from 'ws';

import { Authority } from './support/certificates.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, sdk } from './support/sdk.mjs';
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
  describe(`certificates of clients on ${driver}`, () => {
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
