// Users that are kept out and tokens that are revoked: on every way in, at every node, over restarts and upgrades.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { Daemon, binary, configuration, drivers, toml } from './support/daemon.mjs';
import { Redis } from './support/redis.mjs';
import { connected, over, sdk, subscribed, token, transports, unixNow } from './support/sdk.mjs';
import { next, sleep, until } from './support/wait.mjs';

const gone = (client, code) => until(
  () => client.log.disconnected.some((event) => event.code === code),
  () => `closed with ${code}: ${JSON.stringify(client.log)}`,
);

/** Tries to connect, and gives the code of the end of it. */
async function refused(client) {
  const event = next(client, 'disconnected');
  client.connect();
  return (await event).code;
}

const stands = async (daemon) => (await daemon.api('blocked')).blocked;

// Both drivers side by side; of one daemon, one test after the other.
describe('users and tokens that are kept out', { concurrency: true }, () => {
  for (const driver of drivers) {
    describe(`blocking on ${driver}`, { concurrency: 1 }, () => {
      let daemon;
      const all = [];
      const client = (user, claims = {}) => {
        const made = sdk(daemon.ws, { token: token(user, claims) });
        all.push(made);
        return made;
      };

      before(async () => (daemon = await Daemon.start({ driver, args: ['--shards', '3'] })));
      after(async () => {
        all.forEach((made) => made.disconnect());
        assert.equal(await daemon.stop(), 0);
      });

      test('a user is closed everywhere and let in nowhere until it is unblocked', async () => {
        const others = [client('bob')];
        const devices = [client('ann'), client('ann'), ...transports.map((way) => over(daemon.http, way, { token: token('ann') }))];
        all.push(...devices);
        await Promise.all([...others, ...devices].map((made) => subscribed(made, 'news')));
        const stream = await fetch(`${daemon.http}/sse?channel=news&token=${token('ann')}`);
        assert.equal(stream.status, 200);
        await daemon.api('block', { user: 'ann' });
        await Promise.all(devices.map((made) => gone(made, 3507)));
        await stream.text();
        assert.equal(others[0].state, 'connected');
        assert.deepEqual(await stands(daemon), [{ user: 'ann' }]);
        assert.equal(await refused(client('ann')), 3507);
        assert.equal(await refused(over(daemon.http, transports[0], { token: token('ann') })), 3507);
        for (const way of ['sse', 'poll', 'history', 'stream']) {
          const response = await fetch(`${daemon.http}/${way}?channel=news&token=${token('ann')}`);
          assert.equal(response.status, 403, way);
          await response.text();
        }
        const publish = await fetch(`${daemon.http}/publish?channel=news&token=${token('ann')}`, { method: 'POST', body: '1' });
        assert.equal(publish.status, 403);
        const metrics = await daemon.metrics();
        assert.equal(metrics.get('trunkline_blocks'), 1);
        assert.ok(metrics.get('trunkline_blocked_users_refused_total') >= 7);
        await daemon.api('unblock', { user: 'ann' });
        await connected(client('ann'));
        assert.deepEqual(await stands(daemon), []);
      });

      test('a block ends by itself', async () => {
        await daemon.api('block', { user: 'brief', for_s: 2 });
        assert.equal(await refused(client('brief')), 3507);
        await until(async () => (await stands(daemon)).length === 0, 'it is over');
        await connected(client('brief'));
      });

      test('a token is revoked by its id, and another one of the user is not', async () => {
        const [stolen, own] = [client('eve', { jti: 'stolen' }), client('eve', { jti: 'own' })];
        await Promise.all([stolen, own].map(connected));
        await daemon.api('revoke', { token_id: 'stolen' });
        await gone(stolen, 3500);
        assert.equal(own.state, 'connected');
        assert.equal(await refused(client('eve', { jti: 'stolen' })), 3500);
        const response = await fetch(`${daemon.http}/poll?channel=news&token=${token('eve', { jti: 'stolen' })}`);
        assert.equal(response.status, 401);
        // A subscription that a token is for.
        await daemon.api('revoke', { token_id: 'room' });
        const room = own.newSubscription('$room', { token: token('eve', { channel: '$room', jti: 'room' }) });
        const ended = next(room, 'unsubscribed');
        room.subscribe();
        assert.equal((await ended).code, 103);
        await daemon.api('unblock', { token_id: 'stolen' });
        await connected(client('eve', { jti: 'stolen' }));
        await daemon.api('unblock', { token_id: 'room' });
      });

      test('tokens of a user that are older than a time are refused, at refresh too', async () => {
        const now = unixNow();
        const [old, fresh] = [client('kim', { iat: now - 100 }), client('kim', { iat: now })];
        await Promise.all([old, fresh].map(connected));
        await daemon.api('revoke', { user: 'kim', issued_before: now });
        // Both come back; only one of them is let in.
        await gone(old, 3500);
        await until(() => fresh.log.connecting.some((event) => event.code === 3011) && fresh.state === 'connected', 'it is back');
        assert.equal(await refused(client('kim')), 3500, 'without a date');
        await daemon.api('unblock', { user: 'kim' });
        await connected(client('kim', { iat: now - 100 }));
        const renewing = sdk(daemon.ws, {
          token: token('ron', { exp: unixNow() + 2 }), getToken: async () => token('ron', { jti: 'late', exp: unixNow() + 60 }),
        });
        all.push(renewing);
        await connected(renewing);
        await daemon.api('revoke', { token_id: 'late' });
        await gone(renewing, 3500);
        await daemon.api('unblock', { token_id: 'late' });
      });

      test('a block of everyone, of a name that can be none, and what is malformed are errors', async () => {
        const code = async (method, body) => (await daemon.apiRaw(method, body)).answer.error?.code;
        assert.deepEqual(
          await Promise.all([
            code('block', {}), code('block', { user: '*' }), code('block', { user: 'x'.repeat(257) }),
            code('revoke', { user: '*', issued_before: 1 }), code('revoke', { token_id: '' }), code('revoke', { user: 'a' }),
            code('unblock', {}), code('blocked', { cursor: 'x' }),
          ]),
          Array(8).fill(107),
        );
        assert.deepEqual(await stands(daemon), []);
      });

    });

    test(`a hook lets a blocked user in no more than a token, on ${driver}`, async () => {
      const backend = await Backend.start({
        connect: ({ data }) => ({ result: { user: data.user, expire_at: unixNow() + 3 } }),
        refresh: () => ({ result: { expire_at: unixNow() + 60 } }),
      });
      const hooked = configuration({
        client: { allow_anonymous: false, connect_hook: 'connect', refresh_hook: 'refresh' },
        hook: backend.hooks(['connect', 'refresh']),
      });
      const daemon = await Daemon.start({ driver, config: hooked });
      await daemon.api('block', { user: 'mallory' });
      assert.equal(await refused(sdk(daemon.ws, { data: { user: 'mallory' } })), 3507);
      const bob = sdk(daemon.ws, { data: { user: 'bob' } });
      await connected(bob);
      await daemon.api('block', { user: 'bob' });
      await gone(bob, 3507);
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test(`blocks go along with an upgrade, on ${driver}`, async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-blocks-'));
      const daemon = await Daemon.start({ config: configuration({ driver, shards: 2, sandbox: { read: [folder] } }) });
      const stays = sdk(daemon.ws, { token: token('ann', { jti: 't1' }) });
      await connected(stays);
      await daemon.api('block', { user: 'mallory' });
      const child = spawn(binary, ['upgrade', '--pid', String(daemon.pid)]);
      let out = '';
      for (const from of [child.stdout, child.stderr]) from.on('data', (text) => (out += text));
      await new Promise((resolve) => child.on('close', resolve));
      const pid = Number(out.match(/process (\d+) \(trunkline/)?.[1]);
      assert.ok(pid, out);
      try {
        assert.deepEqual(await stands(daemon), [{ user: 'mallory' }]);
        assert.equal(await refused(sdk(daemon.ws, { token: token('mallory') })), 3507);
        assert.equal(stays.state, 'connected');
        await daemon.api('revoke', { token_id: 't1' });
        await gone(stays, 3500);
      } finally {
        stays.disconnect();
        process.kill(pid, 'SIGTERM');
        await daemon.ended();
      }
    });

    test(`blocks are in the store, on ${driver}`, async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-blocks-'));
      const config = configuration({ store: { path: path.join(folder, 'store') } });
      const start = () => Daemon.start({ driver, config, args: ['--shards', '2'] });
      let daemon = await start();
      await daemon.api('block', { user: 'ann' });
      await daemon.api('block', { user: 'bob' });
      await daemon.api('revoke', { token_id: 't1', for_s: 3600 });
      await daemon.api('unblock', { user: 'bob' });
      await sleep(500);
      daemon.kill();
      await daemon.ended();
      daemon = await start();
      const found = await stands(daemon);
      assert.deepEqual(found.map((entry) => entry.user ?? entry.token_id), ['ann', 't1']);
      assert.equal(await refused(sdk(daemon.ws, { token: token('ann') })), 3507);
      await daemon.api('unblock', { user: 'ann' });
      assert.equal(await daemon.stop(), 0, daemon.output);
      daemon = await start();
      assert.deepEqual((await stands(daemon)).map((entry) => entry.token_id), ['t1'], 'what was said last as well');
      assert.equal(await daemon.stop(), 0, daemon.output);
    });
  }

  test('a block at one node is one at all, and at one that comes later', async () => {
    const redis = await Redis.start();
    const config = configuration({ engine: { kind: 'redis', address: redis.url, timeout: '1s' } });
    const start = (at) => Daemon.start({ driver: drivers[at % 2], config, args: ['--shards', '2'] });
    const nodes = await Promise.all([start(0), start(1)]);
    try {
      await until(async () => (await nodes[1].api('info')).nodes.length === 2, 'the nodes know each other');
      const far = sdk(nodes[1].ws, { token: token('ann') });
      const farther = sdk(nodes[1].ws, { token: token('bob', { jti: 't1' }) });
      await Promise.all([far, farther].map(connected));
      await nodes[0].api('block', { user: 'ann' });
      await nodes[0].api('revoke', { token_id: 't1' });
      await gone(far, 3507);
      await gone(farther, 3500);
      nodes.push(await start(2));
      await until(async () => (await stands(nodes[2])).length === 2, 'the third has heard of both');
      assert.equal(await refused(sdk(nodes[2].ws, { token: token('ann') })), 3507);
      await nodes[2].api('unblock', { user: 'ann' });
      await until(async () => (await stands(nodes[0])).length === 1, 'it is taken back everywhere');
      await connected(far);
      far.disconnect();
    } finally {
      for (const node of nodes) await node.stop();
      await redis.end();
    }
  });
});
