// Who may do what: clients without a user, private channels, and what a grant changes for one subscription.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { configuration, Daemon, drivers, open } from './support/daemon.mjs';
import { connected, sdk, subscribed, token, watch } from './support/sdk.mjs';
import { next, until } from './support/wait.mjs';

/** What each of the four permissions is about. */
const ANONYMOUS = ['subscribe', 'publish', 'history', 'presence'];
const anonymous = (value, only = ANONYMOUS) =>
  Object.fromEntries(only.map((what) => [`allow_${what}_for_anonymous`, value]));

/** The status of a request without the SDK. */
async function status(daemon, path, params, body) {
  const method = body === undefined ? 'GET' : 'POST';
  const response = await fetch(`${daemon.http}${path}?${new URLSearchParams(params)}`, { method, body });
  await response.body?.cancel();
  return response.status;
}

/** What the client gets for each of the four on the channel: `true`, or the code of the error. */
async function allowed(client, channel) {
  const outcome = (call) => call.then(() => true, ({ code }) => code);
  const subscription = watch(client, channel);
  const answers = {
    publish: await outcome(client.publish(channel, 1)),
    history: await outcome(client.history(channel, { limit: 1 })),
    presence: await outcome(client.presence(channel)),
  };
  const { seen } = subscription;
  subscription.subscribe();
  await until(() => seen.subscribed.length + seen.unsubscribed.length > 0, `an answer about ${channel}`);
  const subscribe = seen.subscribed.length > 0 || seen.unsubscribed[0].code;
  client.removeSubscription(subscription);
  return { subscribe, ...answers };
}

const all = (answer) => Object.fromEntries(ANONYMOUS.map((what) => [what, answer]));

for (const driver of drivers) {
  describe(`permissions on ${driver}`, () => {
    const daemons = [];
    const clients = [];
    const start = async (options = {}) => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'], ...options });
      daemons.push(daemon);
      return daemon;
    };
    const client = async (daemon, options = {}) => {
      const made = sdk(daemon.ws, options);
      clients.push(made);
      const { client: id } = await connected(made);
      return Object.assign(made, { id });
    };
    after(async () => {
      clients.forEach((made) => made.disconnect());
      for (const daemon of daemons) assert.equal(await daemon.stop(), 0);
    });

    test('without a user nothing is allowed but what the namespace opens to the anonymous', async () => {
      const namespace = [
        { name: 'opened', ...open, ...anonymous(true) },
        ...ANONYMOUS.map((what) => ({ name: what, ...open, ...anonymous(true, [what]) })),
      ];
      const daemon = await start({ config: configuration({ client: { allow_anonymous: false }, namespace }) });
      const [ann, nobody] = [await client(daemon, { token: token('ann') }), await client(daemon, { token: token('') })];
      assert.deepEqual(await allowed(ann, 'c'), all(true));
      assert.deepEqual(await allowed(nobody, 'c'), all(103));
      assert.deepEqual(await allowed(nobody, 'opened:c'), all(true));
      for (const what of ANONYMOUS) {
        assert.deepEqual(await allowed(nobody, `${what}:c`), { ...all(103), [what]: true });
      }
      // The same without the SDK.
      for (const [user, open_, shut] of [['ann', 200, 200], ['', 200, 403]]) {
        const shown = { token: token(user), wait: 0 };
        for (const [channel, expected] of [['opened:c', open_], ['c', shut]]) {
          assert.equal(await status(daemon, '/poll', { channel, ...shown }), expected, `${channel} of "${user}"`);
          assert.equal(await status(daemon, '/history', { channel, ...shown }), expected);
          assert.equal(await status(daemon, '/publish', { channel, ...shown }, '1'), expected);
        }
      }
    });

    test('what is granted is granted to the anonymous', async () => {
      const backend = await Backend.start({ connect: () => ({ result: { channels: ['by-hook'] } }), subscribe: () => ({ result: {} }) });
      const daemon = await start({
        config: configuration({
          client: { allow_anonymous: false, connect_hook: 'connect' },
          namespace: [{ name: 'asked', subscribe_hook: 'subscribe' }],
          hook: backend.hooks(['connect', 'subscribe']),
        }),
      });
      const nobody = await client(daemon);
      await until(async () => (await daemon.api('presence', { channel: 'by-hook' })).presence[nobody.id], 'the hook counts');
      await assert.rejects(subscribed(nobody, 'not-granted'), /103/);
      await subscribed(nobody, 'asked:c');
      await subscribed(nobody, 'by-token', { token: token('', { channel: 'by-token' }) });
      await daemon.api('subscribe', { user: '', client: nobody.id, channel: 'by-api' });
      const of = async (channel) => Object.keys((await daemon.api('presence', { channel })).presence);
      assert.deepEqual([await of('by-token'), await of('by-api')], [[nobody.id], [nobody.id]]);
      const shown = { subscription_token: token('', { channel: 'by-token' }), wait: 0 };
      assert.equal(await status(daemon, '/poll', shown), 200);
      assert.equal(await status(daemon, '/poll', { channel: 'by-token', wait: 0 }), 403);
      await backend.stop();
    });

    test('a node that lets everybody in can have namespaces for known users', async () => {
      const namespace = [{ name: 'members', ...open, ...anonymous(false) }];
      const daemon = await start({ config: configuration({ namespace }) });
      const [ann, nobody] = [await client(daemon, { token: token('ann') }), await client(daemon)];
      assert.deepEqual(await allowed(nobody, 'c'), all(true));
      assert.deepEqual(await allowed(nobody, 'members:c'), all(103));
      assert.deepEqual(await allowed(ann, 'members:c'), all(true));
      assert.equal(await status(daemon, '/poll', { channel: 'c', wait: 0 }), 200);
      assert.equal(await status(daemon, '/poll', { channel: 'members:c', wait: 0 }), 403);
    });

    test('a private channel needs a token, in whatever namespace', async () => {
      const namespace = [{ name: 'chat', ...open, allow_user_limited_channels: true }];
      const daemon = await start({ config: configuration({ namespace }) });
      const [ann, nobody] = [await client(daemon, { token: token('ann') }), await client(daemon)];
      for (const channel of ['$c', '$chat:c', '$chat:c#ann']) {
        assert.deepEqual([await allowed(ann, channel), await allowed(nobody, channel)], [all(103), all(103)], channel);
        for (const path of ['/poll', '/history', '/sse']) {
          assert.equal(await status(daemon, path, { channel, wait: 0, token: token('ann') }), 403, `${path} of ${channel}`);
        }
        const own = token('ann', { channel });
        const subscription = await subscribed(ann, channel, { token: own });
        // A subscriber may what clients may elsewhere.
        await subscription.publish('hello');
        assert.equal((await subscription.history({ limit: 10 })).publications.length, 1);
        assert.deepEqual(Object.keys((await subscription.presence()).clients), [ann.id]);
        const shown = { subscription_token: own, token: token('ann'), wait: 0 };
        assert.equal(await status(daemon, '/poll', { channel, ...shown }), 200);
      }
      await assert.rejects(subscribed(nobody, '$chat:d#ann', { token: token('', { channel: '$chat:d#ann' }) }), /103/);
      await assert.rejects(subscribed(ann, '$nowhere:c', { token: token('ann', { channel: '$nowhere:c' }) }), /102/);
      await daemon.api('subscribe', { user: 'ann', channel: '$by-api' });
      assert.deepEqual(Object.keys((await daemon.api('presence', { channel: '$by-api' })).presence), [ann.id]);
    });

    test('private channels have another prefix, or there are none', async () => {
      for (const [prefix, shut, opened] of [['private-', 'private-c', '$c'], ['', undefined, '$c']]) {
        const daemon = await start({ config: configuration({ client: { private_channel_prefix: prefix } }) });
        const ann = await client(daemon, { token: token('ann') });
        await subscribed(ann, opened);
        if (shut) await assert.rejects(subscribed(ann, shut), /103/);
      }
    });

    test('development mode is open', async () => {
      const daemon = await start({ config: null });
      const nobody = await client(daemon);
      assert.deepEqual([await allowed(nobody, 'c'), await allowed(nobody, '$c')], [all(true), all(true)]);
      assert.equal(await status(daemon, '/poll', { channel: '$c', wait: 0 }), 200);
    });

    describe('how one subscriber is shown', () => {
      const off = { value: false };
      const on = { value: true };
      let daemon;
      let watcher;
      let backend;
      const of = async (channel) => Object.keys((await daemon.api('presence', { channel })).presence);

      before(async () => {
        backend = await Backend.start({
          subscribe: ({ data }) => ({ result: { override: data } }),
          connect: ({ data }) => ({ result: { user: 'ann', subs: data } }),
        });
        daemon = await start({
          config: configuration({
            client: { connect_hook: 'connect' },
            namespace: [
              { name: 'asked', ...open, subscribe_hook: 'subscribe' },
              { name: 'quiet', ...open, presence: true, join_leave: false, force_push_join_leave: true },
            ],
            hook: backend.hooks(['connect', 'subscribe']),
          }),
        });
        watcher = await client(daemon, { token: token('watcher') });
      });
      after(() => backend.stop());

      /** The ids whose join and leave the watcher has seen, once `last`, who is shown, has joined and left. */
      const told = async (subscription, last) => {
        await until(() => subscription.seen.leaves.some(({ info }) => info.client === last), 'the leave of the last');
        const ids = (events) => events.map(({ info }) => info.client).filter((id) => id !== watcher.id);
        return { joins: ids(subscription.seen.joins), leaves: ids(subscription.seen.leaves) };
      };

      /** Somebody who is shown joins, and leaves: what came before it has been told by then. */
      const passer = async (channel, name = 'passer') => {
        const made = await client(daemon, { token: token(name) });
        await subscribed(made, channel, { token: token(name, { channel }) });
        made.disconnect();
        return made.id;
      };

      /** Each way to a subscription with an override: it resolves when the client is in the channel. */
      const ways = {
        'a subscription token': async (channel, override) => {
          const made = await client(daemon, { token: token('ann') });
          await subscribed(made, channel, { token: token('ann', { channel, override }) });
          return made;
        },
        'a connection token': (channel, override) =>
          client(daemon, { token: token('ann', { subs: { [channel]: { override } } }) }),
        'the connect hook': (channel, override) => client(daemon, { data: { [channel]: { override } } }),
        'the subscribe hook': async (channel, override) => {
          const made = await client(daemon, { token: token('ann') });
          await subscribed(made, channel, { data: override });
          return made;
        },
        'the API': async (channel, override) => {
          const made = await client(daemon, { token: token('ann') });
          const event = next(made, 'subscribed');
          await daemon.api('subscribe', { user: 'ann', client: made.id, channel, override });
          await event;
          return made;
        },
      };

      for (const [name, way] of Object.entries(ways)) {
        test(`by ${name}: hidden, announced all the same, or listed in silence`, async () => {
          const channel = `asked:${name.replaceAll(' ', '-')}`;
          const seen = await subscribed(watcher, channel, { token: token('watcher', { channel }), joinLeave: true });
          const hidden = await way(channel, { presence: off });
          assert.deepEqual(await of(channel), [watcher.id]);
          assert.equal((await daemon.api('presence_stats', { channel })).num_clients, 1);
          assert.equal((await daemon.api('channels')).channels[channel].num_clients, 2, 'it is a subscriber');
          const announced = await way(channel, { presence: off, join_leave: on });
          const silent = await way(channel, { join_leave: off });
          assert.deepEqual((await of(channel)).sort(), [watcher.id, silent.id].sort());
          // All else works.
          const got = next(hidden.getSubscription(channel) ?? hidden, 'publication');
          await daemon.publish(channel, 'hello');
          assert.equal((await got).data, 'hello');
          for (const made of [hidden, announced, silent]) made.disconnect();
          const last = await passer(channel);
          await until(async () => (await of(channel)).length === 1, 'those who went are gone');
          assert.deepEqual(await told(seen, last), { joins: [announced.id, last], leaves: [announced.id, last] });
        });
      }

      test('one is announced where the namespace announces nobody', async () => {
        const channel = 'quiet:c';
        const seen = await subscribed(watcher, channel, { token: token('watcher', { channel, override: { join_leave: on } }) });
        await passer(channel, 'nobody hears of');
        const made = await client(daemon, { token: token('ann') });
        await subscribed(made, channel, { token: token('ann', { channel, override: { join_leave: on } }) });
        made.disconnect();
        assert.deepEqual(await told(seen, made.id), { joins: [made.id], leaves: [made.id] });
      });

      test('an event stream is hidden by its tokens as well', async () => {
        const channel = 'stream';
        const ending = new AbortController();
        // Kept: a response that nobody holds is closed by its collector.
        const streams = [];
        const open_ = async (params) =>
          streams.push(await fetch(`${daemon.http}/sse?${new URLSearchParams(params)}`, { signal: ending.signal }));
        for (const [override, listed] of [[{ presence: off }, 0], [{}, 1]]) {
          const shown = { token: token('ann', { subs: { [channel]: { override } } }) };
          await open_(shown);
          assert.equal((await of(channel)).length, listed);
          const own = token('ann', { channel: `${channel}-2`, override });
          const second = { token: token('ann'), subscription_token: own };
          await open_(second);
          assert.equal((await of(`${channel}-2`)).length, listed);
        }
        assert.equal((await daemon.api('channels')).channels[channel].num_clients, 2);
        assert.deepEqual(streams.map(({ status }) => status), [200, 200, 200, 200]);
        ending.abort();
      });
    });
  });
}
