// Subscribers with a pace of their own: granted by tokens, hooks and the API, or asked for in a query. TRUNKLINE_PACE_FULL=1 runs the
// crowd at its full size (1,000 keys, 1,000 updates a second, 1,001 subscribers), which takes a machine of its own.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import WebSocket from 'ws';

import { Backend } from './support/backend.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { sdk, token, watch } from './support/sdk.mjs';
import { lineLoop } from './support/unidirectional.mjs';
import { sleep, until } from './support/wait.mjs';

const crowd = process.env.TRUNKLINE_PACE_FULL === '1'
  ? { keys: 1000, rate: 1000, seconds: 10, subscribers: 1000 }
  : { keys: 40, rate: 200, seconds: 2, subscribers: 30 };

/** A raw client of the protocol: the moments at which something came, and the newest of each key. */
async function reader(url, channel, claims) {
  const socket = new WebSocket(url, 'centrifuge-json');
  const state = { socket, times: [], values: new Map(), count: 0, subscribed: false };
  const take = ({ data, tags }) => {
    state.values.set(tags.key, data);
    state.count += 1;
  };
  socket.on('message', (bytes) => {
    let pushed = false;
    for (const line of bytes.toString().split('\n')) {
      if (line === '{}') {
        socket.send('{}');
        continue;
      }
      const message = JSON.parse(line);
      if (message.error) throw new Error(line);
      if (message.subscribe) {
        state.subscribed = true;
        (message.subscribe.publications ?? []).forEach(take);
      }
      if (message.push?.pub) {
        pushed = true;
        take(message.push.pub);
      }
    }
    if (pushed) state.times.push(performance.now());
  });
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  socket.send(`${JSON.stringify({ id: 1, connect: {} })}\n${JSON.stringify({
    id: 2, subscribe: { channel, ...(claims ? { token: token('', { channel, ...claims }) } : {}) },
  })}`);
  return state;
}

/** Deliveries come at their own pace, and are told apart by the gaps between them: never more than the time has windows. */
function keepsTo(times, everyMs, who) {
  if (times.length === 0) return;
  const span = times.at(-1) - times[0];
  const most = Math.ceil(span / everyMs) + 2;
  // What leaves in one turn may come in several reads.
  const deliveries = times.filter((at, n) => n === 0 || at - times[n - 1] > everyMs / 4);
  assert(deliveries.length <= most, `${who}: ${deliveries.length} deliveries in ${Math.round(span)} ms`);
}

for (const driver of drivers) {
  describe(`pace on ${driver}`, () => {
    let daemon;
    let backend;
    const clients = [];
    before(async () => {
      backend = await Backend.start({
        subscribe: () => ({ result: { deliver_every: '300ms' } }),
      });
      const allowed = { allow_subscribe_for_client: true };
      const stream = { ...allowed, history_size: 1000, history_ttl: '1m' };
      daemon = await Daemon.start({
        driver,
        config: configuration({
          hook: backend.hooks(['subscribe']),
          namespace: [
            { name: 'quotes', kind: 'value', deliver_every: '100ms', ...allowed },
            { name: 'v', kind: 'value', ...allowed },
            { name: 's', ...stream },
            { name: 'hooked', subscribe_hook: 'subscribe', ...stream },
          ],
        }),
        args: ['--shards', '2'],
      });
    });
    after(async () => {
      clients.forEach((made) => made.disconnect());
      await daemon?.stop();
      await backend?.stop();
    });

    test('a crowd at ten a second and one at one a second: each ends at the truth, none gets more than its rate', async () => {
      const channel = 'quotes:all';
      const readers = await Promise.all(Array.from({ length: crowd.subscribers }, () => reader(daemon.ws, channel)));
      const slow = await reader(daemon.ws, channel, { deliver_every: '1s' });
      await until(() => [...readers, slow].every((one) => one.subscribed), 'all are subscribed');
      const truth = new Map();
      const begun = performance.now();
      for (let n = 0; n < crowd.rate * crowd.seconds;) {
        const due = Math.min(crowd.rate * crowd.seconds, Math.floor(((performance.now() - begun) / 1000) * crowd.rate) + 1);
        const commands = [];
        for (; n < due && commands.length < 100; n += 1) {
          const key = `k${(n * 7919) % crowd.keys}`;
          truth.set(key, n);
          commands.push({ publish: { channel, key, data: n } });
        }
        if (commands.length > 0) await daemon.api('batch', { commands });
        else await sleep(2);
      }
      const right = (one) => one.values.size === truth.size && [...truth].every(([key, value]) => one.values.get(key) === value);
      await until(() => [...readers, slow].every(right), 'everybody has the newest of each key');
      readers.forEach((one) => keepsTo(one.times, 100, 'one of the crowd'));
      keepsTo(slow.times, 1000, 'the slow one');
      assert(slow.count < readers[0].count, `${slow.count} against ${readers[0].count}`);
      [...readers, slow].forEach((one) => one.socket.close());
    });

    test('a token, a hook and the API grant a pace: a stream comes in batches, whole and in order', async () => {
      const paced = async (channel, options, more = () => {}) => {
        const client = sdk(daemon.ws, { token: token('ann') });
        clients.push(client);
        const subscription = watch(client, channel, options);
        const times = [];
        subscription.on('publication', () => times.push(performance.now()));
        subscription.subscribe();
        client.connect();
        await until(() => subscription.seen.subscribed.length > 0, 'subscribed');
        await more(client);
        return { subscription, times };
      };
      const byToken = await paced('s:a', { token: token('ann', { channel: 's:a', deliver_every: 300 }) });
      const byHook = await paced('hooked:a', {});
      const whole = await paced('s:a', {});
      const began = performance.now();
      for (let n = 1; n <= 60; n += 1) {
        await Promise.all([daemon.publish('s:a', n), daemon.publish('hooked:a', n)]);
        await sleep(15);
      }
      const span = performance.now() - began;
      const numbers = Array.from({ length: 60 }, (_, at) => at + 1);
      for (const [who, { subscription, times }] of Object.entries({ byToken, byHook })) {
        await until(() => subscription.seen.publications.length === 60, () => `${who}: all have come`);
        assert.deepEqual(subscription.seen.publications.map(({ data }) => data), numbers);
        keepsTo(times, 300, who);
        const batches = times.filter((at, n) => n === 0 || at - times[n - 1] > 100).length;
        assert(batches <= span / 300 + 2, `${who}: ${batches} batches in ${span} ms`);
      }
      assert.deepEqual(whole.subscription.seen.publications.map(({ data }) => data), numbers);
    });

    test('by the API, for a subscription of the server', async () => {
      const client = sdk(daemon.ws, { token: token('bob') });
      clients.push(client);
      const seen = [];
      client.on('publication', ({ data, tags }) => seen.push([tags.key, data, performance.now()]));
      client.connect();
      await until(() => client.state === 'connected', 'connected');
      await daemon.api('publish', { channel: 'v:server', key: 'x', data: 0 });
      await daemon.api('subscribe', { user: 'bob', channel: 'v:server', deliver_every: '400ms' });
      await until(() => seen.length === 1, 'the value that was there');
      for (let n = 1; n <= 40; n += 1) {
        await daemon.api('publish', { channel: 'v:server', key: 'x', data: n });
        await sleep(20);
      }
      await until(() => seen.at(-1)[1] === 40, 'the newest');
      const times = seen.slice(1).map(([, , at]) => at);
      for (let n = 1; n < times.length; n += 1) assert(times[n] - times[n - 1] > 350, `${times[n] - times[n - 1]} ms`);
      const { status, answer } = await daemon.apiRaw('subscribe', { user: 'bob', channel: 'v:b', deliver_every: '2h' });
      assert.equal(status, 400, JSON.stringify(answer));
    });

    test('a client without an SDK asks for a slower pace in its query', async () => {
      const times = [];
      const values = new Map();
      const loop = lineLoop(daemon.http, { channel: 'v:lines', deliver_every: '300ms' }, ({ data, tags }) => {
        values.set(tags.key, data);
        times.push(performance.now());
      }, () => assert.fail('nothing is lost'));
      await until(() => loop.state.ready === 1, 'the stream is open');
      const began = performance.now();
      for (let n = 1; n <= 60; n += 1) {
        await daemon.api('publish', { channel: 'v:lines', key: `k${n % 3}`, data: n });
        await sleep(15);
      }
      await until(() => values.get('k0') === 60 && values.get('k1') === 58 && values.get('k2') === 59, 'the newest of each');
      const span = performance.now() - began;
      loop.stop();
      keepsTo(times, 300, 'the stream');
      assert(times.length <= (span / 300 + 2) * 3, `${times.length} of 60 in ${span} ms`);
      const wrong = await fetch(`${daemon.http}/stream?channel=v:lines&deliver_every=often`);
      assert.equal(wrong.status, 400);
      await wrong.body?.cancel();
    });
  });
}
