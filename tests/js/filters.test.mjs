// Filters by tags, with the npm SDK over every transport, in both forms, and for clients without the SDK.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EventSource } from 'eventsource';

import { Backend } from './support/backend.mjs';
import { Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { forms, over, received, sdk, subscribed, token, transports, watch } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const is = (val) => ({ key: 'k', cmp: 'eq', val });
const ways = [...forms.map((form) => ({ transport: 'websocket', form })), ...transports];

for (const [driver, way] of ways.map((way, at) => [drivers[at % drivers.length], way])) {
  describe(`filters over ${way.transport} in ${way.form} on ${driver}`, () => {
    let daemon;
    let backend;
    const clients = [];
    const client = (options) => {
      const made = way.transport === 'websocket' ? sdk(daemon.ws, { form: way.form, ...options }) : over(daemon.http, way, options);
      clients.push(made);
      return made;
    };
    const says = (channel, data, tags) => daemon.api('publish', { channel, data, tags });

    before(async () => {
      backend = await Backend.start({ subscribe: () => ({ result: { server_tags_filter: { key: 'team', cmp: 'eq', val: 'a' } } }) });
      const filtered = { ...open, allow_tags_filter: true };
      daemon = await Daemon.start({
        driver, args: ['--shards', '3'],
        config: configuration({
          channel: filtered,
          namespace: [
            { ...open, name: 'closed' },
            { ...filtered, name: 'asked', subscribe_hook: 'subscribe' },
          ],
          hook: backend.hooks(['subscribe']),
        }),
      });
    });

    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('a subscription gets what its filter matches, live and recovered', async () => {
      const one = client();
      const filter = { op: 'and', nodes: [{ op: 'or', nodes: [is('a'), { key: 'k', cmp: 'in', vals: ['b', 'c'] }] }, { key: 'n', cmp: 'gte', val: '2.5' }] };
      const room = await subscribed(one, 'room', { recoverable: true, tagsFilter: filter });
      const plain = await subscribed(client(), 'room');
      await says('room', 1, { k: 'a', n: '2.5' });
      await says('room', 2, { k: 'a', n: '2.4' });
      await says('room', 3, { k: 'c', n: '10' });
      await says('room', 4, { k: 'd', n: '10' });
      await says('room', 5);
      await received(plain, [1, 2, 3, 4, 5]);
      await received(room, [1, 3]);
      assert.deepEqual(room.seen.publications.map(({ offset }) => offset), [1, 3]);
      one.disconnect();
      await says('room', 6, { k: 'a' });
      await says('room', 7, { k: 'b', n: '3' });
      one.connect();
      await received(room, [1, 3, 7]);
      assert.equal(room.seen.subscribed.at(-1).recovered, true);
      // Another choice counts from the next subscribe on.
      room.unsubscribe();
      room.setTagsFilter(is('d'));
      room.subscribe();
      await until(() => room.seen.subscribed.length === 3, 'it is subscribed again');
      await says('room', 8, { k: 'd' });
      await says('room', 9, { k: 'a', n: '3' });
      await received(room, [1, 3, 7, 8]);
    });

    test('a filter of 65 nodes, of an unknown operator, or where none is allowed is error 107', async () => {
      const wide = (leaves) => ({ op: 'or', nodes: Array.from({ length: leaves }, (_, at) => is(String(at))) });
      const refused = async (channel, tagsFilter) => {
        const sub = watch(client(), channel, { tagsFilter });
        sub.subscribe();
        clients.at(-1).connect();
        await until(() => sub.seen.unsubscribed.length === 1, 'it is refused');
        assert.equal(sub.seen.unsubscribed[0].code, 107);
        assert.equal(clients.at(-1).state, 'connected', 'and the connection lives');
      };
      await refused('room', wide(64));
      await refused('room', { op: 'xor', nodes: [is('a')] });
      await refused('room', { key: 'k', cmp: 'like', val: 'a' });
      await refused('closed:room', is('a'));
      await subscribed(client(), 'room', { tagsFilter: wide(63) });
    });

    test('what the backend imposes and what the client asks for both hold', async () => {
      const asked = await subscribed(client(), 'asked:room', { tagsFilter: is('x'), recoverable: true });
      const without = await subscribed(client(), 'asked:room');
      const granted = client({ token: token('ann', { subs: { news: { server_tags_filter: is('x') } } }) });
      const pushed = [];
      granted.on('publication', ({ data }) => pushed.push(data));
      granted.connect();
      await granted.ready();
      const bob = client({ token: token('bob') });
      const told = [];
      bob.on('publication', ({ data }) => told.push(data));
      bob.connect();
      await bob.ready();
      await daemon.api('subscribe', { user: 'bob', channel: 'news', server_tags_filter: is('y') });
      await says('asked:room', 1, { team: 'a', k: 'x' });
      await says('asked:room', 2, { team: 'b', k: 'x' });
      await says('asked:room', 3, { team: 'a', k: 'y' });
      await says('news', 'x', { k: 'x' });
      await says('news', 'y', { k: 'y' });
      await received(asked, [1]);
      await received(without, [1, 3]);
      await until(() => pushed.length === 1 && told.length === 1, 'the server-side ones');
      assert.deepEqual([pushed, told], [['x'], ['y']]);
      // A read would show what the subscription is not to have.
      await assert.rejects(without.history({ limit: 10 }), (error) => error.code === 103);
      const { status } = await daemon.apiRaw('subscribe', { user: 'bob', channel: 'n2', server_tags_filter: { op: 'xor' } });
      assert.equal(status, 200);
      await assert.rejects(daemon.api('subscribe', { user: 'bob', channel: 'n2', server_tags_filter: { op: 'xor' } }), /107/);
    });
  });
}

for (const driver of drivers) {
  test(`clients without the SDK filter by a query, on ${driver}`, async (t) => {
    const filtered = { ...open, allow_tags_filter: true };
    const daemon = await Daemon.start({ driver, args: ['--shards', '2'], config: configuration({ channel: filtered, namespace: [{ ...open, name: 'closed' }] }) });
    t.after(() => daemon.stop());
    const says = (data, k) => daemon.api('publish', { channel: 'room', data, tags: { k } });
    const query = `channel=room&tf=${encodeURIComponent(JSON.stringify(is('a')))}`;
    const events = new EventSource(`${daemon.http}/sse?${query}`);
    t.after(() => events.close());
    const heard = [];
    events.onmessage = (event) => heard.push(JSON.parse(event.data).data);
    await new Promise((resolve) => events.addEventListener('ready', resolve));
    const poll = async (position) => (await fetch(`${daemon.http}/poll?${query}${position ? `&position=${position}` : ''}`)).json();
    const held = poll();
    await until(async () => (await daemon.api('presence_stats', { channel: 'room' })).num_clients === 2, 'both listen');
    await says(1, 'b');
    await says(2, 'a');
    await says(3, 'b');
    const { messages, position } = await held;
    assert.deepEqual(messages.map(({ data }) => data), [2]);
    await says(4, 'a');
    const next = await poll(position);
    assert.deepEqual(next.messages.map(({ data }) => data), [4]);
    await until(() => heard.length === 2, 'the stream');
    assert.deepEqual(heard, [2, 4]);
    const read = await (await fetch(`${daemon.http}/history?${query}`)).json();
    assert.deepEqual(read.messages.map(({ data }) => data), [2, 4]);
    for (const wrong of ['channel=room&tf=%7B', 'channel=room&tf=%7B%22op%22:%22xor%22%7D', `channel=closed:a&${query.slice(13)}`]) {
      assert.equal((await fetch(`${daemon.http}/sse?${wrong}`)).status, 400, wrong);
    }
  });
}
