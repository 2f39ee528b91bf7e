// What a client that was away gets: all of it, the newest of it, or the word that it cannot have it.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration, open } from './support/daemon.mjs';
import { Proxy } from './support/proxy.mjs';
import { connected, received, runs, sdk, subscribed, token, watch } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { until } from './support/wait.mjs';

for (const { driver, form } of runs) {
  describe(`recovery modes in ${form} on ${driver}`, () => {
    let daemon;
    let proxy;
    const clients = [];
    const client = (url, options = {}) => {
      const made = sdk(url, { form, ...options });
      clients.push(made);
      return made;
    };

    before(async () => {
      const namespace = [
        { name: 'cache', ...open, recovery_mode: 'cache' },
        { name: 'auto', ...open, recovery_mode: 'cache', auto_cache_recover: true },
        { name: 'short', ...open, history_size: 3 },
      ];
      daemon = await Daemon.start({
        driver, args: ['--shards', '3'],
        config: configuration({
          namespace, client: { history_max_publication_limit: 4, recovery_max_publication_limit: 6 },
        }),
      });
      proxy = await Proxy.to(daemon.port);
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
    });

    const cut = async (subscription, meanwhile) => {
      const before = subscription.seen.subscribed.length;
      proxy.cut();
      await until(() => subscription.state === 'subscribing', 'the cut is noticed');
      await meanwhile();
      proxy.allow();
      await until(() => subscription.seen.subscribed.length > before, 'it is back');
      return subscription.seen.subscribed.at(-1);
    };

    test('of a cache comes the newest alone, however many were missed', async () => {
      const one = client(proxy.ws);
      one.connect();
      const room = await subscribed(one, 'cache:a', { recoverable: true, positioned: true });
      await daemon.publish('cache:a', 0);
      await received(room, [0]);
      for (const count of [1, 20]) {
        const event = await cut(room, async () => {
          for (let n = 1; n <= count; n += 1) await daemon.publish('cache:a', n);
        });
        assert.deepEqual([event.wasRecovering, event.recovered], [true, true]);
      }
      await received(room, [0, 1, 20]);
      const event = await cut(room, async () => {});
      assert.deepEqual([event.recovered, event.hasRecoveredPublications], [true, false], 'it has the newest');
      await daemon.publish('cache:a', 'live');
      await received(room, [0, 1, 20, 'live']);
    });

    test('of a cache that has nothing left a client hears so', async () => {
      const one = client(proxy.ws);
      one.connect();
      const room = await subscribed(one, 'cache:gone', { recoverable: true, positioned: true });
      await daemon.publish('cache:gone', 1);
      await received(room, [1]);
      const event = await cut(room, async () => {
        await daemon.publish('cache:gone', 2);
        await daemon.api('history_remove', { channel: 'cache:gone' });
      });
      assert.deepEqual([event.wasRecovering, event.recovered], [true, false]);
    });

    test('a new subscriber gets the newest of a cache by itself where that is configured', async () => {
      for (const n of [1, 2]) await daemon.publish('auto:a', n);
      const room = await subscribed(client(daemon.ws), 'auto:a');
      await received(room, [2]);
      await daemon.publish('auto:a', 3);
      await received(room, [2, 3]);
      await daemon.publish('cache:b', 1);
      const other = await subscribed(client(daemon.ws), 'cache:b');
      await daemon.publish('cache:b', 2);
      await received(other, [2]);
      // The server's own subscriptions as well.
      const given = client(daemon.ws, { token: token('ann', { subs: { 'auto:a': {} } }) });
      const got = [];
      given.on('publication', (event) => got.push(event.data));
      await connected(given);
      await until(() => got.length > 0, 'the newest');
      assert.deepEqual(got, [3]);
      const empty = await subscribed(client(daemon.ws), 'auto:empty');
      assert.equal(empty.seen.publications.length, 0);
    });

    test('flag 2 refuses what cannot be recovered with 112, and lets in who can', async () => {
      for (const n of [1, 2, 3, 4, 5]) await daemon.publish('short:flag', n);
      const { epoch } = await daemon.api('history', { channel: 'short:flag', limit: 0 });
      const raw = await RawSocket.client(daemon.port, form);
      const ask = async (id, more) => {
        raw.command({ id, subscribe: { channel: 'short:flag', recover: true, epoch, ...more } });
        return raw.message();
      };
      assert.equal((await ask(2, { offset: 1, flag: 3 })).error.code, 112);
      assert.equal((await ask(3, { offset: 3, epoch: 'other', flag: 2 })).error.code, 112);
      const { subscribe } = await ask(4, { offset: 3, flag: 3 });
      assert.deepEqual([subscribe.recovered, subscribe.publications.length], [true, 2]);
      raw.destroy();
    });

    test('getState of the SDK is asked at the beginning, and when the position is lost', async () => {
      const state = [];
      const loaded = [];
      const options = {
        getState: async () => {
          const { offset, epoch } = await daemon.api('history', { channel: 'short:state', limit: 0 });
          loaded.push([...state]);
          return { offset: offset ?? 0, epoch };
        },
      };
      const publish = async (n) => {
        state.push(n);
        await daemon.publish('short:state', n);
      };
      await publish(1);
      const one = client(proxy.ws);
      const room = watch(one, 'short:state', options);
      room.subscribe();
      one.connect();
      await until(() => room.seen.subscribed.length === 1, 'subscribed');
      assert.deepEqual(loaded, [[1]]);
      await publish(2);
      await received(room, [2]);
      await cut(room, () => publish(3));
      await received(room, [2, 3]);
      assert.equal(loaded.length, 1, 'what was missed came: nothing is loaded');
      await cut(room, async () => {
        for (const n of [4, 5, 6, 7, 8]) await publish(n);
      });
      await until(() => loaded.length === 2, 'the state is loaded again');
      assert.deepEqual(loaded[1], [1, 2, 3, 4, 5, 6, 7, 8]);
      await publish(9);
      await received(room, [2, 3, 9]);
    });

    test('pages of history and recoveries are as long as configured', async () => {
      for (let n = 1; n <= 10; n += 1) await daemon.publish('limits', n);
      const one = client(proxy.ws);
      one.connect();
      const room = await subscribed(one, 'limits', { recoverable: true, positioned: true });
      assert.equal((await room.history({ limit: 100 })).publications.length, 4);
      assert.equal((await daemon.api('history', { channel: 'limits', limit: 100 })).publications.length, 4);
      const missing = (count) => cut(room, async () => {
        for (let n = 0; n < count; n += 1) await daemon.publish('limits', 0);
      });
      assert.equal((await missing(6)).recovered, true);
      assert.equal((await missing(7)).recovered, false);
    });
  });
}
