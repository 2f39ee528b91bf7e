// Value channels: the newest publication of each key, for clients of every kind, through breaks, restarts and slow readers.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { API_KEY, Daemon, binary, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { runs, sdk, subscribed, token, watch } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const values = { kind: 'value', allow_subscribe_for_client: true, allow_history_for_client: true };

/** Keeps a map right, as the page about values says. */
function mirror(subscription) {
  const map = new Map();
  map.whole = 0;
  subscription.on('subscribed', (event) => {
    if (event.wasRecovering && event.recovered) return;
    map.clear();
    map.whole += 1;
  });
  subscription.on('publication', ({ data, tags = {} }) => {
    if (tags.removed) map.delete(tags.key ?? '');
    else map.set(tags.key ?? '', data);
  });
  return map;
}

const has = (map, wanted, why) => until(
  () => JSON.stringify([...map].sort()) === JSON.stringify(Object.entries(wanted).sort()),
  () => `${why}: ${JSON.stringify([...map])} is to be ${JSON.stringify(wanted)}`,
);

for (const { driver, form } of runs) {
  describe(`value channels on ${driver}, in ${form}`, () => {
    let daemon;
    const clients = [];
    const client = () => {
      clients.push(sdk(daemon.ws, { form }));
      return clients.at(-1);
    };
    const post = async (method, body) => {
      const response = await fetch(`${daemon.http}${method}`, {
        method: 'POST', headers: { 'X-API-Key': API_KEY }, body: typeof body === 'string' ? body : JSON.stringify(body),
      });
      return response.json();
    };
    const set = async (channel, key, data) => (await post('/api/publish', { channel, key, data })).result.offset;
    const remove = async (channel, key) => (await post('/api/publish', { channel, key, remove: true })).result.offset;

    before(async () => {
      const config = configuration({
        namespace: [
          { name: 'v', ...values, keys_max: 5, key_bytes_max: 10, allow_publish_for_client: true, allow_tags_filter: true },
          { name: 'paced', ...values, deliver_every: '200ms' },
        ],
      });
      daemon = await Daemon.start({ driver, config, args: ['--shards', '2'] });
    });
    after(async () => {
      clients.forEach((made) => made.disconnect());
      await daemon?.stop();
    });

    test('a new subscriber gets the newest of each key, then each change', async () => {
      await set('v:a', 'x', 1);
      await set('v:a', 'x', 2);
      await set('v:a', 'y', 3);
      await set('v:a', 'z', 4);
      await remove('v:a', 'z');
      const subscription = watch(client(), 'v:a');
      const map = mirror(subscription);
      subscription.subscribe();
      clients.at(-1).connect();
      await has(map, { x: 2, y: 3 }, 'all values');
      assert.equal(subscription.seen.publications.length, 2);
      await set('v:a', 'y', 5);
      await remove('v:a', 'x');
      await has(map, { y: 5 }, 'changes');
    });

    test('who comes back gets what has changed, or all of it', async () => {
      for (const key of ['a', 'b', 'c']) await set('v:b', key, 0);
      const own = client();
      const subscription = watch(own, 'v:b');
      const map = mirror(subscription);
      subscription.subscribe();
      own.connect();
      await has(map, { a: 0, b: 0, c: 0 }, 'all values');
      own.disconnect();
      for (const value of [1, 2, 3]) await set('v:b', 'a', value);
      await remove('v:b', 'b');
      const before = subscription.seen.publications.length;
      own.connect();
      await until(() => subscription.seen.subscribed.length === 2, 'the second subscription');
      await has(map, { a: 3, c: 0 }, 'changes');
      assert.deepEqual([subscription.seen.publications.length - before, map.whole], [2, 1]);
      own.disconnect();
      // More removals than are remembered.
      for (let at = 0; at < 8; at += 1) {
        await set('v:b', `k${at}`, at);
        await remove('v:b', `k${at}`);
      }
      own.connect();
      await until(() => subscription.seen.subscribed.length === 3, 'the third subscription');
      await has(map, { a: 3, c: 0 }, 'all values again');
      assert.equal(map.whole, 2);
    });

    test('what is not taken has its code, and versions are of their keys', async () => {
      const code = async (body) => (await post('/api/publish', body)).error?.code ?? 0;
      for (const key of ['1', '2', '3', '4', '5']) await set('v:c', key, key);
      assert.equal(await code({ channel: 'v:c', key: '6', data: 1 }), 106);
      assert.equal(await code({ channel: 'v:c', key: 'elevenbytes', data: 1 }), 107);
      assert.equal(await code({ channel: 'v:c', key: '1', data: 1, skip_history: true }), 107);
      assert.equal(await code({ channel: 'v:c', key: '1', data: 1, spread_ms: 5 }), 107);
      assert.equal(await code({ channel: 'v:c', key: '1', data: 1, tags: { key: '2' } }), 107);
      assert.equal(await code({ channel: 'v:c', key: '1' }), 107, 'no payload');
      assert.equal(await code({ channel: 'plain', key: '1', data: 1 }), 107, 'a stream');
      assert.equal(await remove('v:c', 'unknown'), 5);
      assert.equal(await code({ channel: 'v:c', tags: { key: '1', removed: 'true' } }), 0, 'by tags');
      const publish = async (key, version) => (await post('/api/publish', { channel: 'v:d', key, data: version, version })).result.offset;
      assert.deepEqual([await publish('x', 5), await publish('y', 3), await publish('x', 5), await publish('y', 4)], [1, 2, 2, 3]);
    });

    test('broadcast, batch and the API of former days take keys', async () => {
      const { result } = await post('/api/broadcast', { channels: ['v:e', 'v:f', 'plain'], key: 'x', data: 1 });
      assert.deepEqual(result.responses.map(({ error }) => error?.code ?? 0), [0, 0, 107]);
      await post('/api/batch', { commands: [{ publish: { channel: 'v:e', key: 'y', data: 2 } }] });
      await post('/api', JSON.stringify({ method: 'publish', params: { channel: 'v:e', key: 'x', remove: true } }));
      const { result: history } = await post('/api/history', { channel: 'v:e', limit: 10 });
      assert.deepEqual(history.publications.map(({ data, tags, offset }) => [data, tags, offset]), [[2, { key: 'y' }, 2]]);
    });

    test('what a client publishes is the value of the empty key, and filters choose keys', async () => {
      const own = client();
      const subscription = watch(own, 'v:g', { tagsFilter: { key: 'key', cmp: 'nin', vals: ['x'] } });
      const map = mirror(subscription);
      subscription.subscribe();
      own.connect();
      await until(() => subscription.seen.subscribed.length > 0, 'subscribed');
      await set('v:g', 'x', 1);
      await set('v:g', 'y', 2);
      await own.publish('v:g', 3);
      await has(map, { y: 2, '': 3 }, 'without x');
    });

    test('deliveries come no more often than the namespace says, with the newest of each key', async () => {
      const own = client();
      const subscription = watch(own, 'paced:a');
      const times = new Map();
      subscription.on('publication', ({ tags }) => times.set(tags.key, [...(times.get(tags.key) ?? []), Date.now()]));
      const map = mirror(subscription);
      subscription.subscribe();
      own.connect();
      await until(() => subscription.seen.subscribed.length > 0, 'subscribed');
      const begun = Date.now();
      for (let n = 1; n <= 150; n += 1) await set('paced:a', `k${n % 3}`, n);
      await has(map, { k0: 150, k1: 148, k2: 149 }, 'the newest');
      const windows = Math.ceil((Date.now() - begun) / 200) + 1;
      for (const [key, seen] of times) assert(seen.length <= windows, `${key}: ${seen.length} in ${windows} windows`);
    });

    test('clients without an SDK get all values, then changes, and hear when what they have is to be forgotten', async () => {
      await set('v:h', 'x', 1);
      await set('v:h', 'y', 2);
      const get = async (since) => {
        const response = await fetch(`${daemon.http}/poll?channel=v:h&wait=0&limit=1${since ? `&position=${encodeURIComponent(since)}` : ''}`);
        return response.json();
      };
      const first = await get();
      assert.deepEqual(first.messages.map(({ data, tags }) => [data, tags.key]), [[1, 'x'], [2, 'y']], 'all of them at once');
      await set('v:h', 'x', 3);
      const second = await get(first.position);
      assert.deepEqual(second.messages.map(({ data, tags }) => [data, tags.key]), [[3, 'x']]);
      assert.equal(second.reset, undefined);
      for (let at = 0; at < 8; at += 1) {
        await set('v:h', `k${at}`, at);
        await remove('v:h', `k${at}`);
      }
      const third = await get(first.position);
      assert.deepEqual([third.reset, third.messages.map(({ data }) => data)], [['v:h'], [2, 3]]);
    });
  });
}

for (const driver of drivers) {
  test(`values come back after kill -9, and compaction keeps the newest of each key, on ${driver}`, async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-values-'));
    const port = await freePort();
    const config = configuration({
      store: { path: path.join(folder, 'store'), segment_bytes: '1MiB', bytes_max: '32MiB', compact_interval: '1s' },
      namespace: [{ name: 'v', ...values, durable: 'sync' }],
    });
    const start = () => Daemon.start({ driver, config, listen: `127.0.0.1:${port}` });
    let daemon = await start();
    const client = sdk(daemon.ws);
    try {
      const subscription = watch(client, 'v:a');
      const map = mirror(subscription);
      subscription.subscribe();
      client.connect();
      await until(() => subscription.seen.subscribed.length > 0, 'subscribed');
      const truth = {};
      const filler = 'x'.repeat(60_000);
      for (let round = 0; round < 3; round += 1) {
        // Some at a time: above 4 MiB on their way to the disk the store says that it does not keep up.
        for (let from = 0; from < 120; from += 40) {
          await Promise.all(Array.from({ length: 40 }, async (_, place) => {
            const at = from + place;
            const key = `k${at % 4}`;
            await daemon.api('publish', { channel: 'v:a', key, data: `${round}-${at}-${filler}`, version: round * 1000 + at });
          }));
        }
        for (let at = 116; at < 120; at += 1) truth[`k${at % 4}`] = `${round}-${at}`;
        await daemon.api('publish', { channel: 'v:a', key: `gone${round}`, data: 1 });
        await daemon.api('publish', { channel: 'v:a', key: `gone${round}`, remove: true });
        const away = new Promise((resolve) => client.once('connecting', resolve));
        process.kill(daemon.pid, 'SIGKILL');
        await away;
        await daemon.ended();
        daemon = await start();
        // One may be deleted between the two.
        const length = (name) => statSync(path.join(folder, 'store', name), { throwIfNoEntry: false })?.size ?? 0;
        const size = () => readdirSync(path.join(folder, 'store')).reduce((sum, name) => sum + length(name), 0);
        await until(() => size() < 3_000_000, () => `four values are left of the store: ${size()} bytes`);
        const short = () => new Map([...map].map(([key, value]) => [key, String(value).slice(0, String(value).lastIndexOf('-'))]));
        await until(
          () => JSON.stringify([...short()].sort()) === JSON.stringify(Object.entries(truth).sort()) && client.state === 'connected',
          () => `round ${round}: ${JSON.stringify([...short()])}`,
        );
        const { publications } = await daemon.api('history', { channel: 'v:a', limit: 100 });
        assert.deepEqual(publications.map(({ tags }) => tags.key).sort(), ['k0', 'k1', 'k2', 'k3']);
        // A version of before the restart is an old one.
        const { offset } = await daemon.api('publish', { channel: 'v:a', key: 'k3', data: 'old', version: 1 });
        assert.equal(offset, publications.reduce((most, publication) => Math.max(most, publication.offset), offset));
      }
    } finally {
      client.disconnect();
      await daemon.stop();
      rmSync(folder, { recursive: true });
    }
  });
}

for (const driver of drivers) {
  test(`another process goes on with the values, their versions, what waits, each pace, notices and counts, on ${driver}`, async () => {
    const port = await freePort();
    const notices = { deliver: 'notice', history_size: 100, history_ttl: '60s', force_recovery: true, allow_subscribe_for_client: true };
    const config = configuration({
      namespace: [
        { name: 'v', ...values }, { name: 'slow', ...values, deliver_every: '1s' },
        { name: 'feed', ...notices, allow_history_for_client: true }, { name: 'gathered', ...notices, batch_max_delay: '1s' },
        { name: 'room', occupancy: 'v:rooms', allow_subscribe_for_client: true },
      ],
    });
    const daemon = await Daemon.start({ driver, config, listen: `127.0.0.1:${port}` });
    const client = sdk(daemon.ws, { token: token('ann') });
    const paced = { token: token('ann', { channel: 'v:paced', deliver_every: '1s' }) };
    const channels = { 'v:a': {}, 'slow:a': {}, 'v:paced': paced };
    const subscriptions = Object.entries(channels).map(([channel, options]) => watch(client, channel, options));
    const maps = subscriptions.map(mirror);
    subscriptions.forEach((subscription) => subscription.subscribe());
    client.connect();
    await until(() => subscriptions.every(({ seen }) => seen.subscribed.length === 1), 'subscribed');
    const feeds = await Promise.all(['feed:a', 'gathered:a'].map((channel) => subscribed(client, channel)));
    const announce = (data) => Promise.all(['feed:a', 'gathered:a'].map((channel) => fetch(`http://127.0.0.1:${port}/api/publish`, {
      method: 'POST', headers: { 'X-API-Key': API_KEY }, body: JSON.stringify({ channel, data }),
    })));
    const announced = (offset) => until(
      () => feeds.every(({ seen }) => seen.publications.at(-1)?.offset === offset),
      () => `${offset} is announced: ${feeds.map(({ seen }) => seen.publications.at(-1)?.offset)}`,
    );
    const watched = watch(client, 'v:rooms');
    const counts = mirror(watched);
    watched.subscribe();
    const guests = [sdk(daemon.ws), sdk(daemon.ws)];
    await Promise.all(guests.map((guest) => subscribed(guest, 'room:1')));
    await has(counts, { 'room:1': { num_clients: 2 } }, 'two are in the room');
    for (const data of [1, 2, 3]) await announce(data);
    const publish = (key, data, version) => Promise.all(Object.keys(channels).map((channel) => fetch(`http://127.0.0.1:${port}/api/publish`, {
      method: 'POST', headers: { 'X-API-Key': API_KEY }, body: JSON.stringify({ channel, key, data, version }),
    })));
    for (let n = 1; n <= 50; n += 1) await publish(`k${n % 5}`, n, n);
    const child = spawn(binary, ['upgrade', '--pid', String(daemon.pid)]);
    let said = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (said += text));
    const code = await new Promise((resolve) => child.on('close', resolve));
    const next = Number(said.match(/process (\d+) \(trunkline/)?.[1]);
    try {
      assert.equal(code, 0, said);
      await publish('k0', 'an old version', 3);
      await publish('k1', 100, 100);
      for (const map of maps) await has(map, { k0: 50, k1: 100, k2: 47, k3: 48, k4: 49 }, 'the newest of each key');
      // What waited to be announced is, and what comes then; who is in a room is counted on.
      await announced(3);
      await announce(4);
      await announced(4);
      for (const { seen } of feeds) {
        const offsets = seen.publications.map(({ offset }) => offset);
        assert.deepEqual(offsets, [...new Set(offsets)].sort(), 'in order, and each once');
        assert.ok(seen.publications.every(({ data }) => data === null));
      }
      const { publications } = await feeds[0].history({ limit: 10 });
      assert.deepEqual(publications.map(({ data }) => data), [1, 2, 3, 4]);
      guests[0].disconnect();
      await has(counts, { 'room:1': { num_clients: 1 } }, 'one has left the room');
      guests[1].disconnect();
      await has(counts, {}, 'the room is empty');
      assert([...subscriptions, ...feeds, watched].every(({ seen }) => seen.subscribed.length === 1), 'nobody has noticed');
    } finally {
      [client, ...guests].forEach((made) => made.disconnect());
      if (next) process.kill(next, 'SIGKILL');
    }
  });
}
