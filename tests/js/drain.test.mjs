// Clients that leave evenly over a time: a node that drains, ends, or gives some of its clients to others. Health meanwhile.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, sdk, subscribed } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { Backend, Client } from './support/tunnel.mjs';
import { next, until } from './support/wait.mjs';

const CLIENTS = 200;

/** `/api/drain` and the like: status and JSON. */
async function call(daemon, method, path, body) {
  const response = await fetch(`${daemon.http}${path}`, {
    method,
    headers: { 'X-API-Key': API_KEY },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  return { status: response.status, answer: await response.json() };
}

const drain = (daemon, method = 'GET', body) => call(daemon, method, '/api/drain', body);

async function ready(daemon) {
  const response = await fetch(`${daemon.http}/health/ready`);
  return { status: response.status, ...(await response.json()) };
}

async function crowd(daemon, count) {
  const sockets = [];
  for (let n = 0; n < count; n += 1) sockets.push(await RawSocket.client(daemon.port));
  return sockets;
}

const gone = (sockets) => sockets.filter((socket) => socket.isTold).length;

for (const driver of drivers) {
  describe(`drain on ${driver}`, () => {
    test('closes follow the plan, in random order; nobody is let in; readiness is off at once', async () => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
      assert.deepEqual(await ready(daemon), { status: 200, ready: true });
      assert.deepEqual((await drain(daemon)).answer, { draining: false });
      const sockets = await crowd(daemon, CLIENTS);
      const over = 5000;
      const begun = await drain(daemon, 'POST', { over_ms: over });
      assert.equal(begun.status, 200);
      assert.equal(begun.answer.draining, true);
      assert.deepEqual(await ready(daemon), { status: 503, ready: false, reason: 'draining' });
      assert.equal((await fetch(`${daemon.http}/health`)).status, 503);
      assert.equal((await fetch(`${daemon.http}/health/live`)).status, 200);

      // As the daemon's own clock sees it: however late this process looks, so many have gone by then.
      let looks = 0;
      let last = 0;
      for (;;) {
        const { progress } = (await drain(daemon)).answer;
        if (progress.done) break;
        if (progress.clients === CLIENTS) {
          const planned = (CLIENTS * progress.elapsed_ms) / over;
          assert.ok(Math.abs(progress.closed - planned) <= CLIENTS / 5, JSON.stringify(progress));
          assert.ok(progress.closed >= last, JSON.stringify(progress));
          last = progress.closed;
          looks += 1;
        }
        if (looks === 2) {
          // The same for a client of any kind.
          const stranger = await RawSocket.connect(daemon.port);
          stranger.write('GET /connection/websocket HTTP/1.1\r\nHost: localhost\r\n\r\n');
          const { status, headers } = await stranger.head();
          assert.equal(status, 503);
          assert.ok(Number(headers['retry-after']) >= 1);
          assert.equal((await fetch(`${daemon.http}/poll?channel=c`)).status, 503);
          // A second drain changes nothing.
          const second = await drain(daemon, 'POST', { over_ms: 60_000 });
          assert.equal(second.status, 409, JSON.stringify(second.answer));
          await daemon.publish('room', 'the API is served');
        }
        await new Promise((done) => { setTimeout(done, 100); });
      }
      assert.ok(looks > 10, `${looks} looks`);
      const closes = await Promise.all(sockets.map((socket) => socket.closed()));
      closes.forEach((close) => assert.deepEqual(close, { code: 3001, reason: 'shutdown' }));
      assert.equal((await drain(daemon)).answer.progress.closed, CLIENTS);

      // It stays empty until it is said otherwise.
      assert.equal((await ready(daemon)).status, 503);
      assert.deepEqual(await drain(daemon, 'DELETE'), { status: 200, answer: { draining: false } });
      assert.equal((await ready(daemon)).status, 200);
      const [back] = await crowd(daemon, 1);
      back.destroy();
      assert.equal((await drain(daemon, 'DELETE')).status, 409);
      assert.equal(await daemon.stop(), 0);
    });

    test('a drain that is stopped leaves the rest alone', async () => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
      const sockets = await crowd(daemon, 40);
      await drain(daemon, 'POST', { over_ms: 40_000 });
      await until(() => gone(sockets) >= 2, 'the first leave');
      assert.equal((await drain(daemon, 'DELETE')).status, 200);
      const left = gone(sockets);
      assert.ok(left < 40, `${left}`);
      await crowd(daemon, 1);
      const staying = sockets.find((socket) => !socket.isTold);
      staying.command({ id: 9, rpc: { method: 'x' } });
      assert.equal((await staying.message()).id, 9);
      assert.equal(gone(sockets), left);
      assert.equal(await daemon.stop(), 0);
    });

    test('what is out of range is refused and drains nobody', async () => {
      const daemon = await Daemon.start({ driver });
      const [socket] = await crowd(daemon, 1);
      for (const body of [{ over_ms: -1 }, { over_ms: 86_400_001 }, { delay_ms: 1e12 }, { over_ms: 1.5 }, { over: 1 }, []]) {
        const { status, answer } = await drain(daemon, 'POST', body);
        assert.equal(status, 400, JSON.stringify([body, answer]));
      }
      for (const body of [{}, { percent: 0 }, { percent: 101 }, { user: '' }, { user: 'a', channel: 'b' }, { percent: 5, over_ms: 1e9 }]) {
        const { status, answer } = await call(daemon, 'POST', '/api/reconnect', body);
        assert.equal(status, 400, JSON.stringify([body, answer]));
      }
      for (const path of ['/api/drain', '/api/reconnect']) {
        assert.equal((await fetch(daemon.http + path, { method: 'POST' })).status, 401);
      }
      assert.deepEqual((await drain(daemon)).answer, { draining: false });
      assert.equal((await ready(daemon)).status, 200);
      assert.ok(!socket.isTold);
      assert.equal(await daemon.stop(), 0);
    });

    test('each kind of client is sent away in its own words', async () => {
      const backend = await Backend.start();
      const tunnel = [{ name: 'game', endpoint: backend.url }];
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'], config: configuration({ tunnel }) });
      const client = sdk(daemon.ws);
      await connected(client);
      const game = await Client.connect(`ws://${daemon.address}/tunnel/game`);
      const events = await fetch(`${daemon.http}/sse?channel=c`);
      const lines = await fetch(`${daemon.http}/stream?channel=c`);
      const poll = fetch(`${daemon.http}/poll?channel=c`);
      await until(async () => (await daemon.metrics()).get('trunkline_polls_held_total') === 1, 'a held poll');
      const told = next(client, 'connecting');
      await drain(daemon, 'POST', { over_ms: 500 });
      assert.deepEqual({ ...(await told) }, { code: 3001, reason: 'shutdown' });
      assert.deepEqual(await game.closed(), { code: 1012, reason: 'shutdown' });
      const said = await events.text();
      assert.match(said, /event: disconnect\n/);
      assert.match(said, /"code":3001/);
      assert.match(said, /retry: \d{4,5}\n/);
      assert.match(await lines.text(), /"disconnect":\{"code":3001/);
      assert.equal((await poll).status, 200);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('SIGTERM drains over the time of the configuration, after the delay', async () => {
      const env = { TRUNKLINE_SHUTDOWN_DRAIN: '3s', TRUNKLINE_SHUTDOWN_DELAY: '1s' };
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'], env });
      const sockets = await crowd(daemon, 60);
      const ended = daemon.stop();
      await until(async () => (await ready(daemon)).reason === 'ending', 'readiness off');
      assert.equal(gone(sockets), 0, 'nobody leaves during the delay');
      (await RawSocket.client(daemon.port)).destroy();
      await until(async () => ((await drain(daemon)).answer.progress?.closed ?? 0) > 0, 'the closes begin');
      // Half of them are still served, and nothing stops it.
      assert.equal((await drain(daemon, 'DELETE')).status, 409);
      await until(() => gone(sockets) >= 20, 'a third has left');
      assert.ok(gone(sockets) < 60, 'not all at once');
      const closes = await Promise.all(sockets.map((socket) => socket.closed()));
      closes.forEach((close) => assert.deepEqual(close, { code: 3001, reason: 'shutdown' }));
      assert.equal(await ended, 0);
    });

    test('a second SIGTERM ends a drain at once', async () => {
      const daemon = await Daemon.start({ driver, env: { TRUNKLINE_SHUTDOWN_DRAIN: '10m' } });
      const sockets = await crowd(daemon, 10);
      const ended = daemon.stop();
      await until(() => gone(sockets) >= 1, 'the first leaves');
      daemon.signal('SIGTERM');
      assert.equal(await ended, 1);
    });

    test('reconnect moves a part, a user, or the subscribers of a channel', async () => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
      const reconnect = async (body) => {
        const { status, answer } = await call(daemon, 'POST', '/api/reconnect', { over_ms: 200, ...body });
        assert.equal(status, 200, JSON.stringify(answer));
        return answer.clients;
      };
      const sockets = await crowd(daemon, 100);
      const chosen = await reconnect({ percent: 30 });
      assert.ok(chosen >= 30 && chosen <= 32, `${chosen}`);
      await until(() => gone(sockets) >= chosen, 'they leave');
      const moved = sockets.filter((socket) => socket.isTold);
      const staying = sockets.filter((socket) => !socket.isTold);
      assert.equal(moved.length, chosen);
      for (const socket of moved) {
        assert.deepEqual(await socket.closed(), { code: 3011, reason: 'force reconnect' });
      }
      assert.equal((await ready(daemon)).status, 200);

      // The SDK comes back by itself, and its subscription with it.
      const client = sdk(daemon.ws);
      const room = await subscribed(client, 'room');
      const told = next(client, 'connecting');
      assert.equal(await reconnect({ channel: 'room' }), 1);
      assert.equal((await told).code, 3011);
      await until(() => room.seen.subscribed.length === 2, 'subscribed again');
      assert.equal(await reconnect({ channel: 'nobody is here' }), 0);
      assert.equal(await reconnect({ user: 'nobody' }), 0);
      assert.equal(gone(staying), 0);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });
  });
}
