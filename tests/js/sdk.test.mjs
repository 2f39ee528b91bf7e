// npm centrifuge, unmodified: everything a client asks for itself.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, forms, received, runs, sdk, subscribed, token, unixNow, watch } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { next, sleep, until } from './support/wait.mjs';

for (const [driver, form] of drivers.flatMap((driver) => forms.map((form) => [driver, form]))) {
  describe(`the SDK in ${form} on ${driver}`, () => {
    let daemon;
    const clients = [];
    const client = (options) => {
      const made = sdk(daemon.ws, { form, ...options });
      clients.push(made);
      return made;
    };
    // One name a test: channels outlive their tests.
    const name = () => `room-${(name.count = (name.count ?? 0) + 1)}`;

    // Begun first and looked at last: the daemon gives a client half a minute to bring a new token.
    let expiring;

    before(async () => {
      const closed = { name: 'closed', history_size: 10, history_ttl: '1m' };
      const bare = { name: 'bare', allow_subscribe_for_client: true };
      const forced = {
        name: 'forced', history_size: 10, history_ttl: '1m', allow_subscribe_for_client: true,
        force_recovery: true, force_positioning: true,
      };
      const own = { name: 'own', allow_subscribe_for_client: true, allow_publish_for_subscriber: true };
      daemon = await Daemon.start({ driver, config: configuration({ namespace: [closed, bare, forced, own] }) });
      if (form !== forms[0]) return;
      const raw = await RawSocket.speaking(form, daemon.port);
      raw.command({ id: 1, connect: { token: token('eve', { exp: unixNow() + 2 }) } });
      expiring = { connect: (await raw.message()).connect, closing: raw.closed() };
    });

    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('connects and is told who it is', async () => {
      const event = await connected(client());
      assert.match(event.client, /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/);
      assert.equal(event.transport, 'websocket');
      const other = await connected(client());
      assert.notEqual(other.client, event.client);
    });

    test('the connect reply tells ping, client and version', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      assert.equal(raw.connected.ping, 25);
      assert.equal(raw.connected.pong, true);
      for (const field of ['client', 'version']) {
        assert.ok(raw.connected[field]?.length > 0, field);
      }
      assert.equal(raw.connected.expires, undefined, 'a zero value is omitted');
      raw.destroy();
    });

    test('gets what is published over HTTP, as it was written', async () => {
      const channel = name();
      const subscription = await subscribed(client(), channel);
      const documents = [
        { text: 'Ελληνικά 😀 \u0000 \u2028', list: [1, 2.5, -3e10, null, true] },
        'a string', 12, null, [], {}, { deep: { deeper: { deepest: [{}] } } },
      ];
      for (const data of documents) await daemon.publish(channel, data);
      await received(subscription, documents);
      assert.deepEqual(subscription.seen.publications.map((p) => p.offset), documents.map((_, at) => at + 1));
      assert.equal(subscription.seen.publications[0].info, undefined, 'nobody published it');
    });

    test('numbers beyond a double and the spacing of JSON pass unread', async () => {
      const channel = name();
      const raw = await RawSocket.client(daemon.port, form);
      raw.command({ id: 2, subscribe: { channel } });
      assert.equal((await raw.message()).id, 2);
      const exact = '{"n": 123456789012345678901234567890, "x" :1e400 }';
      const { status } = await daemon.apiRaw('publish', `{"channel":"${channel}","data":${exact}}`);
      assert.equal(status, 200);
      const { payload } = await raw.frame();
      assert.ok(payload.toString().includes(exact), payload.toString());
      raw.destroy();
    });

    test('tags travel with the publication', async () => {
      const channel = name();
      const subscription = await subscribed(client(), channel);
      await daemon.publish(channel, 1, { tags: { kind: 'quote "x"', empty: '' } });
      await received(subscription, [1]);
      assert.deepEqual(subscription.seen.publications[0].tags, { kind: 'quote "x"', empty: '' });
    });

    test('publishes to everyone, itself too, with its name on it', async () => {
      const channel = name();
      const publisher = client({ token: token('alice', { info: { role: 'author' } }) });
      const { client: id } = await connected(publisher);
      const mine = await subscribed(publisher, channel);
      const reader = client();
      reader.connect();
      const theirs = await subscribed(reader, channel);
      await mine.publish({ n: 1 });
      await publisher.publish(channel, { n: 2 });
      for (const subscription of [mine, theirs]) {
        await received(subscription, [{ n: 1 }, { n: 2 }]);
        const { info } = subscription.seen.publications[0];
        assert.equal(info.client, id);
        assert.equal(info.user, 'alice');
        assert.deepEqual(info.connInfo, { role: 'author' });
      }
    });

    test('sees who is there: presence and its stats', async () => {
      const channel = name();
      const members = [client({ token: token('alice', { info: { n: 1 } }) }), client({ token: token('alice') }),
        client({ token: token('bob') })];
      const ids = [];
      for (const member of members) {
        ids.push((await connected(member)).client);
        await subscribed(member, channel);
      }
      const { clients: present } = await members[0].getSubscription(channel).presence();
      assert.deepEqual(Object.keys(present).sort(), [...ids].sort());
      assert.equal(present[ids[0]].user, 'alice');
      assert.deepEqual(present[ids[0]].connInfo, { n: 1 });
      const stats = await members[2].presenceStats(channel);
      assert.deepEqual([stats.numClients, stats.numUsers], [3, 2]);
      members[1].disconnect();
      await until(async () => (await members[2].presenceStats(channel)).numClients === 2, 'the leave is seen');
      assert.equal((await members[2].presenceStats(channel)).numUsers, 2);
    });

    test('reads history from both ends and from a position', async () => {
      const channel = name();
      const reader = client();
      const subscription = await subscribed(reader, channel);
      for (let n = 1; n <= 10; n += 1) await daemon.publish(channel, n);
      await received(subscription, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);

      const top = await subscription.history({ limit: 0 });
      assert.deepEqual([top.publications.length, top.offset], [0, 10]);
      assert.ok(top.epoch.length > 0);
      const data = async (options) => (await subscription.history(options)).publications.map((p) => p.data);
      assert.deepEqual(await data({ limit: -1 }), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      assert.deepEqual(await data({ limit: 3 }), [1, 2, 3]);
      assert.deepEqual(await data({ limit: 3, reverse: true }), [10, 9, 8]);
      const since = { offset: 4, epoch: top.epoch };
      assert.deepEqual(await data({ limit: 3, since }), [5, 6, 7]);
      assert.deepEqual(await data({ limit: 10, since, reverse: true }), [3, 2, 1]);
      await assert.rejects(subscription.history({ limit: 3, since: { offset: 4, epoch: 'other' } }), { code: 112 });
    });

    test('an rpc that nobody serves is not available', async () => {
      const caller = client();
      await connected(caller);
      await assert.rejects(caller.rpc('anything', { x: 1 }), { code: 108 });
    });

    test('send has no answer and does no harm', async () => {
      const sender = client();
      await connected(sender);
      await sender.send({ any: 'thing' });
      await assert.rejects(sender.rpc('after', {}), { code: 108 }, 'the connection still answers');
      assert.deepEqual(sender.log.disconnected, []);
    });

    test('join and leave are pushed to those who ask', async () => {
      const channel = name();
      const watcher = client();
      watcher.connect();
      const subscription = await subscribed(watcher, channel, { joinLeave: true });
      const deafClient = client();
      deafClient.connect();
      const deaf = await subscribed(deafClient, channel);
      const guest = client({ token: token('guest', { info: { name: 'G' } }) });
      const { client: id } = await connected(guest);
      const guests = await subscribed(guest, channel);
      const of = (events) => events.filter((event) => event.info.client === id);
      await until(() => of(subscription.seen.joins).length === 1, 'the join');
      guests.unsubscribe();
      await until(() => of(subscription.seen.leaves).length === 1, 'the leave');
      guests.subscribe();
      await until(() => of(subscription.seen.joins).length === 2, 'the second join');
      guest.disconnect();
      await until(() => of(subscription.seen.leaves).length === 2, 'the leave of a disconnect');
      const { info } = of(subscription.seen.joins)[0];
      assert.deepEqual([info.user, info.connInfo], ['guest', { name: 'G' }]);
      assert.deepEqual([deaf.seen.joins, deaf.seen.leaves], [[], []], 'who did not ask is not told');
    });

    test('a hundred subscriptions go out with connect in one frame, and all are answered', async () => {
      const subscriber = client();
      const channels = Array.from({ length: 100 }, name);
      const subscriptions = channels.map((channel) => watch(subscriber, channel));
      subscriptions.forEach((subscription) => subscription.subscribe());
      subscriber.connect();
      await until(() => subscriptions.every((s) => s.seen.subscribed.length === 1), 'all are subscribed');
      for (const channel of channels) await daemon.publish(channel, channel);
      for (const [at, subscription] of subscriptions.entries()) await received(subscription, [channels[at]]);
    });

    test('every command of a batch in one frame is answered, and they take effect in order', async () => {
      const raw = await RawSocket.speaking(form, daemon.port);
      const channel = name();
      raw.command(
        { id: 1, connect: {} },
        { id: 2, subscribe: { channel } },
        { id: 3, publish: { channel, data: 1 } },
        { id: 4, presence_stats: { channel } },
        { id: 5, history: { channel, limit: 0 } },
        { id: 6, rpc: { method: 'x', data: {} } },
        { id: 7, unsubscribe: { channel } },
      );
      const replies = await raw.replies(7);
      assert.ok(replies[1].connect && replies[2].subscribe, JSON.stringify(replies));
      assert.deepEqual(replies[3].publish, {});
      assert.equal(replies[4].presence_stats.num_clients, 1, 'it is subscribed before it asks who is');
      assert.equal(replies[5].history.offset, 1, 'it has published before it asks for the position');
      assert.deepEqual(replies[6].error, { code: 108, message: 'not available' });
      assert.deepEqual(replies[7].unsubscribe, {});
      await until(async () => !(await daemon.api('channels')).channels[channel], 'it is not subscribed in the end');
      raw.destroy();
    });

    test('subscribe and publish in one frame: the subscriber\'s right to publish counts already', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      raw.command({ id: 2, subscribe: { channel: 'own:at-once' } }, { id: 3, publish: { channel: 'own:at-once', data: 1 } });
      const replies = await raw.replies(3, 2);
      assert.equal(replies[3].error, undefined, JSON.stringify(replies[3]));
      raw.destroy();
    });

    test('subscribe and unsubscribe at once, many times: what stands last counts', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      const channel = name();
      for (let round = 0; round < 50; round += 1) {
        const id = 10 + 2 * round;
        raw.command({ id, subscribe: { channel } }, { id: id + 1, unsubscribe: { channel } });
        const replies = await raw.replies(id + 1, id);
        assert.ok(replies[id + 1].unsubscribe, JSON.stringify(replies[id + 1]));
      }
      await until(async () => !(await daemon.api('channels')).channels[channel], 'nobody is subscribed');
      raw.destroy();
    });

    test('unsubscribe ends the flow, subscribe begins it again', async () => {
      const channel = name();
      const reader = client();
      reader.connect();
      const subscription = await subscribed(reader, channel);
      await daemon.publish(channel, 'before');
      await received(subscription, ['before']);
      subscription.unsubscribe();
      assert.deepEqual(subscription.seen.unsubscribed.map((event) => event.code), [0]);
      await until(async () => !(await daemon.api('channels', {})).channels[channel], 'the daemon has it too');
      await daemon.publish(channel, 'between');
      subscription.subscribe();
      await until(() => subscription.seen.subscribed.length === 2, 'the second subscription');
      await daemon.publish(channel, 'after');
      await received(subscription, ['before', 'after']);
    });

    test('what a namespace does not allow is refused', async () => {
      const asking = client();
      await connected(asking);
      const refused = async (channel) => {
        const subscription = watch(asking, channel);
        subscription.subscribe();
        await until(() => subscription.seen.unsubscribed.length > 0, `${channel} is refused`);
        return subscription.seen.unsubscribed[0].code;
      };
      assert.equal(await refused('closed:x'), 103);
      assert.equal(await refused('nowhere:x'), 102);
      const bare = await subscribed(asking, 'bare:x');
      await assert.rejects(bare.publish(1), { code: 103 });
      await assert.rejects(asking.publish('closed:x', 1), { code: 103 });
      await assert.rejects(asking.publish('own:x', 1), { code: 103 }, 'not subscribed');
      const own = await subscribed(asking, 'own:x');
      await own.publish('subscribers may');
      await received(own, ['subscribers may']);
      // Neither allowed nor kept: either refusal is true.
      for (const ask of [bare.presence(), bare.presenceStats(), bare.history({ limit: 1 })]) {
        await assert.rejects(ask, (error) => [103, 108].includes(error.code));
      }
    });

    test('a namespace can force positions and recovery', async () => {
      const reader = client();
      reader.connect();
      const subscription = await subscribed(reader, 'forced:x');
      const [event] = subscription.seen.subscribed;
      assert.deepEqual([event.positioned, event.recoverable], [true, true]);
      assert.ok(event.streamPosition.epoch.length > 0);
    });

    test('a second subscription to the same channel is an error of the command', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      const channel = name();
      raw.command({ id: 2, subscribe: { channel } }, { id: 3, subscribe: { channel } });
      const replies = await raw.replies(3, 2);
      assert.ok(replies[2].subscribe, JSON.stringify(replies[2]));
      assert.deepEqual(replies[3].error, { code: 105, message: 'already subscribed' });
      raw.destroy();
    });

    test('a token names the user; a bad or an old one is refused', async () => {
      const wrong = client({ token: token('eve', {}, 'another secret of the same length!!') });
      const ended = next(wrong, 'disconnected');
      wrong.connect();
      assert.equal((await ended).code, 3500);

      const old = token('carol', { exp: unixNow() - 10 });
      const asked = [];
      const renewing = client({
        token: old,
        getToken: async () => {
          asked.push(1);
          return token('carol', { exp: unixNow() + 3600 });
        },
      });
      await connected(renewing);
      assert.equal(asked.length, 1, 'error 109 made the SDK ask for a new token');
    });

    test('a connection is refreshed when its token ends', async () => {
      let asked = 0;
      const renewing = client({
        token: token('dave', { exp: unixNow() + 3 }),
        getToken: async () => {
          asked += 1;
          return token('dave', { exp: unixNow() + 3600 });
        },
      });
      await connected(renewing);
      await until(() => asked === 1, 'the SDK refreshes in time');
      await assert.rejects(renewing.rpc('x', {}), { code: 108 });
      assert.deepEqual(renewing.log.connecting.length, 1, 'never a second connection');
    });

    // Once for a driver: it is a long wait.
    if (form !== forms[0]) return;
    test('a connection whose token ends without a refresh ends after a while for it', async () => {
      const { connect } = expiring;
      assert.equal(connect.expires, true);
      assert.ok(connect.ttl > 0 && connect.ttl <= 2, `ttl ${connect.ttl}`);
      assert.deepEqual(await expiring.closing, { code: 3005, reason: 'connection expired' });
    });
  });
}

for (const { driver, form } of runs) {
  describe(`pings in ${form} on ${driver}`, () => {
    let daemon;
    before(async () => {
      const client = { ping_interval: '2s', pong_timeout: '1500ms' };
      daemon = await Daemon.start({ driver, config: configuration({ client }) });
    });
    after(async () => assert.equal(await daemon.stop(), 0));

    test('a client that answers lives on through many', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      raw.answering = false;
      assert.equal(raw.connected.ping, 2);
      for (let n = 0; n < 3; n += 1) {
        assert.deepEqual(await raw.message(), {}, 'a ping is an empty message');
        raw.command({});
      }
      raw.destroy();
    });

    test('a client that does not answer is closed with 3012', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      raw.answering = false;
      assert.deepEqual(await raw.closed(), { code: 3012, reason: 'no pong' });
    });

    test('a pong that answers nothing is a bad request', async () => {
      const raw = await RawSocket.client(daemon.port, form);
      raw.command({});
      assert.deepEqual(await raw.closed(), { code: 3501, reason: 'bad request' });
    });

    test('the SDK stays, with traffic and without', async () => {
      const staying = sdk(daemon.ws, { form });
      await connected(staying);
      const subscription = await subscribed(staying, 'ticks');
      // Several intervals of silence, each ended by a pong of the SDK.
      await sleep(5000);
      await daemon.publish('ticks', 'still here');
      await received(subscription, ['still here']);
      assert.equal(staying.log.connecting.length, 1, 'never a second connection');
      staying.disconnect();
    });
  });
}
