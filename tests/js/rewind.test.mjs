// Reading by time, and what a new subscriber gets of what was published before it came.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { Redis } from './support/redis.mjs';
import { connected, received, sdk, subscribed, token } from './support/sdk.mjs';
import { lineLoop } from './support/unidirectional.mjs';
import { sleep, until } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
const folders = [];
const folder = () => {
  folders.push(mkdtempSync(path.join(tmpdir(), 'trunkline-rewind-')));
  return folders.at(-1);
};
after(() => folders.forEach((made) => rmSync(made, { recursive: true })));

/** Where channels live: in memory, on disk, and in Redis. */
const places = [
  { name: 'memory', driver: drivers[0] },
  { name: 'the store', driver: drivers[1], durable: 'sync' },
  { name: 'Redis', driver: drivers[0], redis: true },
];

for (const { name, driver, durable = 'no', redis } of places) {
  describe(`reading by time and rewinding in ${name}, on ${driver}`, () => {
    let daemon;
    let server;
    let backend;
    let middle;
    const clients = [];
    const client = (options = {}) => {
      clients.push(sdk(daemon.ws, options));
      return clients.at(-1);
    };
    const get = async (url) => {
      const response = await fetch(`${daemon.http}${url}`);
      return { status: response.status, ...(await response.json()) };
    };
    const data = (answer) => answer.messages.map((message) => message.data);

    before(async () => {
      if (redis) server = await Redis.start();
      backend = await Backend.start({
        connect: ({ transport }) => ({ result: transport === 'websocket' ? { subs: { 'log:a': { rewind: '1h' } } } : {} }),
        subscribe: ({ channel }) => ({ result: channel === 'asked:none' ? { rewind: 0 } : { rewind: 3 } }),
      });
      const kept = { ...open, history_size: 300, durable };
      const config = configuration({
        store: durable === 'no' ? {} : { path: path.join(folder(), 'store') },
        engine: redis ? { kind: 'redis', address: server.url } : {},
        client: { recovery_max_publication_limit: 5, connect_hook: 'connect' },
        hook: backend.hooks(['connect', 'subscribe']),
        namespace: [
          { name: 'log', ...kept },
          { name: 'last', ...kept, rewind: '2' },
          { name: 'asked', ...kept, subscribe_hook: 'subscribe' },
          { name: 'cache', ...kept, recovery_mode: 'cache', rewind: 3 },
          { name: 'long', ...kept, history_size: 301 },
          { name: 'closed', ...kept, allow_recovery: false },
          { name: 'live', allow_subscribe_for_client: true },
        ],
      });
      const start = () => Daemon.start({ driver, config, args: ['--shards', '2'] });
      daemon = await start();
      if (redis) await until(async () => (await fetch(`${daemon.http}/health/ready`)).status === 200, 'it is ready');
      const all = ['log:a', 'last:a', 'asked:a', 'asked:none', 'cache:a', 'closed:a'];
      const publish = (numbers) => Promise.all(all.map(async (channel) => {
        for (const n of numbers) await daemon.publish(channel, n);
      }));
      await publish(range(1, 4));
      // Longer than clocks are coarse, and than a second is cut.
      await sleep(1100);
      middle = Date.now();
      await sleep(20);
      await publish(range(5, 8));
      if (durable === 'no') return;
      // Times are those of before the restart.
      assert.equal(await daemon.stop(), 0);
      daemon = await start();
    });

    after(async () => {
      clients.forEach((made) => made.disconnect());
      assert.equal(await daemon.stop(), 0, daemon.output);
      await backend.stop();
      if (server) await server.end();
    });

    test('history is read from a time on, forwards, backwards and in pages', async () => {
      const read = async (query) => data(await get(`/history?channel=log:a&since_ms=${query}`));
      assert.deepEqual(await read(middle), [5, 6, 7, 8]);
      assert.deepEqual(await read(`${middle}&reverse=true`), [8, 7, 6, 5]);
      assert.deepEqual(await read(`${middle}&limit=2&reverse=true`), [8, 7]);
      assert.deepEqual(await read(0), range(1, 8));
      const page = await get(`/history?channel=log:a&since_ms=${middle}&limit=2`);
      assert.deepEqual(data(page), [5, 6]);
      assert.deepEqual(data(await get(`/history?channel=log:a&position=${page.position}`)), [7, 8]);
      const future = await get(`/history?channel=log:a&since_ms=${Date.now() + 60_000}`);
      assert.deepEqual([data(future), future.reset], [[], undefined]);

      const api = async (body) => {
        const { publications } = await daemon.api('history', { channel: 'log:a', limit: 100, ...body });
        return publications.map((publication) => publication.data);
      };
      assert.deepEqual(await api({ since_ms: middle }), [5, 6, 7, 8]);
      assert.deepEqual(await api({ since_ms: middle, limit: 3, reverse: true }), [8, 7, 6]);
      const none = await daemon.api('history', { channel: 'log:a', since_ms: middle });
      assert.deepEqual([none.publications, none.offset], [[], 8]);
    });

    test('what contradicts itself is refused', async () => {
      const page = await get('/history?channel=log:a&limit=1');
      const refusals = [
        [`/history?channel=log:a&since_ms=1&position=${page.position}`, 400, /only one/],
        ['/history?channel=log:a&since_ms=soon', 400, /malformed since_ms/],
        ['/history?channel=log:a&rewind=5', 400, /since_ms/],
        ['/poll?channel=log:a&wait=0&since_ms=1', 400, /rewind/],
        ['/poll?channel=log:a&wait=0&rewind=5x', 400, /like 10 or 5m/],
        ['/poll?channel=live:a&wait=0&rewind=5', 404, /no history/],
        ['/poll?channel=closed:a&wait=0&rewind=5', 403, /./],
      ];
      for (const [url, status, detail] of refusals) {
        const answer = await get(url);
        assert.deepEqual([answer.status, detail.test(answer.detail || answer.title)], [status, true], JSON.stringify([url, answer]));
      }
      const { epoch } = await daemon.api('history', { channel: 'log:a' });
      const both = { channel: 'log:a', limit: 1, since: { offset: 1, epoch }, since_ms: 1 };
      assert.equal((await daemon.apiRaw('history', both)).answer.error.code, 107);
      const long = await daemon.apiRaw('history', { channel: 'long:a', limit: 1, since_ms: 1 });
      // Redis knows no times: what is more than one read cannot be searched.
      assert.equal(long.answer.error?.code, redis ? 108 : undefined);
    });

    test('a client without the protocol gets what it asks for, and goes on from there', async () => {
      const poll = async (query) => data(await get(`/poll?wait=0&channel=log:b&channel=log:a&${query}`));
      assert.deepEqual(await poll('rewind=2'), [7, 8]);
      assert.deepEqual(await poll('rewind=1h'), [4, 5, 6, 7, 8], 'at most what is recovered at once');
      assert.deepEqual(await poll(''), []);
      const age = Math.ceil((Date.now() - middle) / 1000) - 1;
      // Times are cut to the second.
      const recent = await poll(`rewind=${Math.max(age, 1)}s`);
      assert.deepEqual(recent.slice(-1), [8]);
      const shown = [];
      const loop = lineLoop(daemon.http, 'channel=log:a&rewind=3', (message) => shown.push(message.data), () => shown.push('reset'));
      await until(() => shown.length === 3, () => JSON.stringify(shown));
      await daemon.publish('log:a', 9);
      await until(() => shown.length === 4, () => JSON.stringify(shown));
      loop.stop();
      assert.deepEqual(shown, [6, 7, 8, 9]);
      // The position goes before the rewind of the same query, as browsers repeat it.
      const first = await get('/poll?wait=0&channel=log:a&rewind=3&limit=1');
      assert.deepEqual(data(first), [7]);
      assert.deepEqual(data(await get(`/poll?wait=0&channel=log:a&rewind=3&position=${first.position}`)), [8, 9]);
    });

    test('a subscriber gets what its namespace, its token or the backend grants', async () => {
      const one = client();
      one.connect();
      const seen = (room) => room.seen.publications.map((publication) => publication.data);
      const rooms = {
        'last:a': [7, 8], 'asked:a': [6, 7, 8], 'asked:none': [], 'cache:a': [6, 7, 8], 'closed:a': [],
      };
      for (const [channel, expected] of Object.entries(rooms)) {
        const room = await subscribed(one, channel);
        assert.equal(room.seen.subscribed[0].wasRecovering, false);
        await daemon.publish(channel, 'live');
        await received(room, [...expected, 'live']);
        assert.deepEqual(seen(room), [...expected, 'live'], channel);
      }
      const granted = client({ token: token('bob') });
      granted.connect();
      const claims = { channel: 'closed:a', rewind: '1h' };
      const room = await subscribed(granted, 'closed:a', { token: token('bob', claims) });
      await received(room, [5, 6, 7, 8, 'live']);
      assert.equal(granted.log.errors.length, 0);
      const wrong = await get(`/poll?wait=0&subscription_token=${token('', { channel: 'log:a', rewind: 'soon' })}`);
      assert.equal(wrong.status, 401);
    });

    test('subscriptions of the server begin as they were granted, and return to where they were', async () => {
      const one = client();
      const seen = [];
      one.on('publication', ({ channel, data: payload }) => seen.push([channel, payload]));
      // Its connect hook names the channel.
      await connected(one);
      await until(() => seen.length === 5, () => JSON.stringify(seen));
      assert.deepEqual(seen, [5, 6, 7, 8, 9].map((n) => ['log:a', n]));
      one.disconnect();
      await daemon.publish('log:a', 10);
      await connected(one);
      await until(() => seen.length === 6, () => JSON.stringify(seen));
      assert.deepEqual(seen.at(-1), ['log:a', 10]);
      const two = client({ token: token('carol', { subs: { 'log:a': { rewind: 1 } } }) });
      const last = [];
      two.on('publication', ({ data: payload }) => last.push(payload));
      await connected(two);
      await daemon.publish('log:a', 11);
      await until(() => last.length === 2, () => JSON.stringify(last));
      assert.deepEqual(last, [10, 11]);
    });
  });
}
