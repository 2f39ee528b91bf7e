// Publications and messages that are kept from somebody, with the npm SDK: in what is live, recovered and read.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EventSource } from 'eventsource';

import { Daemon, configuration, open } from './support/daemon.mjs';
import { connected, received, runs, sdk, subscribed, token } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

for (const { driver, form } of runs) {
  describe(`except on ${driver} in ${form}`, () => {
    let daemon;
    const clients = [];
    const client = (query = '', options = {}) => {
      const made = sdk(`${daemon.ws}${query}`, { form, ...options });
      made.messages = [];
      made.on('message', (event) => made.messages.push(event.data));
      clients.push(made);
      return made;
    };

    before(async () => {
      const quiet = { ...open, name: 'quiet', exclude_publisher: true };
      daemon = await Daemon.start({ driver, args: ['--shards', '3'], config: configuration({ namespace: [quiet] }) });
    });

    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('a client, a user and a tag are left out, live, in a recovery and in the history', async () => {
      const ann = client('', { token: token('ann') });
      const bob = client('?origin=tab-7', { token: token('bob') });
      const other = client('?origin=tab-8');
      const { client: id } = await connected(ann);
      const subs = await Promise.all([ann, bob, other].map((each) => subscribed(each, 'room', { recoverable: true })));
      const says = async (data, except) => daemon.api('publish', { channel: 'room', data, except });
      await says(1, { client: id });
      await says(2, { user: 'bob' });
      await says(3, { origin: 'tab-8' });
      await says(4, { client: id, origin: 'tab-7' });
      await says(5, { client: '', user: null });
      await received(subs[0], [2, 3, 5]);
      await received(subs[1], [1, 3, 5]);
      await received(subs[2], [1, 2, 4, 5]);
      // The same in what each reads.
      const read = await Promise.all(subs.map(async (sub) => (await sub.history({ limit: 10 })).publications));
      assert.deepEqual(read.map((list) => list.map(({ data }) => data)), [[2, 3, 5], [1, 3, 5], [1, 2, 4, 5]]);
      const whole = await daemon.api('history', { channel: 'room', limit: 10 });
      assert.deepEqual(whole.publications.map(({ data }) => data), [1, 2, 3, 4, 5], 'the backend reads all');
      // And in what is missed: the client comes back under another id, with the tag of before.
      bob.disconnect();
      await says(6, { origin: 'tab-7' });
      await says(7);
      await says(8, { origin: 'tab-7' });
      bob.connect();
      await received(subs[1], [1, 3, 5, 7]);
      assert.equal(subs[1].seen.subscribed.at(-1).recovered, true);
      await says(9);
      await received(subs[1], [1, 3, 5, 7, 9]);
    });

    test('broadcast takes it for all of its channels', async () => {
      const [one, other] = [client('?origin=x'), client()];
      const subs = await Promise.all([one, other].map((each) => subscribed(each, 'b1')));
      await daemon.api('broadcast', { channels: ['b1', 'b2'], data: 1, except: { origin: 'x' } });
      await daemon.api('broadcast', { channels: ['b1', 'b2'], data: 2 });
      await received(subs[0], [2]);
      await received(subs[1], [1, 2]);
    });

    test('a message goes to everyone, and to users, but for those who are named', async () => {
      const named = client('?origin=mine', { token: token('eve') });
      const twin = client('', { token: token('eve') });
      const anonymous = client();
      const listener = new EventSource(`${daemon.http}/sse?channel=any`);
      const heard = [];
      listener.addEventListener('push', (event) => heard.push(JSON.parse(event.data).message));
      await new Promise((resolve) => listener.addEventListener('ready', resolve));
      await Promise.all([named, twin, anonymous].map(connected));
      const { connections } = await daemon.api('broadcast', { everyone: true, data: { all: 1 }, except: { origin: 'mine' } });
      const { connections: others } = await daemon.api('broadcast', { everyone: true, data: { all: 2 } });
      assert.equal(others, connections + 1);
      await until(() => named.messages.length === 1 && twin.messages.length === 2 && anonymous.messages.length === 2, 'all hear');
      assert.deepEqual(named.messages, [{ all: 2 }]);
      await until(() => heard.length === 2, 'a client of events as well');
      const pushed = await daemon.api('push', { user: 'eve', data: 3, except: { origin: 'mine' } });
      assert.equal(pushed.connections, 1);
      await until(() => twin.messages.length === 3, 'the twin hears');
      assert.deepEqual(named.messages, [{ all: 2 }]);
      listener.close();
    });

    test('a client does not get its own where the namespace says so', async () => {
      const [one, other] = [client(), client()];
      const subs = await Promise.all([one, other].map((each) => subscribed(each, 'quiet:room', { recoverable: true })));
      await subs[0].publish('from one');
      await subs[1].publish('from the other');
      await received(subs[0], ['from the other']);
      await received(subs[1], ['from one']);
    });

    test('what can be nobody is refused', async () => {
      const refused = async (method, body) => assert.rejects(daemon.api(method, body), /107/);
      await refused('publish', { channel: 'room', data: 1, except: { client: 'ann' } });
      await refused('publish', { channel: 'room', data: 1, except: { origin: 'x'.repeat(65) } });
      await refused('push', { user: 'eve', data: 1, except: { client: '1' } });
      await refused('broadcast', { everyone: true, channels: ['a'], data: 1 });
      await refused('broadcast', { everyone: true });
    });
  });
}

test('a tag of a client without WebSocket counts as well', async (t) => {
  const daemon = await Daemon.start({ driver: 'io-uring', args: ['--shards', '3'], config: configuration() });
  t.after(() => daemon.stop());
  for (const transport of ['http_stream', 'sse']) {
    const made = sdk([{ transport, endpoint: `${daemon.http}/connection/${transport}?origin=tab` }], {
      emulationEndpoint: `${daemon.http}/emulation`, fetch, readableStream: ReadableStream, eventsource: EventSource,
    });
    t.after(() => made.disconnect());
    const sub = await subscribed(made, 'room');
    await daemon.api('publish', { channel: 'room', data: 1, except: { origin: 'tab' } });
    await daemon.api('publish', { channel: 'room', data: 2 });
    await received(sub, [2]);
  }
});
