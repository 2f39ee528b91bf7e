// What npm centrifuge is tested with in its own repository, against the daemon. Its tests are in no package: each of their cases
// that talks to a server has a test here or elsewhere, written from its subject alone, with the SDK as it is published.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { UnauthorizedError } from 'centrifuge';
import { UnauthorizedError as UnauthorizedErrorOfProtobuf } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

import { Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { connected, forms, over, received, sdk, subscribed, token, transports, watch } from './support/sdk.mjs';
import { next, sleep, until } from './support/wait.mjs';

/** Cases of theirs by file (src/*.test.ts), and the test of ours that holds the same. Without a file: in this one. */
export const CASES = {
  'centrifuge, centrifuge.protobuf': {
    'connects and disconnects': 'connects, and disconnects when it is told to',
    'subscribe and unsubscribe': 'subscribes and unsubscribes',
    'publish and receive message': 'gets what it publishes',
    'rpc buffered till connected': 'an rpc before the connect waits for it',
    'handles offline/online events': 'goes when the network goes, and comes back with it',
    'not connecting on online in disconnected state': 'stays disconnected when the network comes',
    'subscribe and presence': 'sees itself in the presence',
    'connect disconnect loop': 'connects and disconnects ten times at once',
    'subscribe and unsubscribe loop': 'subscribes and unsubscribes ten times at once, and is counted rightly',
    'unsubscribe right after connect': 'unsubscribes while it connects',
    'unsubscribe in between connect command and reply': 'unsubscribes between its connect and the reply',
    'reconnect after close before transport open': 'comes back when it is cut before it is open',
    'subscribes and unsubscribes from many subs': 'subscribes to many channels with tokens, and leaves them all',
  },
  'delta (streams)': {
    'successive publications decoded correctly': 'delta.test.mjs: the first publication is whole and the next ones are patches',
    'recovery after disconnect': 'delta.test.mjs: who comes later, and who was away, goes on with patches',
    'recovery after unsubscribe/resubscribe': 'deltas go on behind an unsubscribe',
    'many publications with small diffs': 'deltas go on behind an unsubscribe',
  },
  getstate: {
    'is called on initial subscribe and position is used for recovery': 'getState says where a subscription begins',
    'is NOT called on reconnect when recovery succeeds': 'modes.test.mjs: getState of the SDK is asked at the beginning, and when the position is lost',
    'without getState, subscribe uses since option': 'since says where a subscription begins',
    'error triggers resubscribe with error event': 'getState that fails is asked again',
    'persistent failure keeps retrying without unsubscribing': 'getState that fails is asked again',
    'with real position recovers missed publications': 'getState says where a subscription begins',
    'is called when recovery fails (unrecoverable position)': 'modes.test.mjs: getState of the SDK is asked at the beginning, and when the position is lost',
  },
  'recovery (streams)': {
    'recovery after disconnect delivers missed publications': 'recovery.test.mjs: ten published while it is cut off for seconds: all arrive, once, in order',
    'recovery after unsubscribe/resubscribe': 'what was published behind an unsubscribe comes with the next subscribe',
    'publications not delivered after unsubscribe() from a subscribed handler are recovered later': 'what a handler leaves comes with the next subscribe',
    'publications not delivered after unsubscribe() from a publication handler are recovered later': 'what a handler leaves comes with the next subscribe',
    'unrecoverable position resubscribes without recovery': 'recovery.test.mjs: more missed than the history keeps: it is told, none of it comes',
  },
  transport_recovery: {
    'a subscription made before connect still subscribes once the transport works': 'a transport that fails at first carries everything in the end',
    'a subscription resubscribes after the socket is dropped mid-session': 'recovery.test.mjs: nothing missed is recovered too',
    'publish, receive and history all work after recovering': 'a transport that fails at first carries everything in the end',
    'falling back to an emulation transport yields a usable connection': 'falls back to the transport that works',
    'rotates through a three transport list until one works': 'falls back to the transport that works',
    'UnauthorizedError from getToken still terminates the client': 'a token that there is not ends the client, one that fails is asked for again',
    'a failing getToken still reports connectToken and keeps retrying': 'a token that there is not ends the client, one that fails is asked for again',
    'disconnect during an in-flight getToken leaves no transport behind': 'a token that there is not ends the client, one that fails is asked for again',
    'offline then online reconnects': 'goes when the network goes, and comes back with it',
    'offline arriving during a failing attempt still recovers': 'comes back when it is cut before it is open',
    'rapid connect and disconnect cycles leave a working client': 'connects and disconnects ten times at once',
    'connect() called synchronously after disconnect() reconnects': 'connects and disconnects ten times at once',
  },
};

/** Files and cases of theirs that are not about streams of this daemon. */
export const NOT_OURS = {
  'centrifuge: invalid endpoint, no websocket constructor': 'the SDK refuses by itself, no server is asked',
  'transport_recovery: disconnect() from an error listener, no timers behind after disconnect': 'a socket that always throws, no server is reached',
  'map*, delta (map), recovery (map), transport_recovery (map), shared_poll*, debounce*': 'map subscriptions, shared polls and debounced publishing: parts of Centrifugo PRO and experiments',
  'compaction, dispatch_*, emulation_send, network_events, recovered_publications_state, transport_*': 'a server or a transport that the tests bring themselves, channel compaction of PRO, WebTransport',
  'codec.bench, dictionary_cache, frame_codec, json, protobuf.codec, stream_buffer, utils': 'codecs and functions of the SDK, without a server',
};

const ways = [...forms.map((form) => ({ transport: 'websocket', form })), ...transports];
const args = ['--shards', '3'];
const config = configuration({
  channel: { allow_delta: true, force_recovery: true },
  namespace: [{ ...open, name: 'asked', allow_subscribe_for_client: false }],
});

for (const [driver, way] of drivers.flatMap((driver) => ways.map((way) => [driver, way]))) {
  describe(`as the SDK is tested, over ${way.transport} in ${way.form} on ${driver}`, () => {
    let daemon;
    const clients = [];
    const client = (options = {}) => {
      const made = way.transport === 'websocket'
        ? sdk(daemon.ws, { form: way.form, ...options })
        : over(daemon.http, way, options);
      clients.push(made);
      return made;
    };
    const disconnected = async (one) => {
      const event = next(one, 'disconnected');
      one.disconnect();
      assert.equal((await event).code, 0);
      assert.equal(one.state, 'disconnected');
    };

    before(async () => {
      daemon = await Daemon.start({ driver, args, config });
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('connects, and disconnects when it is told to', async () => {
      const one = client();
      one.connect();
      await one.ready(20_000);
      assert.equal(one.state, 'connected');
      await disconnected(one);
    });

    test('subscribes and unsubscribes', async () => {
      const one = client();
      const room = await subscribed(one, 'twice');
      room.unsubscribe();
      await until(() => room.seen.unsubscribed.length === 1, 'unsubscribed');
      assert.equal(room.seen.unsubscribed[0].code, 0);
      assert.equal(room.state, 'unsubscribed');
      await disconnected(one);
    });

    test('gets what it publishes', async () => {
      const room = await subscribed(client(), 'echo');
      await room.publish({ my: 'data' });
      await received(room, [{ my: 'data' }]);
    });

    test('an rpc before the connect waits for it', async () => {
      const one = client();
      const answer = one.rpc('method', { my: 'data' });
      one.connect();
      await assert.rejects(answer, { code: 108 });
    });

    test('goes when the network goes, and comes back with it', async () => {
      const network = new EventTarget();
      const one = client({ networkEventTarget: network });
      await connected(one);
      network.dispatchEvent(new Event('offline'));
      assert.equal(one.state, 'connecting');
      assert.equal(one.log.connecting.at(-1).code, 1);
      network.dispatchEvent(new Event('online'));
      await until(() => one.state === 'connected', 'it is back');
      await disconnected(one);
    });

    test('stays disconnected when the network comes', async () => {
      const network = new EventTarget();
      const one = client({ networkEventTarget: network });
      await connected(one);
      await disconnected(one);
      network.dispatchEvent(new Event('online'));
      await sleep(50);
      assert.equal(one.state, 'disconnected');
    });

    test('sees itself in the presence', async () => {
      const one = client({ token: token('ann') });
      const room = await subscribed(one, 'present');
      const { clients } = await room.presence();
      assert.deepEqual(Object.values(clients).map(({ user }) => user), ['ann']);
      const { numClients, numUsers } = await room.presenceStats();
      assert.deepEqual([numClients, numUsers], [1, 1]);
    });

    test('connects and disconnects ten times at once', async () => {
      const one = client();
      for (let n = 0; n < 10; n += 1) {
        one.connect();
        one.disconnect();
      }
      assert.equal(one.state, 'disconnected');
      one.connect();
      await one.ready(20_000);
      one.disconnect();
      one.connect();
      await one.ready(20_000);
      const room = await subscribed(one, 'after');
      await room.publish(1);
      await received(room, [1]);
    });

    test('subscribes and unsubscribes ten times at once, and is counted rightly', async () => {
      const one = client();
      await connected(one);
      const room = watch(one, 'counted');
      for (let n = 0; n < 10; n += 1) {
        room.subscribe();
        room.unsubscribe();
      }
      assert.equal(room.state, 'unsubscribed');
      room.subscribe();
      await room.ready(20_000);
      const { numClients, numUsers } = await room.presenceStats();
      assert.deepEqual([numClients, numUsers], [1, 1]);
      assert.equal(Object.keys((await room.presence()).clients).length, 1);
      room.unsubscribe();
      const other = client();
      await connected(other);
      await until(async () => (await other.presenceStats('counted')).numClients === 0, 'nobody is there');
      assert.deepEqual((await other.presence('counted')).clients, {});
    });

    test('unsubscribes while it connects', async () => {
      const one = client();
      await connected(one);
      const room = watch(one, 'while');
      room.subscribe();
      one.disconnect();
      one.connect();
      room.unsubscribe();
      assert.equal(room.state, 'unsubscribed');
      room.subscribe();
      await room.ready(20_000);
      await daemon.publish('while', 1);
      await received(room, [1]);
    });

    // The requests of the others bring their subscribes only when the connect has been answered.
    if (way.transport === 'websocket') test('unsubscribes between its connect and the reply', async () => {
      const one = client();
      const room = watch(one, 'between');
      one.once('__centrifuge_debug:connect_frame_sent', () => room.unsubscribe());
      room.subscribe();
      one.connect();
      await one.ready(20_000);
      assert.equal(room.state, 'unsubscribed');
      room.subscribe();
      await room.ready(20_000);
      await daemon.publish('between', 1);
      await received(room, [1]);
    });

    test('comes back when it is cut before it is open', async () => {
      const network = new EventTarget();
      const one = client({ networkEventTarget: network });
      one.once('__centrifuge_debug:transport_initialized', () => {
        network.dispatchEvent(new Event('offline'));
        network.dispatchEvent(new Event('online'));
      });
      one.connect();
      await one.ready(20_000);
      await disconnected(one);
    });

    test('subscribes to many channels with tokens, and leaves them all', async () => {
      const one = client();
      const channels = [1, 2, 3, 4, 5].map((n) => `asked:${n}`);
      const rooms = channels.map((channel) => watch(one, channel, {
        getToken: async () => {
          await sleep(Math.random() * 50);
          return token('', { channel });
        },
      }));
      one.connect();
      rooms.forEach((room) => room.subscribe());
      await Promise.all(rooms.map((room) => room.ready(20_000)));
      rooms.forEach((room) => room.unsubscribe());
      one.disconnect();
      for (const room of rooms) {
        await until(() => room.seen.unsubscribed.length === 1, 'unsubscribed');
        assert.equal(room.seen.unsubscribed[0].code, 0);
      }
    });

    test('what was published behind an unsubscribe comes with the next subscribe', async () => {
      const room = await subscribed(client(), 'away');
      await daemon.publish('away', 1);
      await received(room, [1]);
      room.unsubscribe();
      for (const n of [2, 3]) await daemon.publish('away', n);
      room.subscribe();
      await received(room, [1, 2, 3]);
      assert.equal(room.seen.subscribed.at(-1).recovered, true);
    });

    for (const event of ['subscribed', 'publication']) {
      test(`what a handler leaves comes with the next subscribe: ${event}`, async () => {
        const channel = `left-${event}`;
        const room = await subscribed(client(), channel);
        room.unsubscribe();
        for (const n of [1, 2, 3]) await daemon.publish(channel, n);
        room.once(event, () => room.unsubscribe());
        const left = next(room, 'unsubscribed');
        room.subscribe();
        await left;
        await received(room, event === 'subscribed' ? [] : [1]);
        room.subscribe();
        await received(room, [1, 2, 3]);
      });
    }

    test('deltas go on behind an unsubscribe', async () => {
      const padding = 'x'.repeat(500);
      const at = (n) => ({ n, padding });
      const room = await subscribed(client(), 'patched', { delta: 'fossil' });
      // One at a time: who lags gets whole publications.
      for (let n = 0; n < 10; n += 1) {
        await daemon.publish('patched', at(n));
        await received(room, Array.from({ length: n + 1 }, (_, n) => at(n)));
      }
      const stats = room.deltaStats();
      assert.deepEqual([stats.numPublications, stats.numFullPayloads, stats.numDeltaPayloads], [10, 1, 9]);
      assert.ok(stats.bytesReceived < stats.bytesDecoded);
      room.unsubscribe();
      for (const n of [10, 11]) await daemon.publish('patched', at(n));
      room.subscribe();
      await received(room, Array.from({ length: 12 }, (_, n) => at(n)));
      assert.equal(room.seen.subscribed.at(-1).recovered, true);
    });

    test('getState says where a subscription begins', async () => {
      for (const n of [1, 2, 3]) await daemon.publish('state', n);
      const { epoch } = await daemon.api('history', { channel: 'state', limit: 0 });
      for (const [state, wanted] of [[{ offset: 0, epoch: '' }, [1, 2, 3]], [{ offset: 1, epoch }, [2, 3]]]) {
        let asked = 0;
        const room = await subscribed(client(), 'state', { getState: async () => (asked += 1, state) });
        await received(room, wanted);
        assert.equal(asked, 1);
      }
    });

    test('since says where a subscription begins', async () => {
      for (const n of [1, 2]) await daemon.publish('since', n);
      const room = await subscribed(client(), 'since', { since: { offset: 0, epoch: '' } });
      await received(room, [1, 2]);
    });

    test('getState that fails is asked again', async () => {
      const one = client();
      await connected(one);
      let asked = 0;
      const room = watch(one, 'fails', {
        minResubscribeDelay: 10,
        maxResubscribeDelay: 10,
        getState: async () => {
          asked += 1;
          if (asked <= 3) throw new Error('the state cannot be read');
          return { offset: 0, epoch: '' };
        },
      });
      room.subscribe();
      await room.ready(20_000);
      assert.equal(asked, 4);
      assert.equal(room.seen.errors.length, 3);
      assert.match(room.seen.errors[0].error.message, /cannot be read/);
      assert.deepEqual(room.seen.unsubscribed, []);
    });

    test('a token that there is not ends the client, one that fails is asked for again', async () => {
      const Unauthorized = way.form === 'json' ? UnauthorizedError : UnauthorizedErrorOfProtobuf;
      const one = client({ getToken: () => Promise.reject(new Unauthorized('no')) });
      const end = next(one, 'disconnected');
      one.connect();
      assert.equal((await end).code, 1);
      let asked = 0;
      const other = client({
        getToken: async () => {
          asked += 1;
          if (asked <= 2) throw new Error('the backend is down');
          return token('bob');
        },
      });
      other.connect();
      await other.ready(20_000);
      assert.equal(asked, 3);
      assert.deepEqual(other.log.errors.map(({ type }) => type), ['connectToken', 'connectToken']);
      let release;
      const third = client({ getToken: () => new Promise((resolve) => (release = resolve)) });
      third.connect();
      third.disconnect();
      release(token('cid'));
      await sleep(50);
      assert.equal(third.state, 'disconnected');
    });
  });
}

for (const driver of drivers) {
  describe(`transports that fail, on ${driver}`, () => {
    let daemon;
    const clients = [];

    before(async () => {
      daemon = await Daemon.start({ driver, args, config });
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('a transport that fails at first carries everything in the end', async () => {
      let attempts = 0;
      class Flaky extends WebSocket {
        constructor(...given) {
          attempts += 1;
          if (attempts <= 3) throw new Error(`attempt ${attempts}`);
          super(...given);
        }
      }
      const one = sdk(daemon.ws, { websocket: Flaky });
      clients.push(one);
      const room = await subscribed(one, 'flaky');
      assert.equal(attempts, 4);
      await room.publish({ hello: 'again' });
      await received(room, [{ hello: 'again' }]);
      assert.equal((await room.history({ limit: 10 })).publications.length, 1);
      assert.equal((await room.presenceStats()).numClients, 1);
    });

    const blocked = function blocked() {
      throw new Error('blocked');
    };
    for (const [works, ...list] of [
      ['http_stream', 'websocket', 'http_stream'],
      ['sse', 'websocket', 'sse'],
      ['http_stream', 'websocket', 'sse', 'http_stream'],
    ]) {
      test(`falls back to the transport that works: ${list.join(', ')}`, async () => {
        const endpoint = (transport) => (transport === 'websocket' ? daemon.ws : `${daemon.http}/connection/${transport}`);
        const one = sdk(list.map((transport) => ({ transport, endpoint: endpoint(transport) })), {
          websocket: blocked,
          eventsource: works === 'sse' ? EventSource : blocked,
          fetch,
          readableStream: ReadableStream,
          emulationEndpoint: `${daemon.http}/emulation`,
        });
        clients.push(one);
        const room = await subscribed(one, `via-${list.length}-${works}`);
        await room.publish({ via: works });
        await received(room, [{ via: works }]);
      });
    }
  });
}

test('each case of the SDK is held by a test that there is', async () => {
  const { readFileSync } = await import('node:fs');
  const own = readFileSync(new URL(import.meta.url), 'utf8');
  for (const [of, cases] of Object.entries(CASES)) {
    for (const [theirs, ours] of Object.entries(cases)) {
      const [, file, name] = /^(?:(\S+\.test\.mjs): )?(.+)$/.exec(ours);
      const text = file ? readFileSync(new URL(file, import.meta.url), 'utf8') : own;
      const found = text.includes(`test('${name}`) || text.includes(`test(\`${name}`);
      assert.ok(found, `${of}: ${theirs} is held by "${ours}", which is not there`);
    }
  }
});
