// A client that was cut off gets what it missed: once, in order, or it is told that it cannot.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration } from './support/daemon.mjs';
import { Proxy } from './support/proxy.mjs';
import { received, runs, sdk, subscribed, token } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { next, sleep, until } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

for (const { driver, form } of runs) {
  describe(`recovery in ${form} on ${driver}`, () => {
    let daemon;
    let proxy;
    const clients = [];

    /** A client behind the proxy, subscribed with recovery. */
    const behind = async (channel, options = {}) => {
      const client = sdk(proxy.ws, { form, ...options });
      clients.push(client);
      client.connect();
      return subscribed(client, channel, { recoverable: true, positioned: true });
    };

    /** Cuts the connection, does `meanwhile`, lets it return, and waits until it is subscribed again. */
    const cutDuring = async (subscription, meanwhile) => {
      const before = subscription.seen.subscribed.length;
      proxy.cut();
      await until(() => subscription.state === 'subscribing', 'the cut is noticed');
      await meanwhile();
      proxy.allow();
      await until(() => subscription.seen.subscribed.length > before, 'it is subscribed again');
      return subscription.seen.subscribed.at(-1);
    };

    before(async () => {
      const namespace = [{
        name: 'short', history_size: 5, history_ttl: '10m', allow_subscribe_for_client: true,
      }, {
        name: 'brief', history_size: 100, history_ttl: '1s', allow_subscribe_for_client: true,
      }];
      daemon = await Daemon.start({ driver, config: configuration({ namespace }), args: ['--shards', '3'] });
      proxy = await Proxy.to(daemon.port);
    });

    after(async () => {
      clients.forEach((client) => client.disconnect());
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
    });

    test('ten published while it is cut off for seconds: all arrive, once, in order', async () => {
      const room = await behind('news');
      await daemon.publish('news', 1);
      await received(room, [1]);
      const event = await cutDuring(room, async () => {
        for (const n of range(2, 11)) await daemon.publish('news', n);
        await sleep(3000);
      });
      assert.deepEqual([event.wasRecovering, event.recovered], [true, true]);
      await received(room, range(1, 11));
      // Live again, and nothing twice.
      await daemon.publish('news', 12);
      await received(room, range(1, 12));
      assert.deepEqual(room.seen.publications.map((p) => p.offset), range(1, 12));
    });

    test('cut again and again while a publisher never pauses', async () => {
      const room = await behind('stream');
      let published = 0;
      let stopped = false;
      const publisher = (async () => {
        while (!stopped) {
          published += 1;
          await daemon.publish('stream', published);
          await sleep(2);
        }
      })();
      for (let round = 0; round < 8; round += 1) {
        const event = await cutDuring(room, () => sleep(50));
        assert.equal(event.recovered, true);
        await sleep(50);
      }
      stopped = true;
      await publisher;
      await received(room, range(1, published));
    });

    test('nothing missed is recovered too', async () => {
      const room = await behind('quiet');
      await daemon.publish('quiet', 1);
      await received(room, [1]);
      const event = await cutDuring(room, async () => {});
      assert.deepEqual([event.wasRecovering, event.recovered, event.hasRecoveredPublications], [true, true, false]);
      await received(room, [1]);
    });

    test('from an empty channel', async () => {
      const room = await behind('empty');
      const event = await cutDuring(room, async () => {
        for (const n of [1, 2, 3]) await daemon.publish('empty', n);
      });
      assert.equal(event.recovered, true);
      await received(room, [1, 2, 3]);
    });

    test('more missed than the history keeps: it is told, none of it comes', async () => {
      const room = await behind('short:x');
      await daemon.publish('short:x', 0);
      await received(room, [0]);
      const event = await cutDuring(room, async () => {
        for (const n of range(1, 6)) await daemon.publish('short:x', n);
      });
      assert.deepEqual([event.wasRecovering, event.recovered], [true, false]);
      assert.equal(event.streamPosition.offset, 7, 'it starts again at the top');
      await daemon.publish('short:x', 'after');
      await received(room, [0, 'after']);
    });

    test('exactly as much as the history keeps is recovered', async () => {
      const room = await behind('short:y');
      await daemon.publish('short:y', 0);
      await received(room, [0]);
      const event = await cutDuring(room, async () => {
        for (const n of range(1, 5)) await daemon.publish('short:y', n);
      });
      assert.equal(event.recovered, true);
      await received(room, range(0, 5));
    });

    test('history that has run out by age is not recovered', async () => {
      const room = await behind('brief:x');
      await daemon.publish('brief:x', 0);
      await received(room, [0]);
      const event = await cutDuring(room, async () => {
        await daemon.publish('brief:x', 1);
        await until(
          async () => (await daemon.api('history', { channel: 'brief:x', limit: 10 })).publications.length === 0,
          'the history runs out',
        );
      });
      assert.equal(event.recovered, false);
    });

    test('history that was removed is not recovered', async () => {
      const room = await behind('removed');
      await daemon.publish('removed', 0);
      await received(room, [0]);
      const event = await cutDuring(room, async () => {
        await daemon.publish('removed', 1);
        await daemon.api('history_remove', { channel: 'removed' });
      });
      assert.equal(event.recovered, false);
    });

    test('a foreign epoch is not recovered; flag 2 asks for error 112 instead', async () => {
      await daemon.publish('epochs', 1);
      const raw = await RawSocket.client(daemon.port, form);
      const recover = { channel: 'epochs', recover: true, recoverable: true, offset: 1, epoch: 'elsewhere' };
      raw.command({ id: 2, subscribe: { ...recover, flag: 1 } });
      const { subscribe } = await raw.message();
      assert.equal(subscribe.recovered ?? false, false);
      assert.equal(subscribe.was_recovering, true);
      assert.equal(subscribe.offset, 1);
      raw.command({ id: 3, unsubscribe: { channel: 'epochs' } }, { id: 4, subscribe: { ...recover, flag: 2 } });
      assert.equal((await raw.message()).id, 3);
      const { id, error } = await raw.message();
      assert.deepEqual([id, error?.code], [4, 112]);
      raw.destroy();
    });

    test('the reply tells the asked offset and carries what was missed', async () => {
      for (const n of range(1, 4)) await daemon.publish('reply', n);
      const { epoch } = await daemon.api('history', { channel: 'reply' });
      const raw = await RawSocket.client(daemon.port, form);
      raw.command({ id: 2, subscribe: { channel: 'reply', recover: true, recoverable: true, offset: 2, epoch } });
      const { subscribe } = await raw.message();
      assert.deepEqual(subscribe.publications.map((p) => [p.offset, p.data]), [[3, 3], [4, 4]]);
      assert.deepEqual(
        [subscribe.recovered, subscribe.was_recovering, subscribe.offset, subscribe.epoch, subscribe.recoverable],
        [true, true, 2, epoch, true],
      );
      raw.destroy();
    });

    test('an offset from the future is not recovered', async () => {
      await daemon.publish('future', 1);
      const { epoch } = await daemon.api('history', { channel: 'future' });
      const raw = await RawSocket.client(daemon.port, form);
      raw.command({ id: 2, subscribe: { channel: 'future', recover: true, recoverable: true, offset: 9, epoch } });
      const { subscribe } = await raw.message();
      assert.deepEqual([subscribe.recovered ?? false, subscribe.offset], [false, 1]);
      raw.destroy();
    });

    test('a client without recovery subscribes again and asks for nothing', async () => {
      const client = sdk(proxy.ws, { form });
      clients.push(client);
      client.connect();
      const room = await subscribed(client, 'plain');
      await daemon.publish('plain', 1);
      await received(room, [1]);
      const event = await cutDuring(room, () => daemon.publish('plain', 2));
      assert.deepEqual([event.wasRecovering, event.recovered], [false, false]);
      await daemon.publish('plain', 3);
      await received(room, [1, 3]);
    });

    test('a daemon that was killed and restarted: clients come back and are told that history is gone', async () => {
      const first = await Daemon.start({ driver });
      const way = await Proxy.to(first.port);
      const client = sdk(way.ws, { form });
      clients.push(client);
      client.connect();
      const room = await subscribed(client, 'reborn', { recoverable: true });
      await first.publish('reborn', 1);
      await received(room, [1]);
      await first.kill();
      const second = await Daemon.start({ driver });
      // The same offset exists again, in another life of the channel.
      await second.publish('reborn', 'other');
      way.target = second.port;
      await until(() => room.seen.subscribed.length === 2, 'it is subscribed again');
      assert.deepEqual([room.seen.subscribed[1].wasRecovering, room.seen.subscribed[1].recovered], [true, false]);
      await second.publish('reborn', 2);
      await received(room, [1, 2]);
      client.disconnect();
      await way.close();
      assert.equal(await second.stop(), 0);
    });

    test('many channels of one client are recovered together', async () => {
      const client = sdk(proxy.ws, { form, token: token('reader') });
      clients.push(client);
      client.connect();
      const rooms = [];
      for (const n of range(1, 20)) {
        rooms.push(await subscribed(client, `many-${n}`, { recoverable: true, positioned: true }));
      }
      const back = next(client, 'connecting');
      proxy.cut();
      await back;
      for (const n of range(1, 5)) {
        await daemon.api('broadcast', { channels: rooms.map((room) => room.channel), data: n });
      }
      proxy.allow();
      for (const room of rooms) {
        await received(room, range(1, 5));
        assert.equal(room.seen.subscribed.at(-1).recovered, true);
      }
    });
  });
}
