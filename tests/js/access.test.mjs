// Rules of access that are more than a permission: names by pattern, secrets with an end, claims by pattern, hooks by method.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { configuration, Daemon, drivers, open, TOKEN_SECRET } from './support/daemon.mjs';
import { connected, sdk, token, unixNow, watch } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

for (const driver of drivers) {
  describe(`access on ${driver}`, () => {
    const start = async (t, changes) => {
      const daemon = await Daemon.start({ driver, config: configuration(changes), args: ['--shards', '2'] });
      t.after(() => daemon.stop());
      return daemon;
    };
    const client = (t, daemon, options) => {
      const made = sdk(daemon.ws, options);
      t.after(() => made.disconnect());
      return made;
    };
    /** `true`, or the code with which the SDK gives up. */
    const subscribes = async (made, channel, options) => {
      const { seen } = watch(made, channel, options);
      made.getSubscription(channel).subscribe();
      await until(() => seen.subscribed.length + seen.unsubscribed.length > 0, `an answer about ${channel}`);
      return seen.subscribed.length > 0 || seen.unsubscribed[0].code;
    };
    /** `true`, or the code with which the connection ends for good. */
    const connects = async (t, daemon, shown) => {
      const made = client(t, daemon, { token: shown });
      made.connect();
      await until(() => made.state === 'connected' || made.log.disconnected.length > 0, 'an answer to connect');
      return made.state === 'connected' || made.log.disconnected[0].code;
    };

    test('channel_regex: a name that the namespace does not allow is denied, whatever token is shown', async (t) => {
      const namespace = [{ name: 'room', ...open, channel_regex: '^[0-9]+$' }];
      const daemon = await start(t, { namespace });
      const made = client(t, daemon, { token: token('ann', { channels: ['room:lobby'] }) });
      await connected(made);
      assert.equal(await subscribes(made, 'room:12'), true);
      assert.equal(await subscribes(made, 'room:1x'), 103);
      assert.equal(await subscribes(made, 'room:x', { token: token('ann', { channel: 'room:x' }) }), 103);
      await assert.rejects(made.publish('room:y', 1), { code: 103 });
      await assert.rejects(made.history('room:y', { limit: 1 }), { code: 103 });
      await made.publish('room:12', 1);
      // What the server subscribed the client to is its own decision.
      await made.publish('room:lobby', 1);
      const status = async (channel) => (await fetch(`${daemon.http}/poll?channel=${channel}&wait=0`)).status;
      assert.deepEqual([await status('room:12'), await status('room:1x')], [200, 403]);
    });

    test('hmac_secrets: each is taken until its date', async (t) => {
      const [before, ended, other] = ['the secret of before', 'one of long ago, ended', 'another one, for ever'];
      const hmac_secrets = [`${unixNow() + 3600} ${before}`, `2020-01-01 ${ended}`, `never ${other}`];
      const daemon = await start(t, { client: { allow_anonymous: false, token: { hmac_secrets } } });
      for (const secret of [TOKEN_SECRET, before, other]) {
        assert.equal(await connects(t, daemon, token('ann', {}, secret)), true, secret);
      }
      for (const secret of [ended, 'none of them']) {
        assert.equal(await connects(t, daemon, token('ann', {}, secret)), 3500, secret);
      }
    });

    test('audience_pattern, issuer_pattern, user_claim and require_user hold together', async (t) => {
      const rules = { audience_pattern: '^app-', issuer_pattern: '^https://', user_claim: 'mail' };
      const daemon = await start(t, { client: { require_user: true, token: rules } });
      const right = { mail: 'ann', aud: ['x', 'app-1'], iss: 'https://a.example' };
      assert.equal(await connects(t, daemon, token('', right)), true);
      for (const wrong of [{ aud: 'an app-1' }, { iss: 'http://a.example' }, { mail: '' }, { mail: undefined }, { mail: 7 }]) {
        assert.equal(await connects(t, daemon, token('ann', { ...right, ...wrong })), 3500, JSON.stringify(wrong));
      }
    });

    test('rpc_hooks: the longest beginning of a method counts, and one without a hook refuses', async (t) => {
      const says = (text) => ({ result: { data: text } });
      const backend = await Backend.start({ all: says('all'), chat: says('chat') });
      t.after(() => backend.stop());
      const rpc = { rpc_hook: 'all', rpc_hooks: ['chat:=chat', 'chat:internal:='] };
      const daemon = await start(t, { client: rpc, hook: backend.hooks(['all', 'chat']) });
      const made = client(t, daemon);
      await connected(made);
      const call = async (method) => (await made.rpc(method, {})).data;
      assert.deepEqual([await call('other'), await call('chat'), await call('chat:send')], ['all', 'all', 'chat']);
      await assert.rejects(made.rpc('chat:internal:drop', {}), { code: 108 });
    });
  });
}
