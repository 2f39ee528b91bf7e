// Presence for large groups: who is one member, flaps, bounds of join and leave events, who is online.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Daemon, binary, configuration, drivers, open, toml } from './support/daemon.mjs';
import { Redis } from './support/redis.mjs';
import { connected, sdk, subscribed, token } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { sleep, until } from './support/wait.mjs';

/** Members of the large groups. The long form has 10,000, which takes as many descriptors twice. */
const MEMBERS = Number(process.env.TRUNKLINE_PRESENCE_MEMBERS ?? 150);
/** Those of a paced channel that hear of others: 20 pushes a second to each is what one process of clients can read. */
const TOLD_MAX = Math.min(1000, MEMBERS / 3);

const byUser = { ...open, presence_by: 'user', leave_delay: '1500ms' };
const named = (...namespaces) => configuration({
  client: { channels_max: 100 },
  namespace: namespaces.map(([name, options]) => ({ name, ...open, ...options })),
});

const range = (count) => Array.from({ length: count }, (_, at) => at);
const users = (events) => events.map((event) => event.info.user);

/** A connection that subscribes, and what it was sent. The SDK would make ten thousand of them slow. */
async function member(daemon, channel, user, joinLeave) {
  const socket = await RawSocket.upgrade(daemon.port);
  socket.command({ id: 1, connect: { token: token(user) } }, { id: 2, subscribe: { channel, join_leave: joinLeave } });
  return socket;
}

// Both drivers side by side, unless they need the files of two processes; of one daemon, one test after the other.
describe('presence for large groups', { concurrency: MEMBERS < 1000 }, () => {
  for (const driver of drivers) {
    describe(`presence on ${driver}`, { concurrency: 1 }, () => {
      let daemon;
      const all = [];
      const client = (user) => {
        const made = sdk(daemon.ws, { token: token(user) });
        all.push(made);
        return made;
      };

      before(async () => {
        const config = named(
          ['room', byUser],
          ['few', { join_leave_members_max: 20 }],
          ['paced', { join_leave_per_second: 20 }],
        );
        daemon = await Daemon.start({ driver, config, args: ['--shards', '3'] });
      });
      after(async () => {
        all.forEach((made) => made.disconnect());
        assert.equal(await daemon.stop(), 0);
      });

      test('a client that connects a hundred times in five seconds leaves once at most, and a user of two tabs joins once', async () => {
        const watcher = await subscribed(client('watcher'), 'room:flap', { joinLeave: true });
        const flapping = client('ann');
        const own = await subscribed(flapping, 'room:flap');
        for (const _ of range(99)) {
          flapping.disconnect();
          await connected(flapping);
          await sleep(30);
        }
        await until(() => own.state === 'subscribed', 'the last connection is in');
        const tab = client('ann');
        await subscribed(tab, 'room:flap');
        const listed = Object.values((await watcher.presence()).clients).map((info) => info.user);
        assert.deepEqual(listed.sort(), ['ann', 'watcher'], 'each user once');
        tab.disconnect();
        await sleep(2_000);
        assert.deepEqual(users(watcher.seen.joins).filter((user) => user === 'ann'), ['ann']);
        assert.deepEqual(users(watcher.seen.leaves), []);
        flapping.disconnect();
        const still = Object.values((await watcher.presence()).clients).map((info) => info.user);
        assert.deepEqual(still.sort(), ['ann', 'watcher'], 'until others are told');
        await until(() => watcher.seen.leaves.length === 1, 'it has left');
        assert.deepEqual(Object.values((await watcher.presence()).clients).map((info) => info.user), ['watcher']);
        const { num_clients, num_users } = await daemon.api('presence_stats', { channel: 'room:flap' });
        assert.deepEqual([num_clients, num_users], [1, 1]);
      });

      test('many members at once are as many pushes as configured', async () => {
        for (const namespace of ['few', 'paced']) {
          const channel = `${namespace}:crowd`;
          const watcher = await subscribed(client('watcher'), channel, { joinLeave: true });
          const delivered = async () => {
            const samples = [...await daemon.metrics()].filter(([name]) => name.startsWith('trunkline_deliveries_total'));
            return samples.reduce((sum, [, value]) => sum + value, 0);
          };
          const [pushed, began] = [await delivered(), Date.now()];
          const sockets = [];
          for (const at of range(Math.ceil(MEMBERS / 50))) {
            const some = range(Math.min(50, MEMBERS - at * 50)).map(
              (n) => member(daemon, channel, `u${at}-${n}`, namespace === 'few' || at * 50 < TOLD_MAX),
            );
            sockets.push(...await Promise.all(some));
          }
          await until(
            async () => (await daemon.api('presence_stats', { channel })).num_clients === MEMBERS + 1,
            async () => `everybody is in: ${JSON.stringify(await daemon.api('presence_stats', { channel }))}`,
          );
          if (namespace === 'few') {
            const pushes = await delivered() - pushed;
            assert.ok(pushes <= 20 * (MEMBERS + 1), `joins of the first twenty, to all: ${pushes}`);
            assert.ok(watcher.seen.joins.length <= 20);
            sockets.slice(0, 10).forEach((socket) => socket.destroy());
            await until(
              async () => (await daemon.api('presence_stats', { channel })).num_clients === MEMBERS - 9,
              'some are gone',
            );
            assert.deepEqual(watcher.seen.leaves, [], 'too many are left to be told');
          } else {
            await until(() => watcher.seen.joins.length > 25, 'they are told one after the other');
            const events = watcher.seen.joins.length;
            const most = 20 * (Date.now() - began) / 1000 + 2 + 1;
            assert.ok(events <= most, `${events} of ${most}`);
            const pushes = await delivered() - pushed;
            assert.ok(pushes <= (20 * (Date.now() - began) / 1000 + 3) * (Math.min(MEMBERS, TOLD_MAX) + 1), `${pushes} pushes`);
          }
          sockets.forEach((socket) => socket.destroy());
        }
      });

      test('presence comes in pages, and who is online by name', async () => {
        await Promise.all(range(25).map((n) => subscribed(client(`page${n % 20}`), 'pages')));
        const seen = [];
        let cursor = '';
        while (cursor !== null) {
          const page = await daemon.api('presence', { channel: 'pages', limit: 7, cursor });
          assert.ok(Object.keys(page.presence).length <= 7);
          seen.push(...Object.values(page.presence).map((info) => info.client));
          ({ cursor } = page);
        }
        assert.equal(new Set(seen).size, 25);
        assert.deepEqual(seen, [...seen].sort());
        const { online } = await daemon.api('online', { users: ['page1', 'page19', 'nobody'] });
        assert.deepEqual(online, { page1: 2, page19: 1 });
      });
    });

    test(`an upgrade keeps who is there and who is about to leave, on ${driver}`, async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-presence-'));
      const config = { ...named(['room', byUser]), driver, shards: 2, sandbox: { read: [folder] } };
      const daemon = await Daemon.start({ driver, config });
      const at = path.join(folder, 'next.toml');
      writeFileSync(at, toml({ ...config, listen: daemon.address }));
      const [ann, bob, eve] = ['ann', 'bob', 'eve'].map((user) => sdk(daemon.ws, { token: token(user) }));
      const watcher = await subscribed(ann, 'room:1', { joinLeave: true });
      await subscribed(bob, 'room:1');
      await subscribed(eve, 'room:1');
      await until(() => watcher.seen.joins.length >= 2, 'they have joined');
      bob.disconnect();
      eve.disconnect();
      const child = spawn(binary, ['upgrade', '--pid', String(daemon.pid)]);
      let out = '';
      child.stdout.on('data', (text) => (out += text));
      child.stderr.on('data', (text) => (out += text));
      await new Promise((resolve) => child.on('close', resolve));
      const next = Number(out.match(/process (\d+) \(trunkline/)?.[1]);
      assert.ok(next, out);
      try {
        await connected(eve);
        await until(() => watcher.seen.leaves.length > 0, 'bob has left');
        await sleep(500);
        assert.deepEqual(users(watcher.seen.leaves), ['bob']);
        assert.equal(users(watcher.seen.joins).filter((user) => user === 'eve').length, 1, 'eve was never away');
        const listed = Object.values((await watcher.presence()).clients).map((info) => info.user);
        assert.deepEqual(listed.sort(), ['ann', 'eve']);
      } finally {
        [ann, bob, eve].forEach((made) => made.disconnect());
        process.kill(next, 'SIGTERM');
        await daemon.stop();
      }
    });
  }

  test('who is online is asked of all nodes, and one that is gone is not waited for', async () => {
    const redis = await Redis.start();
    const config = configuration({ engine: { kind: 'redis', address: redis.url, timeout: '1s' } });
    const nodes = await Promise.all([0, 1].map((at) => Daemon.start({ driver: drivers[at], config, args: ['--shards', '2'] })));
    try {
      await until(
        async () => (await nodes[0].api('info')).nodes.length === 2 && (await nodes[1].api('info')).nodes.length === 2,
        'the nodes know each other',
      );
      const clients = nodes.flatMap((node) => ['ann', 'ann', node === nodes[0] ? 'bob' : 'eve'].map((user) => sdk(node.ws, { token: token(user) })));
      await Promise.all(clients.map(connected));
      for (const node of nodes) {
        const { online, missing } = await node.api('online', { users: ['ann', 'bob', 'eve', 'nobody'] });
        assert.deepEqual([online, missing], [{ ann: 4, bob: 1, eve: 1 }, undefined]);
      }
      nodes[1].kill();
      await nodes[1].ended();
      const { online, missing } = await nodes[0].api('online', { users: ['ann', 'eve'] });
      assert.deepEqual(online, { ann: 2 });
      assert.equal(missing?.length ?? 1, 1, 'while it is believed to be there');
      clients.forEach((client) => client.disconnect());
    } finally {
      for (const node of nodes) await node.stop().catch(() => {});
      await redis.end();
    }
  });

  test('the configuration is checked for storms', async () => {
    const at = path.join(mkdtempSync(path.join(tmpdir(), 'trunkline-check-')), 'a.toml');
    writeFileSync(at, toml(named(['chat', { force_push_join_leave: true, join_leave_members_max: 1000 }])));
    const child = spawn(binary, ['check', at]);
    let out = '';
    child.stdout.on('data', (text) => (out += text));
    const code = await new Promise((resolve) => child.on('close', resolve));
    assert.equal(code, 0, out);
    assert.match(out, /namespace "chat": .*up to 10,000,000 pushes/);
  });
});
