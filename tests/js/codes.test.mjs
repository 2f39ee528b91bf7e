// The codes of the client protocol that other tests do not meet, each once and by its name.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, received, sdk, subscribed, token, unixNow } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { next, until } from './support/wait.mjs';

const is = (val) => ({ key: 'k', cmp: 'eq', val });

for (const driver of drivers) {
  describe(`codes on ${driver}`, () => {
    let daemon;
    before(async () => {
      daemon = await Daemon.start({
        driver, args: ['--shards', '2'],
        config: configuration({ client: { channels_max: 3 }, namespace: [{ name: 'closed' }] }),
      });
    });
    after(async () => assert.equal(await daemon.stop(), 0));

    // trunkline has no cause of its own for these: a backend gives them.
    for (const [code, name] of [[3003, 'force reconnect, of former days'], [3009, 'write error'], [3014, 'state invalidated']]) {
      test(`${code} ${name}: the SDK comes back`, async () => {
        const user = `user-${code}`;
        const client = sdk(daemon.ws, { token: token(user) });
        await connected(client);
        const back = next(client, 'connected');
        await daemon.api('disconnect', { user, disconnect: { code, reason: name } });
        await back;
        assert.deepEqual(client.log.connecting.at(-1), { code, reason: name });
        assert.deepEqual(client.log.disconnected, []);
        client.disconnect();
      });
    }
    for (const [code, name] of [[3508, 'not available'], [3509, 'too many errors']]) {
      test(`${code} ${name}: the SDK stays away`, async () => {
        const user = `user-${code}`;
        const client = sdk(daemon.ws, { token: token(user) });
        await connected(client);
        const end = next(client, 'disconnected');
        await daemon.api('disconnect', { user, disconnect: { code, reason: name } });
        assert.deepEqual(await end, { code, reason: name });
        assert.equal(client.log.connecting.length, 1);
      });
    }

    test('3505 channel limit: a token grants more than one connection may have', async () => {
      const counted = await daemon.faults(/disconnect_3505/);
      const client = sdk(daemon.ws, { token: token('ann', { channels: ['a', 'b', 'c', 'd'] }) });
      const end = next(client, 'disconnected');
      client.connect();
      assert.deepEqual(await end, { code: 3505, reason: 'channel limit' });
      assert.equal(await daemon.faults(/disconnect_3505/), counted + 1);
      const fits = sdk(daemon.ws, { token: token('ann', { channels: ['a', 'b', 'c'] }) });
      await connected(fits);
      fits.disconnect();
    });

    test('2502 state invalidated: another filter comes with the next token of a subscription', async () => {
      const channel = 'closed:filtered';
      const of = (val, seconds) => token('ann', { channel, server_tags_filter: is(val), exp: unixNow() + seconds });
      const client = sdk(daemon.ws, { token: token('ann') });
      const sub = await subscribed(client, channel, { token: of('a', 2), getToken: async () => of('b', 3600) });
      await daemon.api('publish', { channel, data: 1, tags: { k: 'a' } });
      await received(sub, [1]);
      await until(() => sub.seen.subscribed.length === 2, 'it is subscribed again');
      assert.deepEqual(sub.seen.subscribing.at(-1), { channel, code: 2502, reason: 'state invalidated' });
      await daemon.api('publish', { channel, data: 2, tags: { k: 'a' } });
      await daemon.api('publish', { channel, data: 3, tags: { k: 'b' } });
      await received(sub, [1, 3]);
      assert.equal(client.log.connecting.length, 1, 'the connection lives on');
      client.disconnect();
    });

    test('3011 force reconnect: another filter for what the server has subscribed the client to', async () => {
      const raw = await RawSocket.upgrade(daemon.port);
      const subs = { 'closed:granted': { server_tags_filter: is('a') } };
      raw.command({ id: 1, connect: { token: token('ann', { subs }) } });
      assert.ok((await raw.message()).connect.subs['closed:granted']);
      const of = (val) => token('ann', { channel: 'closed:granted', server_tags_filter: is(val), exp: unixNow() + 3600 });
      raw.command({ id: 2, sub_refresh: { channel: 'closed:granted', token: of('a') } });
      assert.ok((await raw.message()).sub_refresh, 'the same filter changes nothing');
      raw.command({ id: 3, sub_refresh: { channel: 'closed:granted', token: of('b') } });
      assert.deepEqual(await raw.closed(), { code: 3011, reason: 'force reconnect' });
    });
  });
}
