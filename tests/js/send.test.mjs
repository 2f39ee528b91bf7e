// `trunkline.send`: publications that clients name themselves, answered with the position, and only once however often they are sent.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { Daemon, configuration } from './support/daemon.mjs';
import { connected, received, runs, sdk, subscribed, token } from './support/sdk.mjs';

for (const { driver, form } of runs) {
  describe(`trunkline.send on ${driver}, in ${form}`, () => {
    let daemon;
    let backend;
    const clients = [];
    const user = async (name) => {
      const made = sdk(daemon.ws, { form, ...(name ? { token: token(name) } : {}) });
      clients.push(made);
      await connected(made);
      made.send = async (body) => (await made.rpc('trunkline.send', body)).data;
      return made;
    };
    const refusal = async (client, body) => {
      try {
        await client.send(body);
      } catch ({ code, message }) {
        return [code, message];
      }
      return 'it was taken';
    };

    before(async () => {
      backend = await Backend.start({
        publish: ({ data, user: by }) => (data === 'no'
          ? { error: { code: 403, message: 'not that' } }
          : { result: { data: { by, text: data } } }),
      });
      const kept = { history_size: 100, history_ttl: '60s', allow_subscribe_for_client: true };
      const config = configuration({
        client: { allow_anonymous: true },
        namespace: [
          { name: 'open', ...kept, allow_publish_for_client: true },
          { name: 'asked', ...kept, publish_hook: 'publish' },
          { name: 'closed', ...kept },
        ],
        hook: backend.hooks(['publish']),
      });
      daemon = await Daemon.start({ driver, config, args: ['--shards', '2'] });
    });
    after(async () => {
      clients.forEach((made) => made.disconnect());
      await daemon?.stop();
      await backend?.stop();
    });

    test('the answer is the position, and a repeat has the same one, whatever connection it comes by', async () => {
      const [phone, desktop, bob] = [await user('ann'), await user('ann'), await user('bob')];
      const room = await subscribed(bob, 'open:a');
      const body = { to: 'open:a', id: 'one', data: { text: ' hi ' } };
      const first = await phone.send(body);
      assert.equal(first.offset, 1);
      assert.equal(typeof first.epoch, 'string');
      assert.deepEqual(await phone.send(body), first);
      assert.deepEqual(await desktop.send({ ...body, data: 'what it says does not matter' }), first);
      assert.equal((await bob.send(body)).offset, 2, 'another user has names of its own');
      assert.equal((await phone.send({ ...body, id: 'two' })).offset, 3);
      assert.equal((await phone.send({ ...body, to: 'open:b' })).offset, 1, 'and so has another channel');
      await received(room, [{ text: ' hi ' }, { text: ' hi ' }, { text: ' hi ' }]);
      const { publications } = await daemon.api('history', { channel: 'open:a', limit: 10 });
      assert.deepEqual(publications.map(({ info }) => info.user), ['ann', 'bob', 'ann']);
    });

    test('many at once with one name are one', async () => {
      const ann = await user('ann');
      const answers = await Promise.all(Array.from({ length: 20 }, (_, at) => ann.send({ to: 'open:c', id: `n${at % 2}`, data: at })));
      assert.deepEqual([...new Set(answers.map(({ offset }) => offset))].sort(), [1, 2]);
    });

    test('the publish hook decides, and rights and forms are those of a publication', async () => {
      const [ann, nobody] = [await user('ann'), await user()];
      const room = await subscribed(ann, 'asked:a');
      const taken = await ann.send({ to: 'asked:a', id: 'x', data: 'yes' });
      assert.deepEqual(await ann.send({ to: 'asked:a', id: 'x', data: 'yes' }), taken);
      await received(room, [{ by: 'ann', text: 'yes' }]);
      assert.deepEqual(await refusal(ann, { to: 'asked:a', id: 'y', data: 'no' }), [403, 'not that']);
      assert.equal((await refusal(ann, { to: 'closed:a', id: 'x', data: 1 }))[0], 103);
      assert.equal((await refusal(ann, { to: 'nowhere:a', id: 'x', data: 1 }))[0], 102);
      const malformed = [
        {}, [], null, { to: 'open:a', id: 'x' }, { to: 'open:a', data: 1 }, { id: 'x', data: 1 }, { to: '', id: 'x', data: 1 },
        { to: 'open:a', id: '', data: 1 }, { to: 'open:a', id: 'x'.repeat(81), data: 1 }, { to: 'open:a', id: 7, data: 1 },
        { to: 'open:a', id: 'x', data: 1, more: 1 }, { to: ['open:a'], id: 'x', data: 1 },
      ];
      for (const body of malformed) assert.equal((await refusal(ann, body))[0], 107, JSON.stringify(body));
      assert.equal((await nobody.send({ to: 'open:d', id: 'x', data: 1 })).offset, 1);
      assert.equal((await nobody.send({ to: 'open:d', id: 'x', data: 1 })).offset, 1, 'of one connection');
      const other = await user();
      assert.equal((await other.send({ to: 'open:d', id: 'x', data: 1 })).offset, 2);
    });
  });
}
