// Messages to users, how many connections a user may have, and how much clients may do in a time.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import WebSocket from 'ws';

import { Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { connected, sdk, subscribed, token } from './support/sdk.mjs';
import { RawSocket, TEXT } from './support/socket.mjs';
import { until } from './support/wait.mjs';

const range = (count) => Array.from({ length: count }, (_, at) => at);

/** A connected client of a user, with the messages it got. */
async function member(daemon, user, options = {}) {
  const client = sdk(daemon.ws, { token: token(user), ...options });
  client.messages = [];
  client.on('message', ({ data }) => client.messages.push(data));
  const { client: id } = await connected(client);
  return Object.assign(client, { id });
}

/** How many connections the daemon counts. */
async function clients(daemon) {
  const { nodes } = await daemon.api('info');
  return nodes.reduce((sum, node) => sum + node.num_clients, 0);
}

/** Text of a streamed response as it comes. */
async function stream(url) {
  const abort = new AbortController();
  const response = await fetch(url, { signal: abort.signal });
  assert.equal(response.status, 200);
  const state = { text: '', ended: false, close: () => abort.abort() };
  (async () => {
    try {
      for await (const part of response.body.pipeThrough(new TextDecoderStream())) state.text += part;
    } catch {
      // Aborted by the test.
    }
    state.ended = true;
  })();
  return state;
}

for (const driver of drivers) {
  describe(`messages to users on ${driver}`, () => {
    let daemon;
    const all = [];
    const user = async (name) => {
      const client = await member(daemon, name);
      all.push(client);
      return client;
    };

    before(async () => (daemon = await Daemon.start({ driver, args: ['--shards', '3'] })));
    after(async () => {
      all.forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('every connection of every user is told, and the absent are named', async () => {
      const [a, b, other] = [await user('ann'), await user('bob'), await user('other')];
      const second = await user('ann');
      const result = await daemon.api('push', { users: ['nobody', 'ann', 'bob', 'gone'], data: { hello: [1] } });
      assert.deepEqual(result, { connections: 3, users: 2, absent: ['nobody', 'gone'] });
      await until(() => [a, second, b].every((client) => client.messages.length === 1), 'all have it');
      for (const client of [a, second, b]) assert.deepEqual(client.messages, [{ hello: [1] }]);
      assert.deepEqual(other.messages, []);
    });

    test('only the newest connection of each', async () => {
      const [old, fresh] = [await user('newest'), await user('newest')];
      assert.deepEqual(await daemon.api('push', { user: 'newest', data: 1, newest: true }),
        { connections: 1, users: 1, absent: [] });
      await until(() => fresh.messages.length === 1, 'the newest has it');
      fresh.disconnect();
      await until(async () => {
        const { connections } = await daemon.api('push', { user: 'newest', data: 'all' });
        return connections === 1;
      }, 'the newest has gone');
      await daemon.api('push', { user: 'newest', data: 2, newest: true });
      await until(() => old.messages.at(-1) === 2, 'then the other is the newest');
      assert.ok(!old.messages.includes(1));
    });

    test('a key makes a repeat be answered and not be sent', async () => {
      const client = await user('keyed');
      const body = { users: ['keyed', 'absent'], data: 'once', idempotency_key: 'key-1' };
      const answers = await Promise.all(range(5).map(() => daemon.api('push', body)));
      for (const answer of answers) assert.deepEqual(answer, { connections: 1, users: 1, absent: ['absent'] });
      await daemon.api('push', { user: 'keyed', data: 'last' });
      await until(() => client.messages.at(-1) === 'last', 'the last one');
      assert.deepEqual(client.messages, ['once', 'last']);
    });

    test('ten thousand users in one call; one more is refused', async () => {
      const client = await user('user-77');
      const users = range(10_000).map((at) => `user-${at}`);
      const result = await daemon.api('push', { users, data: 1 });
      assert.deepEqual([result.connections, result.users, result.absent.length], [1, 1, 9_999]);
      await until(() => client.messages.length === 1, 'the one who is there');
      const { answer } = await daemon.apiRaw('push', { users: [...users, 'more'], data: 1 });
      assert.deepEqual(answer.error, { code: 107, message: 'users names more than 10000' });
    });

    test('streams get it in their own form', async () => {
      const query = `channel=news&token=${token('streamer')}`;
      const events = await stream(`${daemon.http}/sse?${query}`);
      const lines = await stream(`${daemon.http}/stream?${query}`);
      const socket = await RawSocket.upgrade(daemon.port, `/ws?${query}`);
      const bare = await RawSocket.upgrade(daemon.port, `/ws?${query}&bare=1`);
      await until(() => events.text.includes('ready') && lines.text.includes('ready'), 'streams flow');
      await until(async () => {
        const { connections } = await daemon.api('push', { user: 'streamer', data: { m: 1 } });
        return connections === 4;
      }, 'four streams');
      await until(() => events.text.includes('event: push\ndata: {"message":{"m":1}}\n\n'), 'the event');
      await until(() => lines.text.split('\n').includes('{"message":{"m":1}}'), 'the line');
      for (const [raw, text] of [[socket, '{"message":{"m":1}}'], [bare, '{"m":1}']]) {
        let frame;
        do {
          frame = await raw.frame();
          assert.equal(frame?.opcode, TEXT);
        } while (frame.payload.toString() !== text);
        raw.destroy();
      }
      [events, lines].forEach((one) => one.close());
    });
  });

  describe(`connections of a user on ${driver}`, () => {
    const start = (policy, max) => Daemon.start({
      driver,
      args: ['--shards', '3'],
      config: configuration({ client: { user_connections_max: max, user_connections_policy: policy } }),
    });

    /** A client that counts how often it was answered as connected. */
    const counted = (daemon, options) => {
      const client = sdk(daemon.ws, { token: token('ann', options) });
      client.times = 0;
      client.on('connected', () => { client.times += 1; });
      client.connect();
      return client;
    };

    test('reject: one too many is closed with 3504 and does not come back', async () => {
      const daemon = await start('reject', 2);
      const [first, second] = [await member(daemon, 'ann'), await member(daemon, 'ann')];
      const third = counted(daemon);
      await until(() => third.state === 'disconnected', 'the third is closed');
      assert.deepEqual([third.log.disconnected[0].code, third.times], [3504, 0]);
      assert.deepEqual([first.state, second.state], ['connected', 'connected']);
      const other = await member(daemon, 'bob');
      // Who leaves makes room.
      first.disconnect();
      await until(async () => (await clients(daemon)) === 2, 'the first has gone');
      const fourth = await member(daemon, 'ann');
      assert.deepEqual(await daemon.api('push', { user: 'ann', data: 1 }), { connections: 2, users: 1, absent: [] });
      assert.deepEqual([second, other, fourth].map((client) => client.state), ['connected', 'connected', 'connected']);
      assert.equal(await daemon.faults(/disconnect_3504/), 1);
      [second, other, fourth].forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('replace: the oldest is closed with 3510 and does not come back', async () => {
      const daemon = await start('replace', 2);
      const [first, second] = [await member(daemon, 'ann'), await member(daemon, 'ann')];
      const third = await member(daemon, 'ann');
      await until(() => first.state === 'disconnected', 'the first is closed');
      const [{ code, reason }] = first.log.disconnected;
      assert.deepEqual([code, reason], [3510, 'replaced by a newer connection']);
      assert.equal(first.log.connecting.length, 1, 'it has not tried again');
      assert.deepEqual([second.state, third.state], ['connected', 'connected']);
      assert.equal(await daemon.faults(/disconnect_3510/), 1);
      [second, third].forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    for (const policy of ['reject', 'replace']) {
      test(`${policy}: of many at once exactly as many stay as may`, async () => {
        const daemon = await start(policy, 3);
        // Some have channels of their own, which they are subscribed to before they are answered.
        const crowd = range(30).map((at) => counted(daemon, at % 2 ? { channels: ['news'] } : {}));
        const closed = () => crowd.filter((client) => client.state === 'disconnected');
        await until(() => closed().length === 27, () => `${closed().length} of 27 are closed`);
        await until(async () => (await clients(daemon)) === 3, 'three stay');
        const codes = new Set(closed().map((client) => client.log.disconnected[0].code));
        assert.deepEqual([...codes], [policy === 'reject' ? 3504 : 3510]);
        const { connections } = await daemon.api('push', { user: 'ann', data: 1 });
        assert.equal(connections, 3);
        assert.equal(closed().length, 27);
        // Not even for a moment were more in: with `reject` the others were never answered as connected.
        const answered = crowd.filter((client) => client.times > 0).length;
        if (policy === 'reject') assert.equal(answered, 3);
        else assert.ok(answered >= 3, `${answered} were connected`);
        crowd.forEach((client) => client.disconnect());
        assert.equal(await daemon.stop(), 0);
      });
    }

    test('streams count as well and are told why they end', async () => {
      const daemon = await start('replace', 1);
      const events = await stream(`${daemon.http}/sse?channel=news&token=${token('ann')}`);
      await until(() => events.text.includes('ready'), 'the stream flows');
      const client = await member(daemon, 'ann');
      await until(() => events.ended, 'the stream ends');
      assert.match(events.text, /event: disconnect\ndata: .*"code":3510.*"reconnect":false/);
      assert.equal(client.state, 'connected');
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });
  });

  describe(`streams over the limit of connections on ${driver}`, () => {
    test('reject: they begin and end with the reason, and never flow', async () => {
      const config = configuration({ client: { user_connections_max: 2 } });
      const daemon = await Daemon.start({ driver, args: ['--shards', '3'], config });
      const target = (path) => `${daemon.http}/${path}?channel=news&token=${token('ann')}`;
      const held = [await stream(target('sse')), await stream(target('stream'))];
      await until(() => held.every((one) => one.text.includes('ready')), 'the streams flow');
      const refused = await Promise.all(range(10).map((at) => stream(target(at % 2 ? 'sse' : 'stream'))));
      await until(() => refused.every((one) => one.ended), 'the others end');
      for (const { text } of refused) {
        assert.match(text, /"code":3504.*"reconnect":false/);
        assert.doesNotMatch(text, /ready/);
      }
      const socket = new WebSocket(`ws://${daemon.address}/ws?channel=news&token=${token('ann')}`);
      const texts = [];
      socket.addEventListener('message', ({ data }) => texts.push(data));
      const { code } = await new Promise((done) => { socket.addEventListener('close', done); });
      assert.deepEqual([code, texts], [3504, []]);
      assert.ok(held.every((one) => !one.ended), 'those that were in are');
      // Polls are no connections of their user.
      const poll = await fetch(`${daemon.http}/poll?channel=news&wait=0&token=${token('ann')}`);
      assert.equal(poll.status, 200);
      held[0].close();
      await until(async () => {
        const again = await stream(target('sse'));
        await until(() => again.ended || again.text.includes('ready'), 'an answer');
        again.close();
        return again.text.includes('ready');
      }, 'who leaves makes room');
      held.forEach((one) => one.close());
      assert.equal(await daemon.stop(), 0);
    });
  });

  describe(`limits in a time on ${driver}`, () => {
    test('commands of a connection: 111, and the connection lives', async () => {
      const daemon = await Daemon.start({
        driver,
        config: configuration({ client: { commands_per_second: 1, commands_burst: 20 } }),
      });
      const client = sdk(daemon.ws);
      await connected(client);
      const outcomes = await Promise.all(range(200).map((at) => client.publish('news', at).then(() => 0, ({ code }) => code)));
      const passed = outcomes.filter((code) => code === 0).length;
      assert.deepEqual([...new Set(outcomes)].sort(), [0, 111]);
      assert.ok(passed >= 20 && passed < 200, `${passed} passed`);
      assert.equal(outcomes.slice(0, 20).every((code) => code === 0), true, 'the burst passes');
      assert.equal(client.state, 'connected');
      const other = sdk(daemon.ws);
      await connected(other);
      await other.publish('news', 'another connection has its own');
      await until(async () => (await daemon.faults(/error_111/)) === 200 - passed, 'each is counted');
      [client, other].forEach((one) => one.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('commands of a user, over all connections and shards', async () => {
      const daemon = await Daemon.start({
        driver,
        args: ['--shards', '3'],
        config: configuration({ client: { user_commands_per_second: 1, commands_burst: 20 } }),
      });
      const [ann, again, bob] = [await member(daemon, 'ann'), await member(daemon, 'ann'), await member(daemon, 'bob')];
      const publish = (client) => client.publish('news', 1).then(() => 0, ({ code }) => code);
      const outcomes = await Promise.all(range(100).flatMap(() => [publish(ann), publish(again)]));
      const passed = outcomes.filter((code) => code === 0).length;
      assert.ok(passed >= 20 && passed < 200, `${passed} passed`);
      assert.equal(await publish(bob), 0, 'another user is not held back');
      [ann, again, bob].forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('bytes of a connection: closed with 3013, and it comes back', async () => {
      const daemon = await Daemon.start({
        driver,
        config: configuration({ client: { bytes_per_second: 100, message_bytes_max: 2048 } }),
      });
      const client = sdk(daemon.ws);
      await connected(client);
      await client.publish('news', 'x'.repeat(1500));
      for (const _ of range(20)) client.publish('news', 'x'.repeat(1500)).catch(() => {});
      await until(() => client.log.connecting.some(({ code }) => code === 3013), 'it is closed for it');
      assert.ok((await daemon.faults(/disconnect_3013/)) >= 1);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    test('bytes of a user, over all connections and shards: closed with 3013', async () => {
      const daemon = await Daemon.start({
        driver,
        args: ['--shards', '3'],
        config: configuration({ client: { user_bytes_per_second: 100, message_bytes_max: 2048 } }),
      });
      const [ann, again, bob] = [await member(daemon, 'ann'), await member(daemon, 'ann'), await member(daemon, 'bob')];
      for (const _ of range(10)) {
        for (const client of [ann, again]) client.publish('news', 'x'.repeat(1500)).catch(() => {});
      }
      const closed = (client) => client.log.connecting.some(({ code }) => code === 3013);
      await until(() => closed(ann) || closed(again), 'one of them is closed for it');
      await bob.publish('news', 'x'.repeat(1500));
      assert.equal(closed(bob), false, 'another user is not held back');
      [ann, again, bob].forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('publications of a channel: clients are held to it, the server API is not', async () => {
      const daemon = await Daemon.start({
        driver,
        config: configuration({
          namespace: [{ name: 'slow', ...open, publish_per_second: 5 },
            { name: 'thin', ...open, publish_bytes_per_second: 100 }],
        }),
      });
      const [one, two] = [sdk(daemon.ws), sdk(daemon.ws)];
      await Promise.all([connected(one), connected(two)]);
      const publish = (client, channel, data) => client.publish(channel, data).then(() => 0, ({ code }) => code);
      const outcomes = await Promise.all(range(100).flatMap((at) =>
        [publish(one, 'slow:a', at), publish(two, 'slow:a', at)]));
      const passed = outcomes.filter((code) => code === 0).length;
      assert.ok(passed >= 5 && passed < 200, `${passed} passed`);
      assert.deepEqual([...new Set(outcomes)].sort(), [0, 111]);
      assert.equal(await publish(one, 'slow:b', 1), 0, 'another channel has its own');
      for (const at of range(20)) await daemon.publish('slow:a', at);

      assert.equal(await publish(one, 'thin:a', 'x'.repeat(5_000)), 0, 'larger than a second is, after a rest');
      assert.equal(await publish(two, 'thin:a', 'x'), 111, 'and is paid for afterwards');
      const metrics = await daemon.metrics();
      const limited = [...metrics].filter(([name]) => name.startsWith('trunkline_publications_limited'));
      assert.equal(limited.reduce((sum, [, value]) => sum + value, 0), 200 - passed + 1);
      [one, two].forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('what keeps a connection alive is not limited', async () => {
      const daemon = await Daemon.start({
        driver,
        config: configuration({
          client: { commands_per_second: 1, commands_burst: 1, ping_interval: '2s', pong_timeout: '1500ms' },
        }),
      });
      const client = sdk(daemon.ws);
      const subscription = await subscribed(client, 'news');
      await until(async () => {
        const pings = [...(await daemon.metrics())].filter(([name]) => name.startsWith('trunkline_pings_sent'));
        return pings.reduce((sum, [, value]) => sum + value, 0) >= 3;
      }, 'three pings');
      await daemon.publish('news', 1);
      await until(() => subscription.seen.publications.length === 1, 'it still hears');
      assert.equal(client.log.connecting.length, 1);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });
  });
}
