// What the backend does to its users' connections, as the SDK sees it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon } from './support/daemon.mjs';
import { connected, received, runs, sdk, subscribed, token, unixNow } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { next, until } from './support/wait.mjs';

for (const { driver, form } of runs) {
  describe(`server-side control in ${form} on ${driver}`, () => {
    let daemon;
    const clients = [];
    let users = 0;

    /** A connected client of a user of its own. */
    const user = async (name = `user-${(users += 1)}`, options = {}) => {
      const client = sdk(daemon.ws, { form, token: token(name), ...options });
      clients.push(client);
      const { client: id } = await connected(client);
      return Object.assign(client, { user: name, id });
    };

    before(async () => (daemon = await Daemon.start({ driver, args: ['--shards', '3'] })));
    after(async () => {
      clients.forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('subscribe: the client is told and gets what is published', async () => {
      const client = await user();
      const subscribed = next(client, 'subscribed');
      const publications = [];
      client.on('publication', (event) => publications.push(event));
      await daemon.api('subscribe', { user: client.user, channel: 'server-1', data: { welcome: true } });
      const event = await subscribed;
      assert.equal(event.channel, 'server-1');
      assert.deepEqual(event.data, { welcome: true });
      await daemon.publish('server-1', 'hello');
      await until(() => publications.length === 1, 'the publication');
      assert.deepEqual([publications[0].channel, publications[0].data], ['server-1', 'hello']);
      const { presence } = await daemon.api('presence', { channel: 'server-1' });
      assert.deepEqual(Object.keys(presence), [client.id]);
    });

    test('subscribe: every connection of the user, or only the one named', async () => {
      const first = await user('two');
      const second = await user('two');
      const told = [];
      first.on('subscribed', ({ channel }) => told.push(['first', channel]));
      second.on('subscribed', ({ channel }) => told.push(['second', channel]));
      await daemon.api('subscribe', { user: 'two', channel: 'both' });
      await until(() => told.length === 2, 'both are told');
      assert.deepEqual(told.sort(), [['first', 'both'], ['second', 'both']]);
      await daemon.api('subscribe', { user: 'two', client: second.id, channel: 'second-only' });
      await until(() => told.length === 3, 'the second is told');
      assert.deepEqual(told[2], ['second', 'second-only']);
      const { num_clients: there } = await daemon.api('presence_stats', { channel: 'second-only' });
      assert.equal(there, 1);
    });

    test('unsubscribe: of a server-side subscription', async () => {
      const client = await user();
      await Promise.all([next(client, 'subscribed'),
        daemon.api('subscribe', { user: client.user, channel: 'server-2' })]);
      const gone = next(client, 'unsubscribed');
      await daemon.api('unsubscribe', { user: client.user, channel: 'server-2' });
      assert.equal((await gone).channel, 'server-2');
      await until(async () => !(await daemon.api('channels')).channels['server-2'], 'nobody is in it');
    });

    test('unsubscribe: of the client\'s own, with 2000, and it does not come back by itself', async () => {
      const client = await user();
      const subscription = await subscribed(client, 'own-1');
      await daemon.api('unsubscribe', { user: client.user, channel: 'own-1' });
      await until(() => subscription.seen.unsubscribed.length === 1, 'the push');
      const [{ code, reason }] = subscription.seen.unsubscribed;
      assert.deepEqual([code, reason], [2000, 'server unsubscribed']);
      assert.equal(client.state, 'connected');
    });

    test('disconnect: with our code, and it stays away', async () => {
      const client = await user();
      const gone = next(client, 'disconnected');
      await daemon.api('disconnect', { user: client.user });
      assert.equal((await gone).code, 3503);
    });

    test('disconnect: with the backend\'s code and reason', async () => {
      const terminal = await user();
      const gone = next(terminal, 'disconnected');
      await daemon.api('disconnect', { user: terminal.user, disconnect: { code: 4501, reason: 'go away' } });
      const { code, reason } = await gone;
      assert.deepEqual([code, reason], [4501, 'go away']);

      const returning = await user();
      const back = next(returning, 'connected');
      await daemon.api('disconnect', { user: returning.user, disconnect: { code: 4001, reason: 'come back' } });
      await back;
      assert.deepEqual(returning.log.connecting.map((event) => event.code), [0, 4001]);
    });

    test('disconnect: all but the whitelisted, or only the one named', async () => {
      const [one, two, three] = [await user('many'), await user('many'), await user('many')];
      const gone = next(two, 'disconnected');
      await daemon.api('disconnect', { user: 'many', client: two.id });
      assert.equal((await gone).code, 3503);
      const second = next(three, 'disconnected');
      await daemon.api('disconnect', { user: 'many', whitelist: [one.id] });
      assert.equal((await second).code, 3503);
      assert.equal(one.state, 'connected');
      await assert.rejects(one.rpc('x', {}), { code: 108 }, 'it still answers');
    });

    test('refresh: a longer life for a connection that would have ended', async () => {
      const end = unixNow() + 2;
      const raw = await RawSocket.speaking(form, daemon.port);
      raw.command({ id: 1, connect: { token: token('renewed', { exp: end }) } });
      assert.equal((await raw.message()).connect.expires, true);
      await daemon.api('refresh', { user: 'renewed', expire_at: end + 3600 });
      const { push } = await raw.message();
      assert.equal(push.refresh.expires, true);
      assert.ok(push.refresh.ttl > 3000, `ttl ${push.refresh.ttl}`);
      await until(() => unixNow() > end + 2, 'the old end has passed');
      raw.command({ id: 2, rpc: { method: 'x' } });
      assert.equal((await raw.message()).error.code, 108, 'it still answers');
      raw.destroy();
    });

    test('refresh: expired ends the connection with 3005', async () => {
      const client = await user();
      await daemon.api('refresh', { user: client.user, expired: true });
      await until(() => client.log.connecting.some((event) => event.code === 3005), 'the disconnect of an expiry');
    });

    test('what is asked for nobody is no error', async () => {
      for (const [method, body] of [['subscribe', { channel: 'x' }], ['unsubscribe', { channel: 'x' }],
        ['disconnect', {}], ['refresh', { expired: true }]]) {
        assert.deepEqual(await daemon.api(method, { user: 'nobody', ...body }), {}, method);
      }
    });

    test('an unknown namespace and a missing field are errors of the API', async () => {
      const code = async (method, body) => (await daemon.apiRaw(method, body)).answer.error?.code;
      assert.equal(await code('subscribe', { user: 'u', channel: 'nowhere:x' }), 102);
      assert.equal(await code('subscribe', { user: 'u' }), 107);
      assert.equal(await code('publish', { channel: 'nowhere:x', data: 1 }), 102);
      assert.equal(await code('publish', { data: 1 }), 107);
      assert.equal(await code('publish', { channel: 'x' }), 107);
    });

    test('broadcast reaches each channel, batch does each command', async () => {
      const client = await user();
      const rooms = [];
      for (const channel of ['cast-1', 'cast-2']) rooms.push(await subscribed(client, channel));
      const { responses } = await daemon.api('broadcast', { channels: ['cast-1', 'nowhere:x', 'cast-2'], data: 1 });
      assert.deepEqual(responses.map((response) => response.error?.code ?? response.result.offset), [1, 102, 1]);
      const { answer } = await daemon.apiRaw('batch', {
        commands: [
          { publish: { channel: 'cast-1', data: 2 } },
          { publish: { channel: 'nowhere:x', data: 2 } },
          { presence_stats: { channel: 'cast-2' } },
        ],
      });
      assert.equal(answer.replies[0].publish.result?.offset ?? answer.replies[0].publish.offset, 2);
      assert.ok(JSON.stringify(answer.replies[1]).includes('102'));
      await received(rooms[0], [1, 2]);
      await received(rooms[1], [1]);
    });

    test('an idempotency key delivers once and answers twice', async () => {
      const client = await user();
      const room = await subscribed(client, 'idem');
      const first = await daemon.publish('idem', 'once', { idempotency_key: 'k1' });
      const again = await daemon.publish('idem', 'once', { idempotency_key: 'k1' });
      assert.deepEqual(again, first);
      await daemon.publish('idem', 'other', { idempotency_key: 'k2' });
      await received(room, ['once', 'other']);
    });

    test('concurrent publishers: every subscriber sees one and the same order', async () => {
      const readers = [];
      for (let n = 0; n < 6; n += 1) readers.push(await subscribed(await user(), 'busy'));
      const publishes = Array.from({ length: 200 }, (_, n) => daemon.publish('busy', n));
      const positions = await Promise.all(publishes);
      await until(() => readers.every((reader) => reader.seen.publications.length === 200), 'all have all');
      const offsets = positions.map((position) => position.offset).sort((a, b) => a - b);
      assert.deepEqual(offsets, Array.from({ length: 200 }, (_, n) => n + 1));
      for (const reader of readers) {
        assert.deepEqual(reader.seen.publications.map((p) => p.offset), offsets);
        for (const { offset, data } of reader.seen.publications) assert.equal(positions[data].offset, offset);
      }
    });
  });
}
