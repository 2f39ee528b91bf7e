// Hooks from end to end: the unmodified SDK, the daemon, and a backend of node's own http server.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import net from 'node:net';
import { after, before, describe, test } from 'node:test';

import WebSocket from 'ws';

import { Backend } from './support/backend.mjs';
import { API_KEY, configuration, Daemon, drivers } from './support/daemon.mjs';
import { connected, received, runs, sdk, subscribed, token, unixNow, watch } from './support/sdk.mjs';
import { next, until } from './support/wait.mjs';

const HOOKS = ['connect', 'refresh', 'subscribe', 'sub_refresh', 'publish', 'rpc'];

/** Everything is decided by the backend. */
const asking = (backend, options = {}, client = {}) => configuration({
  client: { allow_anonymous: false, connect_hook: 'connect', refresh_hook: 'refresh', rpc_hook: 'rpc', ...client },
  channel: {
    allow_subscribe_for_client: false,
    allow_publish_for_client: false,
    subscribe_hook: 'subscribe',
    sub_refresh_hook: 'sub_refresh',
    publish_hook: 'publish',
  },
  hook: backend.hooks(HOOKS, options),
});

for (const { driver, form } of runs) {
  describe(`hooks in ${form} on ${driver}`, () => {
    let backend;
    let daemon;
    const letIn = ({ data }) => ({ result: { user: 'ann', ...data?.result } });
    const clients = [];
    const client = (options = {}) => {
      const made = sdk(daemon.ws, { form, ...options });
      clients.push(made);
      return made;
    };

    before(async () => {
      backend = await Backend.start({
        connect: letIn,
        refresh: () => ({ result: { expire_at: unixNow() + 3600 } }),
        subscribe: ({ data }) => data?.answer ?? { result: {} },
        sub_refresh: () => ({ result: { expire_at: unixNow() + 3600 } }),
        publish: ({ data }) => data?.answer ?? { result: {} },
        rpc: ({ method, data }) => data?.answer ?? { result: { data: { method, data } } },
      });
      const options = {
        include_connection_meta: true,
        forward_headers: ['X-Request-Id', 'Authorization'],
        static_headers: ['X-Backend-Key: secret'],
        status_codes: ['404=404:no such thing', '403=4503:go away'],
      };
      daemon = await Daemon.start({ driver, config: asking(backend, options, { emulated_headers: ['Authorization'] }), args: ['--shards', '2'] });
    });
    after(async () => {
      clients.forEach((made) => made.disconnect());
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('connect: the question in the published shape; user, data and subscriptions of the answer', async () => {
      const result = {
        user: 'bob', info: { name: 'Bob' }, data: { hello: [1] }, meta: { tenant: 7 },
        channels: ['news'], subs: { room: { data: { topic: 'x' }, info: { seat: 3 } } },
      };
      const made = client({ data: { result }, name: 'test', version: '1.2' });
      const told = [];
      made.on('subscribed', ({ channel, data }) => told.push([channel, data]));
      const event = await connected(made);
      assert.deepEqual(event.data, { hello: [1] });
      assert.deepEqual(backend.of('connect').at(-1), {
        client: event.client, transport: 'websocket', protocol: form, encoding: 'json', address: '127.0.0.1',
        name: 'test', version: '1.2', data: { result },
      });
      await until(() => told.length === 2, 'both subscriptions');
      assert.deepEqual(Object.fromEntries(told).room, { topic: 'x' });
      const { presence } = await daemon.api('presence', { channel: 'room' });
      assert.deepEqual(presence[event.client], {
        client: event.client, user: 'bob', conn_info: { name: 'Bob' }, chan_info: { seat: 3 },
      });
      await made.rpc('who', null);
      assert.deepEqual(backend.of('rpc').at(-1).meta, { tenant: 7 }, 'what only the backend gets to see again');
    });

    test('connect: a token needs no question', async () => {
      const before = backend.of('connect').length;
      await connected(client({ token: token('with-token') }));
      assert.equal(backend.of('connect').length, before);
    });

    test('connect: header fields, and those that a browser can only emulate, if it may', async () => {
      await connected(client({ headers: { authorization: 'Bearer t', 'x-other': 'o', 'x-request-id': 'a proxy sets it' } }));
      const { headers } = backend.asked.filter(({ path }) => path === 'connect').at(-1);
      assert.equal(headers.authorization, 'Bearer t');
      assert.equal(headers['x-backend-key'], 'secret');
      assert.equal(headers['content-type'], 'application/json');
      assert.equal(headers['x-other'], undefined);
      assert.equal(headers['x-request-id'], undefined);
      assert.equal(headers['accept-encoding'], 'identity');
    });

    test('connect: errors and disconnects of the backend reach the client', async () => {
      backend.answer({ connect: { disconnect: { code: 4501, reason: 'unauthorized' } } });
      const refused = client();
      const end = next(refused, 'disconnected');
      refused.connect();
      assert.deepEqual(await end, { code: 4501, reason: 'unauthorized' });
      backend.answer({ connect: { error: { code: 1001, message: 'closed today' } } });
      const failed = client();
      const over = next(failed, 'disconnected');
      failed.connect();
      assert.equal((await over).code, 1001);
      backend.answer({ connect: 403 });
      const status = client();
      const gone = next(status, 'disconnected');
      status.connect();
      assert.equal((await gone).code, 4503);
      // What is no answer is temporary: the client comes back by itself.
      backend.answer({ connect: { error: { code: 103 } } });
      const patient = client();
      const again = next(patient, 'connected');
      patient.connect();
      await until(() => patient.log.errors.length > 0, 'an error');
      backend.answer({ connect: letIn });
      await again;
    });

    test('subscribe: allowed with data and info, refused with the backend\'s own code', async () => {
      const made = client();
      await connected(made);
      const answer = { result: { data: { seed: 1 }, info: { role: 'guest' } } };
      const allowed = await subscribed(made, 'allowed', { data: { answer } });
      assert.deepEqual(allowed.seen.subscribed[0].data, { seed: 1 });
      const { channel, user, data } = backend.of('subscribe').at(-1);
      assert.deepEqual({ channel, user, data }, { channel: 'allowed', user: 'ann', data: { answer } });
      const { presence } = await daemon.api('presence', { channel: 'allowed' });
      assert.deepEqual(Object.values(presence)[0].chan_info, { role: 'guest' });
      await daemon.publish('allowed', { n: 1 });
      await received(allowed, [{ n: 1 }]);

      const refused = watch(made, 'refused', { data: { answer: { error: { code: 403, message: 'not you' } } } });
      refused.subscribe();
      await until(() => refused.seen.unsubscribed.length > 0, 'the refusal');
      assert.deepEqual(refused.seen.unsubscribed[0], { channel: 'refused', code: 403, reason: 'not you' });
    });

    test('publish: as it is, in place of it, or not at all', async () => {
      const made = client();
      const subscription = await subscribed(made, 'posts');
      await subscription.publish({ text: 'as it is' });
      await subscription.publish({ answer: { result: { data: { text: 'instead' } } } });
      await assert.rejects(
        subscription.publish({ answer: { error: { code: 1234, message: 'no swearing' } } }),
        { code: 1234, message: 'no swearing' },
      );
      await subscription.publish({ text: 'last' });
      await received(subscription, [{ text: 'as it is' }, { text: 'instead' }, { text: 'last' }]);
      assert.equal(backend.of('publish').at(-1).channel, 'posts');
    });

    test('rpc: data, null, errors and statuses', async () => {
      const made = client();
      await connected(made);
      assert.deepEqual((await made.rpc('add', { a: 1 })).data, { method: 'add', data: { a: 1 } });
      assert.equal((await made.rpc('', { answer: { result: { data: null } } })).data, null);
      assert.equal(backend.of('rpc').at(-1).method, undefined);
      const problem = { error: { code: 400, message: 'bad sum' } };
      await assert.rejects(made.rpc('add', { answer: problem }), { code: 400, message: 'bad sum' });
      await assert.rejects(made.rpc('add', { answer: 404 }), { code: 404, message: 'no such thing' });
      await assert.rejects(made.rpc('add', { answer: 500 }), { code: 100 });
    });

    test('refresh: a connection that expires is asked for, and ends where the backend says so', async () => {
      const stays = client({ data: { result: { expire_at: unixNow() + 2 } } });
      const { client: id } = await connected(stays);
      await until(() => backend.of('refresh').some((body) => body.client === id && body.user === 'ann'), 'the question');
      assert.deepEqual((await stays.rpc('still', 'here')).data, { method: 'still', data: 'here' });
      backend.answer({ refresh: { result: { expired: true } } });
      const goes = client({ data: { result: { expire_at: unixNow() + 2 } } });
      await connected(goes);
      await until(() => goes.log.connecting.some(({ code }) => code === 3005), 'the end: 3005');
      backend.answer({ refresh: () => ({ result: { expire_at: unixNow() + 3600 } }) });
    });

    test('sub_refresh: so with a subscription', async () => {
      const made = client();
      const expiring = () => ({ answer: { result: { expire_at: unixNow() + 2 } } });
      const stays = await subscribed(made, 'prolonged', { data: expiring() });
      await until(() => backend.of('sub_refresh').some(({ channel }) => channel === 'prolonged'), 'the question');
      await daemon.publish('prolonged', 1);
      await received(stays, [1]);
      backend.answer({ sub_refresh: { result: { expired: true } } });
      const goes = await subscribed(made, 'expiring', { data: expiring() });
      await until(() => goes.seen.subscribing.length + goes.seen.unsubscribed.length > 1, 'the end');
      goes.unsubscribe();
    });

    test('what hooks do is counted', async () => {
      const text = await (await fetch(`${daemon.http}/metrics?api_key=${API_KEY}`)).text();
      assert.match(text, /trunkline_hook_questions_total\{hook="rpc",kind="rpc",outcome="result"\} [1-9]/);
      assert.match(text, /trunkline_hook_questions_total\{hook="connect",kind="connect",outcome="unknown_code"\} [1-9]/);
    });
  });
}

for (const driver of drivers) {
  describe(`a backend in trouble, on ${driver}`, () => {
    test('connected clients go on receiving; new ones wait for the backend, and get in', async () => {
      let backend = await Backend.start({ connect: { result: { user: 'ann' } }, subscribe: { result: {} } });
      const { port } = backend;
      const quick = { timeout: '200ms', probe_interval: '100ms' };
      const daemon = await Daemon.start({ driver, config: asking(backend, quick), args: ['--shards', '2'] });
      const early = sdk(daemon.ws);
      const subscription = await subscribed(early, 'news');
      let published = 0;
      const goesOn = async () => {
        for (let count = 0; count < 5; count += 1) await daemon.publish('news', (published += 1));
        await received(subscription, Array.from({ length: published }, (_, at) => at + 1));
      };

      backend.answer({ connect: () => undefined });
      const late = sdk(daemon.ws);
      const lateIn = next(late, 'connected');
      late.connect();
      await until(() => late.log.errors.length > 1, 'the hanging backend is given up');
      await goesOn();
      backend.answer({ connect: { result: { user: 'late' } } });
      await lateIn;

      await backend.stop();
      const latest = sdk(daemon.ws);
      const latestIn = next(latest, 'connected');
      latest.connect();
      await until(async () => {
        const text = await (await fetch(`${daemon.http}/metrics?api_key=${API_KEY}`)).text();
        return /hook_breaker_open\{hook="connect"\} 1/.test(text);
      }, 'the dead backend is taken for down');
      await goesOn();
      backend = await Backend.start({ connect: { result: { user: 'latest' } } }, port);
      await latestIn;
      await goesOn();
      assert.equal(early.log.disconnected.length, 0);
      assert.equal(early.log.connecting.length, 1, 'it never had to come back');
      [early, late, latest].forEach((made) => made.disconnect());
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('a client that leaves takes its question along', async () => {
      const backend = await Backend.start({ connect: () => undefined });
      const config = asking(backend, { timeout: '5m' });
      const daemon = await Daemon.start({ driver, config, args: ['--shards', '1'] });
      const impatient = sdk(daemon.ws);
      impatient.connect();
      await until(() => backend.hanging === 1, 'the question');
      impatient.disconnect();
      await until(() => backend.hanging === 0, 'its end');
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('without a key, the Authorization of a request is for the backend to judge', async () => {
      const users = { 'Bearer opaque': 'ann', 'Basic eDp5': 'bob' };
      const backend = await Backend.start({
        connect: (body, { authorization }) => (
          users[authorization] ? { result: { user: users[authorization], channels: ['news'] } } : 403
        ),
      });
      const config = asking(backend, { forward_headers: ['Authorization'], status_codes: ['403=4503:go away'] });
      config.client.token = {};
      const daemon = await Daemon.start({ driver, config });
      const opened = (authorization) => {
        class Upgrade extends WebSocket {
          constructor(address, protocols) {
            super(address, protocols, { headers: { authorization } });
          }
        }
        return sdk(daemon.ws, { websocket: Upgrade });
      };
      for (const [authorization, user] of Object.entries(users)) {
        const made = opened(authorization);
        const event = await connected(made);
        const { presence } = await daemon.api('presence', { channel: 'news' });
        assert.equal(presence[event.client].user, user, authorization);
        const response = await fetch(`${daemon.http}/poll?channel=news&wait=0`, { headers: { authorization } });
        assert.equal(response.status, 200, authorization);
        made.disconnect();
      }
      const stranger = opened('Bearer other');
      const end = next(stranger, 'disconnected');
      stranger.connect();
      assert.equal((await end).code, 4503);
      const refused = await fetch(`${daemon.http}/poll?channel=news&wait=0`, { headers: { authorization: 'Bearer other' } });
      assert.equal(refused.status, 403);
      // No backend gets to see the query.
      const inQuery = await fetch(`${daemon.http}/poll?channel=news&wait=0&token=opaque`);
      assert.equal(inQuery.status, 401);
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('let-in: without an answer, as if there were no hook', async () => {
      const dead = { hooks: (names, options) => names.map((name) => ({ name, endpoint: 'http://127.0.0.1:1/', ...options })) };
      const config = asking(dead, { when_unavailable: 'let-in' });
      config.client.allow_anonymous = true;
      const daemon = await Daemon.start({ driver, config });
      const made = sdk(daemon.ws);
      await connected(made);
      await assert.rejects(made.rpc('any', 1), { code: 108 });
      made.disconnect();
      assert.equal(await daemon.stop(), 0);
    });
  });
}

for (const driver of drivers) {
  test(`fields of a request reach the backend byte for byte on ${driver}, cookies as one`, async () => {
    const backend = await Backend.start({ connect: { result: { user: 'ann' } } });
    const hook = backend.hooks(['connect'], { forward_headers: ['Cookie', 'X-Name'] });
    const daemon = await Daemon.start({
      driver, config: configuration({ client: { allow_anonymous: false, connect_hook: 'connect' }, hook }),
    });
    for (const [fields, cookie, name] of [
      ['Cookie: a=1\r\nX-Name: one\r\nCookie: b=2\r\n', 'a=1; b=2', 'one'],
      ['Cookie: a=\xe9; b=2\r\nX-Name: \xe9\r\n', 'a=\xe9; b=2', '\xe9'],
    ]) {
      const socket = net.connect(daemon.port, '127.0.0.1');
      socket.write(Buffer.from(`GET /poll?channel=c&wait=0 HTTP/1.1\r\nHost: a\r\n${fields}\r\n`, 'latin1'));
      await once(socket, 'data');
      socket.destroy();
      const { headers } = backend.asked.at(-1);
      assert.deepEqual([headers.cookie, headers['x-name']], [cookie, name]);
    }
    assert.equal(await daemon.stop(), 0);
    await backend.stop();
  });
}
