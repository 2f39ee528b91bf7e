// Another process takes the place of a node whose channels are in a store or in an engine: clients see nothing, what was
// acknowledged is there, and there is one writer at any time.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, describe, test } from 'node:test';

import { API_KEY, Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { Nats } from './support/nats.mjs';
import { Redis } from './support/redis.mjs';
import { over, sdk, subscribed, transports } from './support/sdk.mjs';
import { file, folder, running, upgrade } from './support/upgrade.mjs';
import { sleep, until } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
const recoverable = { recoverable: true, positioned: true };

const loads = [];
after(() => loads.forEach((load) => { load.stopped = true; }));

/** Publishes to the channels from several callers, until it is stopped; what was acknowledged, by channel and offset. */
function publishers(nodes, channels, callers = 4) {
  const kept = new Map(channels.map((channel) => [channel, new Map()]));
  const state = { stopped: false, failures: [], kept };
  const caller = async (number) => {
    for (let count = 0; !state.stopped; count += 1) {
      const [channel, data] = [channels[count % channels.length], `${number}-${count}`];
      const response = await fetch(`${nodes[count % nodes.length]}/api/publish`, {
        method: 'POST', headers: { 'X-API-Key': API_KEY }, body: JSON.stringify({ channel, data }),
      }).catch((error) => ({ status: String(error.cause ?? error) }));
      if (response.status !== 200) {
        state.failures.push(response.status);
        await sleep(20);
        continue;
      }
      const { result } = await response.json();
      if (result.offset) {
        assert(!kept.get(channel).has(result.offset), `offset ${result.offset} of ${channel} twice`);
        kept.get(channel).set(result.offset, data);
      } else {
        kept.get(channel).set(data, data);
      }
      await sleep(1);
    }
  };
  const all = range(1, callers).map(caller);
  loads.push(state);
  /** Some more of each channel are acknowledged. */
  state.more = async (count = 5) => {
    const wanted = channels.map((channel) => kept.get(channel).size + count);
    await until(() => channels.every((channel, at) => kept.get(channel).size >= wanted[at]), () => `${state.failures}`);
  };
  state.stop = () => { state.stopped = true; return Promise.all(all); };
  return state;
}

/** Each that was acknowledged has come once, under its offset, and offsets have no hole. */
async function complete(subscription, kept) {
  const { publications } = subscription.seen;
  const last = Math.max(...kept.keys());
  await until(() => publications.at(-1)?.offset >= last, () => `${last}; there is ${publications.at(-1)?.offset}`);
  publications.forEach((publication, at) => at && assert.equal(publication.offset, publications[at - 1].offset + 1));
  const found = new Map(publications.map((publication) => [publication.offset, publication.data]));
  for (const [offset, data] of kept) if (offset >= publications[0].offset) assert.equal(found.get(offset), data, `${offset}`);
  assert.equal(new Set(publications.map((publication) => publication.data)).size, publications.length, 'none twice');
}

const untouched = (client) => assert.deepEqual(client.log, { connecting: [], disconnected: [], errors: [] });
const forget = (client) => Object.values(client.log).forEach((list) => list.splice(0));

for (const driver of drivers) {
  describe(`an upgrade with a store on ${driver}`, { concurrency: true }, () => {
    const durable = (store, more = {}) => configuration({
      driver,
      shards: 2,
      store: { path: store },
      sandbox: { read: [folder] },
      namespace: ['sync', 'async'].map((name) => ({
        ...open, name, durable: name, history_size: 100000, allow_recovery: true, force_recovery: true,
      })),
      client: { recovery_max_publication_limit: 100000 },
      ...more,
    });
    const channels = ['sync:log', 'async:log', 'memory'];
    const place = () => mkdtempSync(path.join(tmpdir(), 'trunkline-kept-'));
    const open_at = async (store, options = {}) => {
      const listen = `127.0.0.1:${await freePort()}`;
      const start = (env) => Daemon.start({ config: durable(store), listen, env });
      const daemon = await start(options.env);
      const client = sdk(daemon.ws, { minReconnectDelay: 20, maxReconnectDelay: 100 });
      const rooms = [];
      for (const channel of channels) rooms.push(await subscribed(client, channel, recoverable));
      forget(client);
      return { start, daemon, client, rooms };
    };

    test('several in a row while publishes go on: each offset once, none lost, and the next start recovers', async () => {
      const top = place();
      const store = path.join(top, 'store');
      const { start, daemon, client, rooms } = await open_at(store);
      const files = [
        file(`${driver}-kept-three.toml`, durable(store, { shards: 3 })),
        file(`${driver}-kept-one.toml`, durable(store, { shards: 1, driver: drivers.find((other) => other !== driver) })),
        file(`${driver}-kept-two.toml`, durable(store)),
      ];
      await daemon.publish('sync:log', 'keyed', { idempotency_key: 'k' });
      const load = publishers([daemon.http], channels);
      let { pid } = daemon;
      for (const at of files) {
        await load.more();
        const said = await upgrade(pid, '--config', at);
        assert.equal(said.code, 0, said.out + said.error + daemon.output);
        ({ pid } = said);
      }
      await load.more();
      await load.stop();
      assert.deepEqual(load.failures, []);
      untouched(client);
      for (const [at, channel] of channels.entries()) await complete(rooms[at], load.kept.get(channel));
      // Keys have moved, and are on disk.
      assert.equal((await daemon.publish('sync:log', 'keyed', { idempotency_key: 'k' })).offset, 1);
      process.kill(pid, 'SIGKILL');
      assert.equal(await daemon.ended(), 0);
      const again = await start();
      await until(() => rooms.every((room) => room.seen.subscribed.length === 2), 'it is back');
      assert.deepEqual([0, 2].map((at) => rooms[at].seen.subscribed[1].recovered), [true, false]);
      assert.ok((await again.publish('async:log', 'after')).offset > Math.max(...load.kept.get('async:log').keys()));
      const { offset } = await again.publish('sync:log', 'keyed', { idempotency_key: 'k' });
      assert.equal(offset, 1);
      const next = await again.publish('sync:log', 'after');
      assert.equal(next.offset, Math.max(...load.kept.get('sync:log').keys()) + 1, 'no jump of what is "sync"');
      await until(() => rooms[0].seen.publications.at(-1).data === 'after', 'it goes on');
      client.disconnect();
      assert.equal(await again.stop(), 0);
      rmSync(top, { recursive: true });
    });

    test('SIGTERM behind an upgrade ends it whole: no offset jumps', async () => {
      const top = place();
      const { start, daemon, client, rooms } = await open_at(path.join(top, 'store'));
      for (const channel of channels) await daemon.publish(channel, 'before');
      const said = await upgrade(daemon.pid);
      assert.equal(said.code, 0, said.out + said.error);
      for (const channel of channels) await daemon.publish(channel, 'behind');
      process.kill(said.pid, 'SIGTERM');
      await daemon.ended();
      await until(() => { try { process.kill(said.pid, 0); return false; } catch { return true; } }, 'it has ended');
      const again = await start();
      await until(() => rooms.every((room) => room.seen.subscribed.length === 2), 'it is back');
      for (const channel of ['sync:log', 'async:log']) {
        assert.equal((await again.publish(channel, 'last')).offset, 3, channel);
      }
      client.disconnect();
      assert.equal(await again.stop(), 0);
      assert.match(again.output, /store .*read in/);
      rmSync(top, { recursive: true });
    });

    // A debug build dies where it is told to. A half of the places for each: what is done there does not know its driver.
    const half = (places) => places.filter((_, at) => at % 2 === drivers.indexOf(driver) % 2);
    for (const fault of half(['new.hello', 'new.parcels', 'new.store', 'new.adopted', 'new.commit', 'new.committed'])) {
      test(`killed at "${fault}": everything stays, and the store goes on`, async () => {
        const parent = place();
        const { start, daemon, client, rooms } = await open_at(path.join(parent, 'store'), {
          env: { TRUNKLINE_FAULT: `${fault}=kill` },
        });
        const load = publishers([daemon.http], channels);
        await load.more();
        const said = await upgrade(daemon.pid);
        assert.equal(said.code, 1, said.out);
        await load.more();
        await load.stop();
        assert.deepEqual(load.failures, []);
        untouched(client);
        for (const [at, channel] of channels.entries()) await complete(rooms[at], load.kept.get(channel));
        await daemon.kill();
        const again = await start();
        await until(() => rooms[0].seen.subscribed.length === 2 && rooms[1].seen.subscribed.length === 2, 'it is back');
        // What is "async" may have lost what came last, and gives no offset twice.
        assert.equal(rooms[0].seen.subscribed[1].recovered, true);
        const top = (channel) => Math.max(...load.kept.get(channel).keys());
        assert.equal((await again.publish('sync:log', 'after')).offset, top('sync:log') + 1);
        assert.ok((await again.publish('async:log', 'after')).offset > top('async:log'));
        client.disconnect();
        assert.equal(await again.stop(), 0);
        rmSync(parent, { recursive: true });
      });
    }

    for (const fault of half(['old.ready', 'old.parcels', 'old.store', 'old.complete', 'old.commit', 'new.begun'])) {
      test(`killed at "${fault}": one process starts again with what is on disk`, async () => {
        const top = place();
        const { daemon, client, rooms } = await open_at(path.join(top, 'store'), {
          env: { TRUNKLINE_FAULT: `${fault}=kill` },
        });
        const acknowledged = [];
        for (const data of range(1, 20)) acknowledged.push((await daemon.publish('sync:log', data)).offset);
        const said = await upgrade(daemon.pid);
        assert.equal(said.code, 1, said.out);
        const started = Number(said.out.match(/process (\d+) is started/)?.[1]);
        const pid = fault.startsWith('old') ? started : daemon.pid;
        running.add(pid);
        await until(() => rooms[0].seen.subscribed.length === 2, () => `the client is back; ${daemon.output}`);
        assert.equal(rooms[0].seen.subscribed[1].recovered, true);
        const next = await daemon.publish('sync:log', 21);
        assert.equal(next.offset, acknowledged.at(-1) + 1);
        await until(() => rooms[0].seen.publications.length === 21, 'it has come');
        assert.deepEqual(rooms[0].seen.publications.map((publication) => publication.data), range(1, 21));
        client.disconnect();
        process.kill(pid, 'SIGTERM');
        await daemon.ended();
        rmSync(top, { recursive: true });
      });
    }

    test('another directory, or none, is refused by name and changes nothing', async () => {
      const top = place();
      const { daemon, client, rooms } = await open_at(path.join(top, 'store'));
      const elsewhere = file(`${driver}-kept-elsewhere.toml`, durable(path.join(top, 'elsewhere')));
      const none = file(`${driver}-kept-none.toml`, configuration({ driver, shards: 2, sandbox: { read: [folder] } }));
      for (const at of [elsewhere, none]) {
        const said = await upgrade(daemon.pid, '--config', at);
        assert.equal(said.code, 1, said.out);
        assert.match(said.error, /store\.path is changed by a restart/);
      }
      await daemon.publish('sync:log', 1);
      await until(() => rooms[0].seen.publications.length === 1, 'it has come');
      untouched(client);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
      rmSync(top, { recursive: true });
    });
  });
}

describe('an upgrade with an engine', () => {
  const servers = [];
  const nodes = [];
  const clients = [];
  const config = (address, kind, more = {}) => configuration({
    engine: { kind, address, timeout: '1s' },
    sandbox: { read: [folder] },
    channel: kind === 'nats' ? { history_size: 0, history_ttl: '0s', presence: false } : {},
    namespace: [{ name: 'live', allow_subscribe_for_client: true }],
    shards: 2,
    ...more,
  });
  const start = async (address, kind, driver, env) => {
    const node = await Daemon.start({ driver, config: config(address, kind, { driver }), env });
    nodes.push(node);
    await until(async () => (await fetch(`${node.http}/health/ready`)).status === 200, () => node.output);
    return node;
  };
  const made = (client) => {
    clients.push(client);
    return client;
  };
  const uids = async (node) => (await node.api('info')).nodes.map((known) => known.uid).sort();

  after(async () => {
    clients.forEach((client) => client.disconnect());
    for (const node of nodes) if (node.exitCode === undefined) assert.equal(await node.stop(), 0, node.output);
    for (const server of servers) await (server.end ?? server.stop).call(server);
  });

  for (const driver of drivers) {
    test(`Redis, on ${driver}: clients of a node see nothing of three of its upgrades while all nodes publish`, async () => {
      const redis = await Redis.start();
      servers.push(redis);
      const [node, other] = [await start(redis.url, 'redis', driver), await start(redis.url, 'redis', driver)];
      await until(async () => (await uids(other)).length === 2, 'they know each other');
      const before = await uids(other);
      const here = [sdk(node.ws), sdk(node.ws, { form: 'protobuf' }), ...transports.map((way) => over(node.http, way))].map(made);
      const rooms = await Promise.all(here.map((client) => subscribed(client, 'log', { ...recoverable, joinLeave: true })));
      const lives = await Promise.all(here.map((client) => subscribed(client, 'live:log')));
      const there = made(sdk(other.ws));
      const far = await subscribed(there, 'log', { ...recoverable, joinLeave: true });
      const joins = far.seen.joins.length;
      await until(async () => (await other.api('presence_stats', { channel: 'log' })).num_clients === here.length + 1, 'all are present');
      [...here, there].forEach(forget);

      const load = publishers([node.http, other.http], ['log', 'live:log']);
      let { pid } = node;
      for (const shards of [3, 1, 2]) {
        await load.more(20);
        const said = await upgrade(pid, '--config', file(`${driver}-engine-${shards}.toml`, config(redis.url, 'redis', { driver, shards })));
        assert.equal(said.code, 0, said.out + said.error + node.output);
        assert.match(said.out, /; *$|waited \d+ ms\s*$/m);
        ({ pid } = said);
        // Nobody joins or leaves by it.
        assert.equal((await other.api('presence_stats', { channel: 'log' })).num_clients, here.length + 1);
      }
      await load.more(20);
      await load.stop();
      assert.deepEqual(load.failures, []);
      for (const room of [...rooms, far]) await complete(room, load.kept.get('log'));
      // Without a log: each once, none left out.
      const live = [...load.kept.get('live:log').keys()].sort();
      for (const { seen } of lives) {
        await until(() => seen.publications.length >= live.length, () => `${seen.publications.length} of ${live.length}`);
        assert.deepEqual(seen.publications.map((publication) => publication.data).sort(), live);
      }
      [...here, there].forEach(untouched);
      assert.deepEqual([far.seen.joins.length - joins, far.seen.leaves.length], [0, 0]);
      assert.deepEqual(await uids(other), before, 'the node goes on under its id');
      // Commands of another node reach clients that moved, and who leaves is seen to leave.
      const ids = Object.keys((await other.api('presence', { channel: 'log' })).presence);
      assert.equal(ids.length, here.length + 1);
      assert.equal((await rooms[0].presenceStats()).numClients, here.length + 1);
      rooms[0].unsubscribe();
      await until(() => far.seen.leaves.length === 1, 'a leave');
      await until(async () => (await other.api('presence_stats', { channel: 'log' })).num_clients === here.length, 'one less');
      // And it recovers elsewhere.
      here[1].disconnect();
      await other.publish('log', 'missed');
      here[1]._endpoint = other.ws;
      here[1].connect();
      await until(() => rooms[1].seen.publications.at(-1).data === 'missed', 'it has recovered');
      assert.equal(rooms[1].seen.subscribed.at(-1).recovered, true);
      clients.splice(0).forEach((client) => client.disconnect());
      process.kill(pid, 'SIGTERM');
      assert.equal(await node.ended(), 0);
    });

    // A share of the places for each: what is done there does not know its driver.
    const places = [['new.listeners', 'new.commit', 'old.cut'], ['new.adopted', 'old.complete']];
    for (const fault of places[drivers.indexOf(driver) % 2]) {
      test(`Redis, on ${driver}, killed at "${fault}": nothing is lost untold`, async () => {
        const redis = servers[0] ?? (servers.push(await Redis.start()), servers[0]);
        const channel = `${driver}-${fault.replace('.', '-')}`;
        const listen = `127.0.0.1:${await freePort()}`;
        const node = await Daemon.start({
          config: config(redis.url, 'redis', { driver }), listen, env: { TRUNKLINE_FAULT: `${fault}=kill` },
        });
        nodes.push(node);
        await until(async () => (await fetch(`${node.http}/health/ready`)).status === 200, () => node.output);
        const other = nodes.find((known) => known !== node && known.exitCode === undefined) ?? node;
        const client = made(sdk(node.ws));
        const room = await subscribed(client, channel, recoverable);
        forget(client);
        const load = publishers([other.http], [channel], 2);
        await load.more();
        const said = await upgrade(node.pid);
        assert.equal(said.code, 1, said.out);
        const stays = fault.startsWith('new');
        const pid = stays ? node.pid : Number(said.out.match(/process (\d+) is started/)?.[1]);
        running.add(pid);
        if (!stays) {
          await until(() => room.seen.subscribed.length === 2, () => `it is back; ${node.output}`);
          assert.equal(room.seen.subscribed[1].recovered, true);
        }
        await load.more();
        await load.stop();
        await complete(room, load.kept.get(channel));
        if (stays) untouched(client);
        client.disconnect();
        process.kill(pid, 'SIGTERM');
        await node.ended();
      });
    }
  }

  test('Redis: who subscribes while messages pass from one process to the other hears 100 and comes back', async () => {
    const redis = servers[0] ?? (servers.push(await Redis.start()), servers[0]);
    const patient = config(redis.url, 'redis', { driver: drivers[0], engine: { kind: 'redis', address: redis.url, timeout: '10s' } });
    const node = await Daemon.start({ driver: drivers[0], config: patient });
    nodes.push(node);
    await until(async () => (await fetch(`${node.http}/health/ready`)).status === 200, () => node.output);
    const there = await subscribed(made(sdk(node.ws)), 'live:cut');
    const client = made(sdk(node.ws));
    const room = await subscribed(client, 'live:cut');
    // Of this channel nothing is asked of Redis then: its node follows it, and it has no log. What nodes say waits, the mark of the
    // old process as well.
    await redis.cli('CLIENT', 'PAUSE', 2000, 'WRITE');
    const moved = upgrade(node.pid);
    let over = false;
    moved.finally(() => { over = true; });
    while (room.seen.errors.length === 0 && !over) {
      room.unsubscribe();
      const before = room.seen.subscribed.length;
      room.subscribe();
      await until(() => room.seen.subscribed.length > before || room.seen.errors.length > 0, 'an answer');
    }
    const said = await moved;
    assert.equal(said.code, 0, said.out + said.error + node.output);
    const { code, temporary } = room.seen.errors[0]?.error ?? {};
    assert.deepEqual([code, temporary], [100, true], JSON.stringify(room.seen.errors));
    await until(() => room.state === 'subscribed', 'it is back');
    await node.publish('live:cut', 1);
    for (const { seen } of [room, there]) {
      await until(() => seen.publications.length === 1, 'it has come');
    }
    assert.deepEqual([client.log.disconnected, client.log.connecting.length], [[], 1]);
    clients.splice(0).forEach((one) => one.disconnect());
    process.kill(said.pid, 'SIGTERM');
    assert.equal(await node.ended(), 0);
  });

  test('another kind of engine is refused by name', async () => {
    const redis = servers[0] ?? (servers.push(await Redis.start()), servers[0]);
    const node = await start(redis.url, 'redis', drivers[0]);
    const memory = file('engine-memory.toml', configuration({ shards: 2, sandbox: { read: [folder] } }));
    const said = await upgrade(node.pid, '--config', memory);
    assert.equal(said.code, 1, said.out);
    assert.match(said.error, /engine\.kind is changed by a restart/);
    await node.publish('log', 1);
  });

  test('NATS: clients of a node see nothing of its upgrade', async () => {
    const nats = await Nats.start();
    servers.push(nats);
    const [node, other] = [await start(nats.url, 'nats', drivers[0]), await start(nats.url, 'nats', drivers[1])];
    const client = made(sdk(node.ws));
    const room = await subscribed(client, 'log');
    forget(client);
    for (const n of range(1, 20)) await other.publish('log', n);
    await until(() => room.seen.publications.length === 20, 'all have come');
    const said = await upgrade(node.pid);
    assert.equal(said.code, 0, said.out + said.error + node.output);
    for (const n of range(21, 40)) await (n % 2 ? node : other).publish('log', n);
    await until(() => room.seen.publications.length >= 40, () => JSON.stringify(room.seen.publications.length));
    // Behind the upgrade two nodes publish: without a log there is no order between them.
    const data = room.seen.publications.map((publication) => publication.data);
    assert.deepEqual(data.slice(0, 20), range(1, 20));
    assert.deepEqual(data.toSorted((a, b) => a - b), range(1, 40));
    untouched(client);
    client.disconnect();
    process.kill(said.pid, 'SIGTERM');
    assert.equal(await node.ended(), 0);
  });
});
