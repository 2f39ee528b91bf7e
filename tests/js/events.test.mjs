// What a backend in Node is told of clients of the unmodified SDK: signed batches, in order.

import assert from 'node:assert/strict';
import { createHmac, timingSafeEqual } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import { describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, sdk, subscribed, token } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const SECRET = 'what the backend and the daemon know';
const TYPES = ['connected', 'disconnected', 'subscribed', 'unsubscribed', 'occupied', 'vacated', 'message'];

/** As the documentation says it to authors of backends. */
function verified(signature, body) {
  const parts = Object.fromEntries(signature.split(',').map((part) => part.split('=')));
  const wanted = createHmac('sha256', SECRET).update(`${parts.t}.`).update(body).digest();
  const shown = Buffer.from(parts.v1, 'hex');
  return Math.abs(Date.now() / 1000 - parts.t) < 300 && shown.length === wanted.length && timingSafeEqual(shown, wanted);
}

/** A backend that keeps the last number it has processed, as one with a database would. */
async function backend() {
  const events = [];
  const unsigned = [];
  let last = 0;
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const body = Buffer.concat(chunks);
    if (!verified(request.headers['x-trunkline-signature'] ?? '', body)) unsigned.push(body.toString());
    for (const event of JSON.parse(body).events) {
      if (event.seq <= last) continue;
      last = event.seq;
      events.push(event);
    }
    response.writeHead(204).end();
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return { events, unsigned, endpoint: `http://127.0.0.1:${server.address().port}/events`, close: () => server.close() };
}

for (const driver of drivers) {
  describe(`events on ${driver}`, () => {
    test('a backend hears of everything that a client of the SDK does', async () => {
      const told = await backend();
      const events = { types: TYPES, endpoint: told.endpoint, secret: SECRET, vacated_delay: '10ms' };
      const daemon = await Daemon.start({ driver, config: configuration({ events }) });
      const client = sdk(daemon.ws, { token: token('ann') });
      const { client: id } = await connected(client);
      const subscription = await subscribed(client, 'room');
      for (let n = 0; n < 1000; n += 1) await client.send({ n, text: 'grüße\n"' });
      subscription.unsubscribe();
      await subscribed(client, 'hall');
      client.disconnect();
      await until(
        () => told.events.filter((event) => event.type === 'vacated').length === 2,
        () => `both channels are vacated; told: ${JSON.stringify(told.events.slice(-5))}`,
      );
      assert.deepEqual(told.unsigned, []);
      assert.deepEqual(told.events.map((event) => event.seq), told.events.map((_, at) => at + 1));
      const own = told.events.filter((event) => event.client === id);
      assert.ok(own.every((event) => event.user === 'ann' && event.transport === 'websocket'));
      const story = own.filter((event) => event.type !== 'message').map(({ type, channel, code }) => [type, channel, code]);
      assert.deepEqual(story, [
        ['connected', undefined, undefined],
        ['subscribed', 'room', undefined],
        ['unsubscribed', 'room', 0],
        ['subscribed', 'hall', undefined],
        ['unsubscribed', 'hall', 1],
        ['disconnected', undefined, 3000],
      ]);
      const messages = own.filter((event) => event.type === 'message').map((event) => event.data);
      assert.deepEqual(messages, Array.from({ length: 1000 }, (_, n) => ({ n, text: 'grüße\n"' })));
      const occupancy = told.events.filter((event) => event.channel && !event.client).map(({ type, channel }) => `${type} ${channel}`);
      assert.deepEqual(occupancy.sort(), ['occupied hall', 'occupied room', 'vacated hall', 'vacated room']);
      assert.equal(await daemon.stop(), 0);
      told.close();
    });
  });
}
