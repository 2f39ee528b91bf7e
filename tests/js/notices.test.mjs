// Notices (`deliver = "notice"`, "notice_with_ping"): subscribers hear where the channel stands and read the history when they want to.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import WebSocket from 'ws';

import { API_KEY, Daemon, configuration } from './support/daemon.mjs';
import { runs, sdk, subscribed } from './support/sdk.mjs';
import { lineLoop, pollLoop } from './support/unidirectional.mjs';
import { until } from './support/wait.mjs';

const notices = {
  deliver: 'notice', history_size: 100, history_ttl: '60s', force_recovery: true,
  allow_subscribe_for_client: true, allow_history_for_client: true,
};

for (const { driver, form } of runs) {
  describe(`notices on ${driver}, in ${form}`, () => {
    let daemon;
    const stops = [];
    const client = () => {
      const made = sdk(daemon.ws, { form });
      stops.push(() => made.disconnect());
      return made;
    };
    const api = async (method, body) => {
      const response = await fetch(`${daemon.http}/api/${method}`, {
        method: 'POST', headers: { 'X-API-Key': API_KEY }, body: JSON.stringify(body),
      });
      return response.json();
    };
    const publish = async (channel, data, more = {}) => (await api('publish', { channel, data, ...more })).result.offset;
    /** What an application does: it knows how far it has read, and reads on from there. */
    const reading = (subscription) => {
      const state = { read: { offset: 0, epoch: '' }, contents: [] };
      state.readOn = async () => {
        const { publications, offset, epoch } = await subscription.history({ since: state.read, limit: 50 });
        state.contents.push(...publications.map(({ data }) => data));
        state.read = { offset, epoch };
      };
      return state;
    };
    const offsets = (subscription) => subscription.seen.publications.map(({ offset }) => offset);

    before(async () => {
      const config = configuration({
        client: { ping_interval: '1s', pong_timeout: '500ms' },
        namespace: [
          { name: 'n', ...notices },
          { name: 'gathered', ...notices, batch_max_delay: '1s' },
          { name: 'pinged', ...notices, deliver: 'notice_with_ping' },
        ],
      });
      daemon = await Daemon.start({ driver, config, args: ['--shards', '2'] });
    });
    after(async () => {
      stops.forEach((stop) => stop());
      await daemon?.stop();
    });

    test('a notice has the position and null; the history has the content', async () => {
      const subscription = await subscribed(client(), 'n:a');
      assert.equal(await publish('n:a', { text: 'one' }, { tags: { a: 'b' } }), 1);
      await until(() => subscription.seen.publications.length === 1, 'the notice');
      const [heard] = subscription.seen.publications;
      assert.deepEqual([heard.data, heard.offset, heard.tags ?? {}, heard.info], [null, 1, {}, undefined]);
      const { publications } = await subscription.history({ limit: 10 });
      assert.deepEqual(publications.map(({ data, offset, tags }) => [data, offset, tags]), [[{ text: 'one' }, 1, { a: 'b' }]]);
    });

    test('of several that come together there is one, and an application reads all', async () => {
      const subscription = await subscribed(client(), 'gathered:a');
      const application = reading(subscription);
      await publish('gathered:a', 0);
      await until(() => offsets(subscription).length === 1, 'the first goes out at once');
      for (let at = 1; at < 40; at += 1) await publish('gathered:a', at);
      await until(() => offsets(subscription).at(-1) === 40, () => `the last; heard ${offsets(subscription)}`);
      assert.ok(offsets(subscription).length < 20, `${offsets(subscription)}`);
      await application.readOn();
      assert.deepEqual(application.contents, Array.from({ length: 40 }, (_, at) => at));
    });

    test('who comes back hears one notice for all that was missed, and none when nothing was', async () => {
      const own = client();
      const subscription = await subscribed(own, 'n:b');
      await publish('n:b', 1);
      await until(() => offsets(subscription).length === 1, 'the first');
      own.disconnect();
      for (const value of [2, 3, 4]) await publish('n:b', value);
      own.connect();
      await until(() => offsets(subscription).length === 2, 'what was missed');
      assert.deepEqual(offsets(subscription), [1, 4]);
      const again = () => [subscription.seen.subscribed.at(-1)].map(({ wasRecovering, recovered }) => [wasRecovering, recovered])[0];
      assert.deepEqual(again(), [true, true]);
      own.disconnect();
      own.connect();
      await until(() => subscription.seen.subscribed.length === 3, 'the third subscription');
      assert.deepEqual(again(), [true, true]);
      await publish('n:b', 5);
      await until(() => offsets(subscription).length === 3, 'what came then');
      assert.deepEqual(offsets(subscription), [1, 4, 5]);
    });

    test('an announcement to a crowd is spread, and a later one replaces what waits', async () => {
      const crowd = await Promise.all(Array.from({ length: 30 }, () => subscribed(client(), 'n:crowd')));
      for (const value of [1, 2, 3]) await publish('n:crowd', value, { spread_ms: 300 });
      await until(() => crowd.every((one) => offsets(one).at(-1) === 3), 'everybody hears');
      for (const one of crowd) assert.deepEqual(offsets(one), [...new Set(offsets(one))].sort(), 'in order, and each once');
    });

    test('with the ping, and not without', async () => {
      const socket = new WebSocket(daemon.ws, 'centrifuge-json');
      stops.push(() => socket.terminate());
      const heard = [];
      socket.on('message', (bytes) => {
        for (const line of bytes.toString().split('\n')) {
          if (line === '{}') socket.send('{}');
          const message = JSON.parse(line);
          heard.push(line === '{}' ? 'ping' : message.push?.pub?.offset ?? 'reply');
        }
      });
      await new Promise((resolve) => socket.once('open', resolve));
      socket.send('{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"pinged:a"}}');
      await until(() => heard.length === 2, 'subscribed');
      const subscription = await subscribed(client(), 'pinged:a');
      for (const value of [1, 2, 3]) await publish('pinged:a', value);
      await until(() => heard.includes(3) && offsets(subscription).length === 1, () => `the notice: ${heard}`);
      assert.equal(heard[heard.indexOf(3) - 1], 'ping', `${heard}`);
      assert.deepEqual(heard.filter((one) => typeof one === 'number'), [3]);
      assert.deepEqual(offsets(subscription), [3]);
      assert.equal(subscription.seen.publications[0].data, null);
      // The next ping has nothing to say.
      const pings = () => heard.filter((one) => one === 'ping').length;
      const before = pings();
      await until(() => pings() > before, 'another ping');
      assert.deepEqual(heard.filter((one) => typeof one === 'number'), [3]);
    });

    test('clients without an SDK: lines and polls', async () => {
      const seen = { lines: [], polls: [] };
      const lost = () => assert.fail('nothing is lost');
      const show = (into) => ({ data, offset }) => into.push([data, offset]);
      const lines = lineLoop(daemon.http, { channel: 'n:lines' }, show(seen.lines), lost);
      const { position } = await (await fetch(`${daemon.http}/poll?channel=n:lines&wait=0`)).json();
      const polls = pollLoop(daemon.http, { channel: 'n:lines', wait: 5, position }, show(seen.polls), lost);
      stops.push(lines.stop, polls.stop);
      await until(() => lines.state.ready > 0, 'the stream is ready');
      await publish('n:lines', 'one');
      await until(() => seen.lines.length === 1 && seen.polls.length === 1, () => JSON.stringify(seen));
      await publish('n:lines', 'two');
      await until(() => seen.lines.length === 2 && seen.polls.length === 2, () => JSON.stringify(seen));
      assert.deepEqual(seen, { lines: [[null, 1], [null, 2]], polls: [[null, 1], [null, 2]] });
      const response = await fetch(`${daemon.http}/history?channel=n:lines`);
      const { messages } = await response.json();
      assert.deepEqual(messages.map(({ data }) => data), ['one', 'two']);
    });

    test('what can be read nowhere is not announced', async () => {
      assert.equal((await api('publish', { channel: 'n:a', data: 1, skip_history: true })).error.code, 107);
    });
  });
}
