// Channels in Redis: nodes share them, and what each does when Redis does not do what it should.

import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';

import { Centrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

import { Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { Redis } from './support/redis.mjs';
import { over, received, sdk, subscribed, transports } from './support/sdk.mjs';
import { next, until } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
const recoverable = { recoverable: true, positioned: true };

/** A node whose channels are there. */
const config = (address, more = {}, channel = {}) => configuration({
  engine: { kind: 'redis', address, timeout: '1s', ...more },
  channel: { ...open, ...channel },
  namespace: [
    { name: 'live', allow_subscribe_for_client: true, allow_publish_for_client: true },
    { name: 'files', ...open, payload: 'bytes' },
    { name: 'short', ...open, history_size: 3, allow_subscribe_for_client: true },
  ],
});

const start = (address, { driver = drivers[0], more, channel, args = ['--shards', '2'] } = {}) =>
  Daemon.start({ driver, config: config(address, more, channel), args });

const readiness = async (daemon) => {
  const response = await fetch(`${daemon.http}/health/ready`);
  return { status: response.status, ...(await response.json()) };
};

const ready = (daemon) => until(async () => (await readiness(daemon)).status === 200, () => daemon.output);

describe('nodes on one Redis', () => {
  let redis;
  let nodes;
  const clients = [];
  const client = (node, options = {}) => {
    const made = sdk(node.ws, options);
    clients.push(made);
    return made;
  };

  before(async () => {
    redis = await Redis.start();
    // Both drivers, and one of them twice.
    nodes = await Promise.all([0, 1, 2].map((at) => start(redis.url, { driver: drivers[at % 2] })));
    await Promise.all(nodes.map(ready));
  });

  after(async () => {
    clients.forEach((made) => made.disconnect());
    for (const node of nodes) assert.equal(await node.stop(), 0, node.output);
    await redis.end();
  });

  test('what is published at any node reaches subscribers of all, in one order, with one offset', async () => {
    const rooms = await Promise.all(nodes.map((node) => subscribed(client(node), 'news', recoverable)));
    const positions = [];
    for (const n of range(1, 30)) positions.push(await nodes[n % 3].publish('news', n));
    assert.deepEqual(positions.map((position) => position.offset), range(1, 30));
    assert.equal(new Set(positions.map((position) => position.epoch)).size, 1);
    for (const room of rooms) {
      await received(room, range(1, 30));
      assert.deepEqual(room.seen.publications.map((publication) => publication.offset), range(1, 30));
    }
    const history = await nodes[2].api('history', { channel: 'news', limit: 3, reverse: true });
    assert.deepEqual(history.publications.map((publication) => publication.data), [30, 29, 28]);
    assert.deepEqual([history.offset, history.epoch], [30, positions[0].epoch]);
  });

  test('many publishers at once: every subscriber has one order', async () => {
    const rooms = await Promise.all(nodes.map((node) => subscribed(client(node), 'busy', recoverable)));
    await Promise.all(range(0, 299).map((n) => nodes[n % 3].publish('busy', n)));
    await until(() => rooms.every((room) => room.seen.publications.length === 300), 'all are there');
    const orders = rooms.map((room) => JSON.stringify(room.seen.publications.map((publication) => publication.data)));
    assert.equal(new Set(orders).size, 1);
    assert.deepEqual(rooms[0].seen.publications.map((publication) => publication.offset), range(1, 300));
  });

  test('what Redis holds is the published layout, byte for byte', async () => {
    await redis.cli('DEL', 'centrifugo.stream.layout', 'centrifugo.stream.meta.layout');
    const { epoch } = await nodes[0].publish('layout', { a: 1 }, { idempotency_key: 'k', tags: { t: 'v' } });
    assert.equal(await redis.cli('HGET', 'centrifugo.stream.meta.layout', 'e'), epoch);
    assert.equal(await redis.cli('HGET', 'centrifugo.stream.meta.layout', 's'), '1');
    assert.deepEqual((await redis.cli('HGETALL', 'centrifugo.result.layout.k')).split('\n'), ['e', epoch, 's', '1']);
    const entry = (await redis.cli('XRANGE', 'centrifugo.stream.layout', '-', '+')).split('\n');
    assert.deepEqual(entry.slice(0, 2), ['1-0', 'd']);
    // Field 4 is the payload, 7 a tag, 9 the time.
    const message = entry.slice(2).join('\n');
    assert.ok(message.startsWith('"\u0007{"a":1}:\u0006\n\u0001t\u0012\u0001vH'), JSON.stringify(message));
    for (const key of ['centrifugo.stream.layout', 'centrifugo.stream.meta.layout', 'centrifugo.result.layout.k']) {
      assert.ok(Number(await redis.cli('TTL', key)) > 0, key);
    }
    const here = await subscribed(client(nodes[1]), 'layout', recoverable);
    await until(async () => (await redis.cli('HLEN', 'centrifugo.presence.data.layout')) === '1', 'presence is there');
    assert.equal(await redis.cli('ZCARD', 'centrifugo.presence.expire.layout'), '1');
    here.unsubscribe();
    await until(async () => (await redis.cli('HLEN', 'centrifugo.presence.data.layout')) === '0', 'presence is gone');
  });

  test('messages and keys of a Centrifugo node are taken', async () => {
    const room = await subscribed(client(nodes[0]), 'theirs', { ...recoverable, joinLeave: true });
    const top = (await nodes[1].api('history', { channel: 'theirs', limit: 0 }));
    assert.equal(top.offset ?? 0, 0);
    // As its script does: position, stream, Pub/Sub.
    const publication = '"\u0007{"b":2}';
    await redis.cli('HINCRBY', 'centrifugo.stream.meta.theirs', 's', 1);
    await redis.cli('XADD', 'centrifugo.stream.theirs', 'MAXLEN', 10, 1, 'd', publication);
    await redis.cli('PUBLISH', 'centrifugo.client.theirs', `__p1:1:${top.epoch}__${publication}`);
    await received(room, [{ b: 2 }]);
    // A delta, without history, and a join.
    await redis.cli('HINCRBY', 'centrifugo.stream.meta.theirs', 's', 1);
    await redis.cli('XADD', 'centrifugo.stream.theirs', 'MAXLEN', 10, 2, 'd', '"\u00013');
    await redis.cli('PUBLISH', 'centrifugo.client.theirs', `__d1:2:${top.epoch}:9:${publication}:3:"\u00013`);
    await redis.cli('PUBLISH', 'centrifugo.client.theirs', '"\u00014');
    await received(room, [{ b: 2 }, 3, 4]);
    await redis.cli('PUBLISH', 'centrifugo.client.theirs', '__j__\n\u0003bob\u0012\u0002c9');
    await until(() => room.seen.joins.some((join) => join.info.user === 'bob' && join.info.client === 'c9'), 'a join');
    // What no node writes is dropped, and the next is taken.
    await redis.cli('PUBLISH', 'centrifugo.client.theirs', '__zz__');
    await redis.cli('PUBLISH', 'centrifugo.client.theirs', 'hello');
    await nodes[2].publish('theirs', 5);
    await received(room, [{ b: 2 }, 3, 4, 5]);
  });

  test('bytes are in Redis as they are, from here and from a Centrifugo node', async () => {
    const made = new Centrifuge(nodes[1].ws, { websocket: WebSocket });
    clients.push(made);
    const sub = made.newSubscription('files:a', recoverable);
    const got = [];
    sub.on('publication', ({ data }) => got.push(Buffer.from(data).toString('base64')));
    const done = next(sub, 'subscribed');
    sub.subscribe();
    made.connect();
    await done;
    await nodes[0].api('publish', { channel: 'files:a', b64data: '/woA' });
    await made.publish('files:a', Uint8Array.of(0xc3, 0x28, 10));
    await until(() => got.length === 2, () => `${got}`);
    // A text that is no JSON, which a shell can say.
    const { epoch } = await nodes[2].api('history', { channel: 'files:a', limit: 0 });
    await redis.cli('HINCRBY', 'centrifugo.stream.meta.files:a', 's', 1);
    await redis.cli('XADD', 'centrifugo.stream.files:a', 'MAXLEN', 10, 3, 'd', '"\u0002hi');
    await redis.cli('PUBLISH', 'centrifugo.client.files:a', `__p1:3:${epoch}__"\u0002hi`);
    const wanted = ['/woA', 'wygK', 'aGk='];
    await until(() => got.length === 3, () => `${got}`);
    assert.deepEqual(got, wanted);
    for (const node of nodes) {
      const { publications } = await node.api('history', { channel: 'files:a', limit: 10 });
      assert.deepEqual(publications.map(({ b64data }) => b64data), wanted);
    }
    await assert.rejects(nodes[0].api('publish', { channel: 'plain', b64data: '/woA' }), /107/);
  });

  test('a client that hops between nodes recovers what it missed, once and in order', async () => {
    let at = 0;
    const hopping = client(nodes[0]);
    const room = await subscribed(hopping, 'hops', recoverable);
    await nodes[2].publish('hops', 1);
    await received(room, [1]);
    for (const hop of range(1, 4)) {
      hopping.disconnect();
      await nodes[hop % 3].publish('hops', hop * 2);
      await nodes[(hop + 1) % 3].publish('hops', hop * 2 + 1);
      at = hop % 3;
      hopping._endpoint = nodes[at].ws;
      hopping.connect();
      await received(room, range(1, hop * 2 + 1));
      const event = room.seen.subscribed.at(-1);
      assert.deepEqual([event.wasRecovering, event.recovered], [true, true], `hop ${hop}`);
    }
    assert.deepEqual(room.seen.publications.map((publication) => publication.offset), range(1, 9));
  });

  test('commands of clients without WebSocket may come to any node, and reach their client in order', async () => {
    await until(async () => (await nodes[1].api('info')).nodes.length === 3, 'nodes know each other');
    for (const way of transports) {
      const name = `carried-${way.transport}-${way.form}`;
      const made = over(nodes[0].http, way, { emulationEndpoint: `${nodes[1].http}/emulation` });
      clients.push(made);
      const room = await subscribed(made, name, recoverable);
      for (const n of range(1, 20)) await made.publish(name, n);
      await received(room, range(1, 20));
      assert.equal((await room.history({ limit: 3 })).publications.length, 3);
      assert.equal((await room.presenceStats()).numClients, 1);
      made.startBatching();
      const batch = range(21, 40).map((n) => made.publish(name, n));
      made.stopBatching();
      await Promise.all(batch);
      await received(room, range(1, 40));
      room.unsubscribe();
      await until(async () => (await nodes[2].api('presence_stats', { channel: name })).num_clients === 0, 'it has left');
      assert.deepEqual(made.log, { connecting: [made.log.connecting[0]], disconnected: [], errors: [] });
    }
    assert.equal((await nodes[1].metrics()).get('trunkline_emulations_refused_total'), 0);
  });

  test('commands for a client of another node follow one another; those for a node that is gone are answered 404', async () => {
    const doomed = await start(redis.url);
    await ready(doomed);
    await until(async () => (await nodes[1].api('info')).nodes.length === 4, 'it is known');
    const stream = await fetch(`${doomed.http}/connection/http_stream`, { method: 'POST', body: '{"id":1,"connect":{}}' });
    const reader = stream.body.getReader();
    let text = '';
    const read = async (wanted) => {
      while (!wanted(text)) text += Buffer.from((await reader.read()).value ?? '').toString();
    };
    await read((so) => so.includes('\n'));
    const { session, node } = JSON.parse(text.split('\n')[0]).connect;
    const emulate = (data, more = {}) => fetch(`${nodes[1].http}/emulation`, {
      method: 'POST', body: JSON.stringify({ session, node, data, ...more }),
    }).then((response) => response.status);
    // Requests that follow one another on one connection, none of which waits for the answer of the one before.
    const bodies = range(2, 60).map((id) => JSON.stringify({ session, node, data: `{"id":${id},"presence":{"channel":"a"}}` }));
    const { hostname, port } = new URL(nodes[1].http);
    const socket = connect(Number(port), hostname);
    socket.write(bodies.map((body) => `POST /emulation HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`).join(''));
    let answers = '';
    socket.on('data', (bytes) => { answers += bytes; });
    await until(() => answers.match(/HTTP\/1\.1 204/g)?.length === bodies.length, () => answers);
    socket.destroy();
    await read((so) => so.trim().split('\n').filter((line) => line.includes('"id"')).length >= 60);
    const ids = text.trim().split('\n').map((line) => JSON.parse(line).id).filter(Boolean);
    assert.deepEqual(ids, range(1, 60));
    assert.equal(await emulate('{}', { node: 'nobody' }), 404);
    assert.equal(await emulate('{}', { session: '00000000-0000-4000-8000-000000000000' }), 404);
    const raw = Buffer.from([0x0a, node.length, ...Buffer.from(node), 0x12, session.length, ...Buffer.from(session), 0x1a, 2, 8, 1]);
    const other = await fetch(`${nodes[1].http}/emulation`, {
      method: 'POST', body: raw, headers: { 'Content-Type': 'application/octet-stream' },
    });
    assert.equal(other.status, 415, 'it reads JSON');
    await doomed.kill();
    assert.equal(await emulate('{}'), 404);
    await until(async () => (await nodes[1].api('info')).nodes.length === 3, 'it is forgotten');
    assert.equal(await emulate('{}'), 404);
  });

  test('presence, its numbers, joins and leaves are of all nodes', async () => {
    const watching = await subscribed(client(nodes[0]), 'people', { joinLeave: true });
    const others = await Promise.all([1, 2].map((at) => subscribed(client(nodes[at]), 'people')));
    await until(() => watching.seen.joins.length >= 3, () => JSON.stringify(watching.seen.joins));
    for (const node of nodes) {
      await until(async () => Object.keys((await node.api('presence', { channel: 'people' })).presence).length === 3, 'three');
      const { num_clients: numClients, num_users: numUsers } = await node.api('presence_stats', { channel: 'people' });
      assert.deepEqual([numClients, numUsers], [3, 1]);
    }
    assert.equal((await watching.presenceStats()).numClients, 3);
    others[0].unsubscribe();
    await until(() => watching.seen.leaves.length === 1, 'a leave');
    await until(async () => (await nodes[2].api('presence_stats', { channel: 'people' })).num_clients === 2, 'two');
  });

  test('keys and versions hold for all nodes', async () => {
    const room = await subscribed(client(nodes[0]), 'once', recoverable);
    const first = await nodes[0].publish('once', 1, { idempotency_key: 'a' });
    const again = await nodes[1].publish('once', 1, { idempotency_key: 'a' });
    assert.deepEqual(again, first);
    await nodes[0].publish('once', 2, { version: 5 });
    await nodes[1].publish('once', 3, { version: 4 });
    const last = await nodes[2].publish('once', 4, { version: 6 });
    assert.equal(last.offset, 3);
    await received(room, [1, 2, 4]);
    const live = await subscribed(client(nodes[0]), 'live:x');
    await nodes[1].publish('live:x', 1, { idempotency_key: 'b' });
    await nodes[2].publish('live:x', 1, { idempotency_key: 'b' });
    await nodes[2].publish('live:x', 2);
    await received(live, [1, 2]);
    await nodes[1].api('history_remove', { channel: 'once' });
    assert.deepEqual((await nodes[0].api('history', { channel: 'once', limit: 10 })).publications, []);
  });

  test('commands of the API reach connections of every node, and info names all', async () => {
    const there = await subscribed(client(nodes[2]), 'commands');
    const [id] = Object.keys((await nodes[0].api('presence', { channel: 'commands' })).presence);
    const ended = new Promise((resolve) => there.on('unsubscribed', resolve));
    await nodes[0].api('unsubscribe', { user: '', client: id, channel: 'commands' });
    assert.equal((await ended).code, 2000);
    await until(async () => (await nodes[1].api('info')).nodes.length === 3, async () => JSON.stringify(await nodes[1].api('info')));
    await nodes[0].api('disconnect', { user: '', client: id, disconnect: { code: 4501, reason: 'over' } });
    await until(() => clients.at(-1).state === 'disconnected', 'it is disconnected');
    assert.equal(clients.at(-1).log.disconnected[0].code, 4501);
  });

  test('a node that is killed leaves nobody behind but in presence, and that for its time', async () => {
    const doomed = await start(redis.url);
    await ready(doomed);
    await subscribed(client(doomed), 'doomed');
    await until(async () => (await nodes[0].api('presence_stats', { channel: 'doomed' })).num_clients === 1, 'one');
    clients.at(-1).disconnect();
    await until(async () => (await nodes[0].api('presence_stats', { channel: 'doomed' })).num_clients === 0, 'none');
    await subscribed(client(doomed), 'doomed');
    await until(async () => (await nodes[0].api('presence_stats', { channel: 'doomed' })).num_clients === 1, 'one');
    await doomed.kill();
    const ttl = Number(await redis.cli('TTL', 'centrifugo.presence.data.doomed'));
    assert.ok(ttl > 0 && ttl <= 60, String(ttl));
    clients.at(-1).disconnect();
  });
});

describe('when Redis does not do what it should', () => {
  const clients = [];
  const client = (node) => {
    const made = sdk(node.ws);
    clients.push(made);
    return made;
  };
  const servers = [];
  const nodes = [];
  const redisWith = async (options) => {
    servers.push(await Redis.start(options));
    return servers.at(-1);
  };
  const nodeAt = async (redis, options) => {
    nodes.push(await start(redis.url, options));
    await ready(nodes.at(-1));
    return nodes.at(-1);
  };
  const told = (subscription) => subscription.seen.subscribing.filter((event) => event.code === 2500).length;

  after(async () => {
    clients.forEach((made) => made.disconnect());
    for (const node of nodes) if (node.exitCode === undefined) assert.equal(await node.stop(), 0, node.output);
    for (const redis of servers) await redis.end();
  });

  test('no server at the start: it waits and is not ready; a wrong password ends it', async () => {
    const port = await freePort();
    const waiting = await start(`redis://127.0.0.1:${port}`);
    nodes.push(waiting);
    assert.deepEqual(await readiness(waiting), { status: 503, ready: false, reason: 'the engine is away' });
    const { status } = await waiting.apiRaw('publish', { channel: 'a', data: 1 });
    assert.equal(status, 503);
    await redisWith({ port });
    await ready(waiting);
    await waiting.publish('a', 1);

    const guarded = await redisWith({ password: 'right' });
    const wrong = Daemon.spawn({ config: config(guarded.url, { password: 'wrong-password' }) });
    assert.equal(await wrong.ended(), 1);
    assert.match(wrong.output, /does not let this node in.*WRONGPASS|does not let this node in.*[Aa]uth/s);
    assert.ok(!wrong.output.includes('wrong-password'));
    nodes.push(await start(guarded.url, { more: { password: 'right' } }));
    await ready(nodes.at(-1));
  });

  test('an outage: clients stay, publishes are 503, and what was published meanwhile is filled in', async () => {
    const redis = await redisWith();
    const node = await nodeAt(redis);
    const rooms = await Promise.all(['one', 'two'].map((channel) => subscribed(client(node), channel, recoverable)));
    await node.publish('one', 1);
    await received(rooms[0], [1]);
    // Cut off: the connections are ended by the server, and others published meanwhile.
    const { epoch } = await node.api('history', { channel: 'one', limit: 0 });
    await redis.cli('CLIENT', 'PAUSE', 100000, 'WRITE').catch(() => {});
    await redis.cli('CLIENT', 'UNPAUSE');
    redis.signal('SIGSTOP');
    await until(async () => (await node.apiRaw('publish', { channel: 'one', data: 0 })).status === 503, 'a 503');
    await until(async () => (await readiness(node)).reason === 'the engine is away', 'not ready');
    assert.equal(clients.at(-1).state, 'connected');
    redis.signal('SIGCONT');
    await ready(node);
    const position = await node.publish('one', 'after');
    assert.equal(position.epoch, epoch);
    // Some of those that were answered 503 were done: offsets tell that nothing is missing or twice.
    await until(() => rooms[0].seen.publications.at(-1)?.data === 'after', 'the last one');
    const offsets = rooms[0].seen.publications.map((publication) => publication.offset);
    assert.deepEqual(offsets, range(1, position.offset));
    assert.deepEqual([told(rooms[0]), told(rooms[1])], [0, 0]);
    assert.equal(clients.at(-1).log.disconnected.length, 0);
  });

  test('a server that comes back empty: only who lost something hears of it', async () => {
    const redis = await redisWith();
    const node = await nodeAt(redis);
    const lost = await subscribed(client(node), 'lost', recoverable);
    const live = await subscribed(client(node), 'live:y');
    await node.publish('lost', 1);
    await received(lost, [1]);
    await redis.stop();
    await until(async () => (await readiness(node)).status === 503, 'away');
    await redis.run();
    await ready(node);
    await until(() => lost.seen.subscribed.length === 2, 'it subscribed again');
    assert.deepEqual([told(lost), told(live)], [1, 0]);
    const event = lost.seen.subscribed[1];
    assert.deepEqual([event.wasRecovering, event.recovered], [true, false]);
    await node.publish('lost', 2);
    await node.publish('live:y', 3);
    await received(lost, [1, 2]);
    await received(live, [3]);
    assert.equal(clients.at(-1).log.disconnected.length, 0);
    // Who is present is named again.
    await until(async () => (await node.api('presence_stats', { channel: 'lost' })).num_clients === 1, 'presence');
  });

  test('a flushed server, an evicted stream, a forgotten script', async () => {
    const redis = await redisWith();
    const node = await nodeAt(redis);
    const room = await subscribed(client(node), 'flushed', recoverable);
    await node.publish('flushed', 1);
    await redis.cli('SCRIPT', 'FLUSH');
    await node.publish('flushed', 2);
    await received(room, [1, 2]);
    // The next publication is of another log.
    await redis.cli('FLUSHALL');
    await node.publish('flushed', 3);
    await until(() => told(room) === 1, 'it hears that something may be lost');
    await until(() => room.seen.subscribed.length === 2, 'it subscribed again');
    await node.publish('flushed', 4);
    await until(() => room.seen.publications.at(-1).data === 4, 'it goes on');
    // The stream alone: positions go on, and a reader that is behind hears that it cannot recover.
    const away = await subscribed(client(node), 'evicted', recoverable);
    await node.publish('evicted', 1);
    await received(away, [1]);
    clients.at(-1).disconnect();
    await node.publish('evicted', 2);
    await redis.cli('DEL', 'centrifugo.stream.evicted');
    await node.publish('evicted', 3);
    clients.at(-1).connect();
    await until(() => away.seen.subscribed.length === 2, 'it is back');
    assert.deepEqual([away.seen.subscribed[1].wasRecovering, away.seen.subscribed[1].recovered], [true, false]);
  });

  test('out of memory, a replica, and a key of a wrong type', async () => {
    const redis = await redisWith();
    const node = await nodeAt(redis);
    const room = await subscribed(client(node), 'full', recoverable);
    await node.publish('full', 1);
    await redis.cli('CONFIG', 'SET', 'maxmemory', '1');
    assert.equal((await node.apiRaw('publish', { channel: 'full', data: 2 })).status, 503);
    await redis.cli('CONFIG', 'SET', 'maxmemory', '0');
    await node.publish('full', 3);
    await received(room, [1, 3]);
    assert.deepEqual(room.seen.publications.map((publication) => publication.offset), [1, 2]);

    await redis.cli('SET', 'centrifugo.stream.meta.wrong', 'text');
    const { status, answer } = await node.apiRaw('publish', { channel: 'wrong', data: 1 });
    assert.deepEqual([status, answer.error?.code], [200, 100]);
    await node.publish('full', 4);
    await redis.cli('DEL', 'centrifugo.stream.meta.wrong');
    assert.equal((await node.publish('wrong', 1)).offset, 1);

    const other = await redisWith();
    await redis.cli('REPLICAOF', '127.0.0.1', other.port);
    await until(async () => (await node.apiRaw('publish', { channel: 'full', data: 5 })).status === 503, 'a replica');
    await until(async () => (await readiness(node)).status === 503, 'not ready');
    await redis.cli('REPLICAOF', 'NO', 'ONE');
    await ready(node);
    const position = await node.publish('full', 6);
    await until(() => room.seen.publications.at(-1).data === 6, () => JSON.stringify(room.seen.publications));
    assert.ok(position.offset > 0);
  });

  test('several servers have a part of the channels each, and one that is away takes its own alone', async () => {
    const parts = [await redisWith(), await redisWith(), await redisWith()];
    nodes.push(await start(parts.map((redis) => redis.url)));
    const node = nodes.at(-1);
    await ready(node);
    const names = range(1, 30).map((n) => `part${n}`);
    const rooms = await Promise.all(names.map((name) => subscribed(client(node), name, recoverable)));
    await Promise.all(names.map((name) => node.publish(name, name)));
    await Promise.all(rooms.map((room, at) => received(room, [names[at]])));
    const counts = [];
    for (const redis of parts) counts.push((await redis.cli('KEYS', 'centrifugo.stream.part*')).split('\n').length);
    assert.equal(counts.reduce((sum, count) => sum + count), 30);
    assert.ok(counts.every((count) => count > 1), String(counts));
    await parts[1].stop();
    await until(async () => (await readiness(node)).status === 503, 'one is away');
    const statuses = await Promise.all(names.map(async (name) => (await node.apiRaw('publish', { channel: name, data: 2 })).status));
    assert.equal(statuses.filter((status) => status === 503).length, counts[1]);
    await parts[1].run();
    await ready(node);
    await Promise.all(names.map((name) => node.publish(name, 3)));
  });
});
