// Who waits for the backend, and what becomes of it: clients of the SDK and unidirectional ones, against a backend of node's http.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';
import { after, before, beforeEach, describe, test } from 'node:test';

import WebSocket from 'ws';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, received, sdk, token, watch } from './support/sdk.mjs';
import { next, until } from './support/wait.mjs';

/** A backend whose answers a test chooses by path; it remembers what it was asked, and which questions were taken back. */
class Backend {
  asked = [];
  takenBack = [];
  answers = {};

  async start() {
    this.server = http.createServer(async (request, response) => {
      let text = '';
      for await (const piece of request.setEncoding('utf8')) text += piece;
      const question = { path: request.url, headers: request.headers, ...JSON.parse(text) };
      this.asked.push(question);
      response.on('close', () => response.writableEnded || this.takenBack.push(question));
      const answer = await (this.answers[request.url] ?? (() => ({ result: {} })))(question, response);
      if (response.destroyed || answer === undefined) return;
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
    });
    this.server.listen(0, '127.0.0.1');
    await once(this.server, 'listening');
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  /** Questions of one path. */
  of(path) {
    return this.asked.filter((question) => question.path === path);
  }

  stop() {
    this.server.closeAllConnections();
    return new Promise((done) => this.server.close(done));
  }
}

for (const driver of drivers) {
  describe(`waiting for the backend on ${driver}`, () => {
    const backend = new Backend();
    let daemon;
    const clients = [];
    const client = (options) => {
      clients.push(sdk(daemon.ws, options));
      return clients.at(-1);
    };

    before(async () => {
      await backend.start();
      const hook = (name) => ({
        name, endpoint: `${backend.url}/${name}`, timeout: '20s', forward_headers: ['Cookie', 'X-Request-Id'],
      });
      const hooks = { subscribe_hook: 'subscribe', sub_refresh_hook: 'sub_refresh', publish_hook: 'publish' };
      daemon = await Daemon.start({
        driver,
        config: configuration({
          client: {
            allow_anonymous: false,
            connect_hook: 'connect',
            emulated_headers: ['Cookie', 'X-Request-Id'],
            refresh_hook: 'refresh',
            rpc_hook: 'rpc',
          },
          // The backend gives most of them no user.
          namespace: [
            {
              name: 'asked', history_size: 10, history_ttl: '1m',
              allow_history_for_subscriber: true, allow_history_for_anonymous: true, ...hooks,
            },
            {
              name: 'free', history_size: 10, history_ttl: '1m',
              allow_subscribe_for_client: true, allow_subscribe_for_anonymous: true,
            },
          ],
          hook: ['connect', 'refresh', 'rpc', 'subscribe', 'sub_refresh', 'publish'].map(hook),
        }),
      });
    });
    beforeEach(() => {
      clients.splice(0).forEach((each) => each.disconnect());
      backend.asked = [];
      backend.takenBack = [];
      backend.answers = {};
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('what comes along with a connect waits for its answer, and all of it is answered in order', async () => {
      let answer;
      backend.answers['/connect'] = () => new Promise((resolve) => (answer = resolve));
      const one = client({ data: { who: 'ann' }, name: 'js-test', version: '7' });
      const subs = ['free:1', 'asked:1', 'free:2'].map((channel) => watch(one, channel));
      subs.forEach((sub) => sub.subscribe());
      const event = next(one, 'connected');
      one.connect();
      await until(() => answer, 'the question');
      const [question] = backend.of('/connect');
      assert.deepEqual(
        [question.data, question.name, question.version, question.transport],
        [{ who: 'ann' }, 'js-test', '7', 'websocket'],
      );
      assert.equal(one.state, 'connecting');
      answer({ result: { user: 'ann', data: { hello: 1 }, channels: ['free:own'] } });
      const { data, client: id } = await event;
      assert.deepEqual([data, id], [{ hello: 1 }, question.client]);
      await until(() => subs.every((sub) => sub.state === 'subscribed'), 'every subscription');
      assert.deepEqual(backend.of('/subscribe').map(({ channel, user }) => [channel, user]), [['asked:1', 'ann']]);
      await until(async () => (await daemon.api('channels', {})).channels['free:own'], 'the channel of the hook');
      assert.deepEqual(one.log.disconnected, []);
    });

    test('a refused connect ends with the code of the backend, whatever came along with it', async () => {
      backend.answers['/connect'] = () => ({ error: { code: 1111, message: 'not you' } });
      const one = client();
      watch(one, 'free:1').subscribe();
      one.connect();
      const { code, reason } = await next(one, 'disconnected');
      assert.deepEqual([code, reason], [1111, 'not you']);
    });

    test('a backend that cannot answer is tried again by the client', async () => {
      backend.answers['/connect'] = (question, response) => void response.writeHead(500).end();
      const one = client();
      watch(one, 'free:1').subscribe();
      one.connect();
      await until(() => one.log.errors.length > 1, 'errors of the connect');
      assert.deepEqual(one.log.errors[0].error.code, 100);
      backend.answers = {};
      if (one.state !== 'connected') await next(one, 'connected');
    });

    test('calls wait for each other and for nothing else', async () => {
      const waiting = [];
      backend.answers['/rpc'] = ({ data }) => new Promise((resolve) => waiting.push(() => resolve({ result: { data } })));
      const one = client();
      await connected(one);
      const sub = watch(one, 'free:1');
      sub.subscribe();
      await until(() => sub.state === 'subscribed', 'the subscription');
      const calls = [1, 2, 3].map((number) => one.rpc('give back', { number }));
      await until(() => waiting.length === 1, 'the first question');
      // Who waits still hears.
      await daemon.publish('free:1', 'meanwhile');
      await received(sub, ['meanwhile']);
      assert.equal(waiting.length, 1);
      for (const number of [1, 2, 3]) {
        await until(() => waiting.length === number, 'the next question');
        waiting[number - 1]();
      }
      assert.deepEqual((await Promise.all(calls)).map(({ data }) => data.number), [1, 2, 3]);
    });

    test('a connection that goes away takes its question back', async () => {
      backend.answers['/rpc'] = () => new Promise(() => {});
      const one = client();
      await connected(one);
      one.rpc('never', {}).catch(() => {});
      await until(() => backend.of('/rpc').length === 1, 'the question');
      one.disconnect();
      await until(() => backend.takenBack.some(({ path }) => path === '/rpc'), 'the question to be taken back');
    });

    test('the backend decides what is published', async () => {
      backend.answers['/publish'] = ({ data }) =>
        data.bad ? { error: { code: 1222, message: 'no' } } : { result: { data: { was: data } } };
      const one = client();
      await connected(one);
      const sub = watch(one, 'asked:pub');
      sub.subscribe();
      await until(() => sub.state === 'subscribed', 'the subscription');
      await sub.publish({ n: 1 });
      await assert.rejects(sub.publish({ bad: true }), { code: 1222 });
      await received(sub, [{ was: { n: 1 } }]);
    });

    test('headers are those of the request, and of the connect where it lacks them', async () => {
      const socket = new WebSocket(daemon.ws, { headers: { cookie: 'session=1', 'x-other': 'never' } });
      await once(socket, 'open');
      const headers = { Cookie: 'forged', 'X-Request-ID': 'r1', Host: 'evil' };
      socket.send(JSON.stringify({ id: 1, connect: { headers } }));
      const [reply] = await once(socket, 'message');
      assert.ok(JSON.parse(reply).connect, String(reply));
      const asked = backend.of('/connect')[0].headers;
      assert.deepEqual(
        [asked.cookie, asked['x-request-id'], asked['x-other'], asked.host],
        ['session=1', 'r1', undefined, backend.url.slice('http://'.length)],
      );
      socket.close();

      const smuggler = new WebSocket(daemon.ws);
      await once(smuggler, 'open');
      smuggler.send(JSON.stringify({ id: 1, connect: { headers: { Cookie: 'a\r\nX-Admin: 1' } } }));
      const [refusal] = await once(smuggler, 'message');
      assert.equal(JSON.parse(refusal).error.code, 107);
      smuggler.close();
    });

    test('a connection goes on for as long as the backend says', async () => {
      // A response that takes until the next second has not expired on its way.
      const now = () => Math.floor(Date.now() / 1000);
      let expired = false;
      backend.answers['/connect'] = () => ({ result: { user: 'ann', expire_at: now() + 2 } });
      backend.answers['/refresh'] = () => ({ result: expired ? { expired } : { expire_at: now() + 2 } });
      const one = client();
      await connected(one);
      await until(() => backend.of('/refresh').length > 1, 'two refreshes');
      assert.deepEqual([one.state, backend.of('/refresh')[0].user], ['connected', 'ann']);
      expired = true;
      const { code } = await next(one, 'connecting');
      assert.equal(code, 3005);
    });

    test('a subscription goes on for as long as the backend says', async () => {
      const now = () => Math.floor(Date.now() / 1000);
      backend.answers['/subscribe'] = () => ({ result: { expire_at: now() + 2 } });
      backend.answers['/sub_refresh'] = () => ({ result: { expired: backend.of('/sub_refresh').length > 1, expire_at: now() + 2 } });
      const one = client();
      const sub = watch(one, 'asked:sub');
      sub.subscribe();
      await connected(one);
      await until(() => sub.seen.subscribing.some(({ code }) => code === 2501), 'the end of the subscription');
      assert.deepEqual(backend.of('/sub_refresh').map(({ channel }) => channel).slice(0, 2), ['asked:sub', 'asked:sub']);
      assert.equal(one.state, 'connected');
    });

    test('unidirectional clients are asked about as clients are', async () => {
      backend.answers['/connect'] = () => ({ result: { user: 'ann' } });
      backend.answers['/publish'] = ({ data }) => ({ result: { data: [data] } });
      const published = await fetch(`${daemon.http}/publish?channel=asked:r`, { method: 'POST', body: '{"n":1}' });
      assert.equal(published.status, 200, await published.text());
      const cookie = { headers: { cookie: 'c=1' } };
      for (const [path, transport] of [['poll', 'long_poll'], ['history', 'history']]) {
        backend.asked = [];
        const answer = await fetch(`${daemon.http}/${path}?channel=asked:r&wait=0`, cookie);
        assert.equal(answer.status, 200, await answer.clone().text());
        const questions = backend.asked.map((each) => [each.path, each.user, each.transport, each.headers.cookie]);
        assert.deepEqual(questions, [['/connect', undefined, transport, 'c=1'], ['/subscribe', 'ann', transport, 'c=1']]);
      }
      const history = await (await fetch(`${daemon.http}/history?channel=asked:r`)).json();
      assert.deepEqual(history.messages.map(({ data }) => data), [[{ n: 1 }]]);

      // With a token, only about the channel.
      backend.asked = [];
      const bearer = { headers: { authorization: `Bearer ${token('bob')}` } };
      const stream = await fetch(`${daemon.http}/sse?channel=asked:r`, bearer);
      assert.equal(stream.status, 200);
      await stream.body.cancel();
      assert.deepEqual(backend.asked.map(({ path, user }) => [path, user]), [['/subscribe', 'bob']]);
    });

    test('unidirectional clients are refused in the words of the backend, and never let past it', async () => {
      const about = async (path, options) => {
        const answer = await fetch(`${daemon.http}/${path}`, options);
        return [answer.status, (await answer.json()).code, answer.headers.get('retry-after')];
      };
      backend.answers['/subscribe'] = () => ({ error: { code: 1333, message: 'no' } });
      for (const path of ['sse', 'poll', 'stream', 'history']) {
        assert.deepEqual(await about(`${path}?channel=asked:x`), [403, 1333, null], path);
      }
      backend.answers['/connect'] = () => ({ disconnect: { code: 4500, reason: 'banned' } });
      assert.deepEqual(await about('poll?channel=free:1&wait=0'), [403, 4500, null]);
      backend.answers['/connect'] = (question, response) => void response.writeHead(500).end();
      assert.deepEqual(await about('poll?channel=free:1&wait=0'), [503, 100, '1']);
      backend.answers = { '/publish': () => ({ error: { code: 1444, message: 'no', temporary: true } }) };
      assert.deepEqual(await about('publish?channel=asked:x', { method: 'POST', body: '1' }), [503, 1444, '1']);
      // What is malformed does not reach the backend.
      backend.asked = [];
      assert.equal((await about('history?channel=asked:x&position=%00'))[0], 400);
      assert.deepEqual(backend.asked, []);
    });

    test('a unidirectional client that goes away takes its question back', async () => {
      backend.answers['/connect'] = () => new Promise(() => {});
      const gone = new AbortController();
      const stream = fetch(`${daemon.http}/sse?channel=free:1`, { signal: gone.signal });
      await until(() => backend.of('/connect').length === 1, 'the question');
      gone.abort();
      await assert.rejects(stream);
      await until(() => backend.takenBack.length === 1, 'the question to be taken back');
    });
  });
}
