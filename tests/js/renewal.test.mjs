// What a token that is refused makes of the unmodified SDK: everything but an invalid one it survives.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { configuration, Daemon, drivers } from './support/daemon.mjs';
import { connected, sdk, subscribed, token, unixNow } from './support/sdk.mjs';
import { next, sleep, until } from './support/wait.mjs';

const CASES = [
  ['expired', { exp: unixNow() - 60 }],
  ['with an expire_at that has passed', { exp: unixNow() + 3600, expire_at: unixNow() - 60 }],
];

for (const driver of drivers) {
  describe(`tokens that end on ${driver}`, () => {
    let daemon;
    before(async () => {
      daemon = await Daemon.start({ driver, config: configuration({ namespace: [{ name: 'closed' }] }) });
    });
    after(async () => assert.equal(await daemon.stop(), 0));

    for (const [name, claims] of CASES) {
      test(`a connection that is refreshed with a token ${name} comes back with another`, async () => {
        const fresh = [claims, { exp: unixNow() + 3600 }];
        const client = sdk(daemon.ws, {
          token: token('ann', { exp: unixNow() + 2 }),
          getToken: async () => token('ann', fresh.length > 1 ? fresh.shift() : fresh[0]),
        });
        await connected(client);
        const back = next(client, 'connected');
        await back;
        assert.equal(client.log.connecting.at(-1).code, 3005);
        assert.deepEqual(client.log.disconnected, []);
        client.disconnect();
      });

      test(`a subscription that is refreshed with a token ${name} is made again with another`, async () => {
        const channel = `closed:${CASES.findIndex(([known]) => known === name)}`;
        const of = (more) => token('ann', { channel, ...more });
        const fresh = [claims, { exp: unixNow() + 3600 }];
        const client = sdk(daemon.ws, { token: token('ann') });
        const subscription = await subscribed(client, channel, {
          token: of({ exp: unixNow() + 2 }),
          getToken: async () => of(fresh.length > 1 ? fresh.shift() : fresh[0]),
        });
        await until(() => subscription.seen.subscribed.length === 2, 'it is subscribed again');
        assert.equal(subscription.seen.subscribing.at(-1).code, 2501);
        assert.deepEqual(subscription.seen.unsubscribed, []);
        client.disconnect();
      });
    }

    test('a host that signs and is a few seconds ahead costs no connection and no subscription', async () => {
      const channel = 'closed:ahead';
      // Valid in 3 s only: within the leeway of 5 s, whenever it is asked for.
      const asked = [];
      const ahead = (more) => {
        asked.push(more);
        return token('ann', { nbf: unixNow() + 3, exp: unixNow() + 3600, ...more });
      };
      const client = sdk(daemon.ws, { token: token('ann', { exp: unixNow() + 2 }), getToken: async () => ahead() });
      await connected(client);
      const subscription = await subscribed(client, channel, {
        token: token('ann', { channel, exp: unixNow() + 2 }),
        getToken: async () => ahead({ channel }),
      });
      await sleep(4_000);
      // One that is refused is asked for again, and said in an error.
      assert.equal(asked.length, 2, 'one token for the connection, one for the subscription');
      assert.deepEqual([client.log.connecting.length, client.log.errors], [1, []]);
      const { subscribing, unsubscribed, errors } = subscription.seen;
      assert.deepEqual([subscribing.length, unsubscribed, errors], [1, [], []]);
      client.disconnect();
    });

    test('the channels of a refresh token take the place of those before', async () => {
      const client = sdk(daemon.ws, {
        token: token('ann', { exp: unixNow() + 2, channels: ['closed:old', 'closed:both'] }),
        getToken: async () => token('ann', { exp: unixNow() + 3600, channels: ['closed:both', 'closed:new'] }),
      });
      const ended = next(client, 'unsubscribed');
      await connected(client);
      assert.equal((await ended).channel, 'closed:old');
      const heard = [];
      client.on('publication', ({ channel }) => heard.push(channel));
      await until(
        async () => (await daemon.api('channels')).channels['closed:new']?.num_clients === 1,
        'the new channel has its subscriber',
      );
      for (const channel of ['closed:old', 'closed:both', 'closed:new']) await daemon.publish(channel, {});
      await until(() => heard.length === 2, 'both publications come');
      assert.deepEqual(heard.sort(), ['closed:both', 'closed:new']);
      assert.equal(client.log.connecting.length, 1, 'on the same connection');
      client.disconnect();
    });
  });
}
