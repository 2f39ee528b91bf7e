// From one process to the next: restarts, signals, a host that is up for years, a log that nobody reads.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, constants, mkdtempSync, openSync, readFileSync, rmSync, writeSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { API_KEY, Daemon, TOKEN_SECRET, binary, configuration, drivers } from './support/daemon.mjs';
import { connected, received, sdk, subscribed, token, unixNow } from './support/sdk.mjs';
import { next, sleep, until } from './support/wait.mjs';

/** Whether another process can listen on the port, now. */
function isFree(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.on('error', () => resolve(false));
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => server.close(() => resolve(true)));
  });
}

/** Over two seconds, or longer where the machine has too much to do. */
async function ticksPerSecond(daemon) {
  const ticks = async () => (await daemon.metrics()).get('trunkline_ticks_total');
  const [began, before] = [performance.now(), await ticks()];
  await sleep(2_000);
  return ((await ticks()) - before) / ((performance.now() - began) / 1000);
}

for (const driver of drivers) {
  describe(`a life on ${driver}`, () => {
    test('the port is free when the process has ended in order', async () => {
      for (let n = 0; n < 8; n += 1) {
        const daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
        const client = sdk(daemon.ws);
        if (n % 2) await connected(client);
        const { port } = daemon;
        client.disconnect();
        assert.equal(await daemon.stop(), 0);
        assert.ok(await isFree(port), `port ${port} after end ${n}`);
      }
    });

    test('after a kill -9 a crowd comes back as fast as is allowed, and no faster', async () => {
      const config = configuration({ admission: { connects_per_second: 20, connects_burst: 20, retry_after_max: '1s' } });
      const clients = Array.from({ length: 60 }, () => null);
      const first = await Daemon.start({ driver, args: ['--shards', '2'], config: configuration() });
      const listen = first.address;
      const came = [];
      for (const number of clients.keys()) {
        clients[number] = sdk(first.ws, { minReconnectDelay: 50, maxReconnectDelay: 200 });
        clients[number].on('connected', () => came.push(performance.now()));
      }
      await Promise.all(clients.map((client) => connected(client)));
      came.splice(0);
      first.signal('SIGKILL');
      await first.ended();
      const began = performance.now();
      const daemon = await Daemon.start({ driver, listen, config, args: ['--shards', '2'] });
      await until(() => came.length >= clients.length, () => `all are back, and not only ${came.length}`);
      for (const [before, at] of came.entries()) {
        const allowed = 20 + (20 * (at - began)) / 1000;
        assert.ok(before < allowed, `client ${before + 1} is back after ${at - began} ms`);
      }
      assert.ok((await daemon.metrics()).get('trunkline_faults_total{cause="node_connects"}') > 0);
      clients.forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('the next process starts at once, however the one before has ended', async () => {
      let daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
      const listen = daemon.address;
      for (let n = 0; n < 16; n += 1) {
        const client = sdk(`ws://${listen}/connection/websocket`);
        await connected(client);
        const gone = next(client, 'connecting');
        daemon.signal(n % 2 ? 'SIGKILL' : 'SIGTERM');
        await gone;
        client.disconnect();
        await daemon.ended();
        daemon = await Daemon.start({ driver, listen, args: ['--shards', '2'] });
      }
      // Beside one that lives there is no second.
      const second = Daemon.spawn({ driver, listen });
      assert.equal(await second.ended(), 1, second.output);
      assert.ok(second.output.includes(listen), second.output);
      assert.equal(await daemon.stop(), 0);
    });

    test('SIGUSR1 is logged and ends nothing', async () => {
      const daemon = await Daemon.start({ driver });
      const client = sdk(daemon.ws);
      await connected(client);
      const room = await subscribed(client, 'room');
      for (const name of ['SIGUSR1']) {
        daemon.signal(name);
        await until(() => daemon.output.includes(`${name} is ignored`), () => `${name} in:\n${daemon.output}`);
      }
      await daemon.publish('room', 1);
      await received(room, [1]);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    test('shutdown.delay: health says so while clients are still served', async () => {
      const daemon = await Daemon.start({ driver, config: configuration({ shutdown: { delay: '3s', grace: '5s' } }) });
      assert.equal((await fetch(`${daemon.http}/health`)).status, 200);
      const ended = daemon.stop();
      await until(async () => (await fetch(`${daemon.http}/health`)).status === 503, 'health off');
      const client = sdk(daemon.ws);
      await connected(client);
      const told = next(client, 'connecting');
      assert.equal((await told).code, 3001);
      client.disconnect();
      assert.equal(await ended, 0);
    });

    test('a second SIGTERM ends the delay at once', async () => {
      const daemon = await Daemon.start({ driver, config: configuration({ shutdown: { delay: '10m' } }) });
      const ended = daemon.stop();
      await until(async () => (await fetch(`${daemon.http}/health`)).status === 503, 'health off');
      daemon.signal('SIGTERM');
      assert.equal(await ended, 1);
    });

    test('dates without end cost nothing and end nobody', async () => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '1'] });
      const clients = [];
      for (const exp of [unixNow() + 8 * 365 * 86_400, 2 ** 42, 2 ** 53, 2 ** 62, 2 ** 63, 2 ** 64, 1e300]) {
        const client = sdk(daemon.ws, { token: token(`until-${exp}`, { exp }) });
        await connected(client);
        client.on('connecting', (event) => assert.fail(`exp ${exp}: ${JSON.stringify(event)}`));
        clients.push(client);
      }
      const last = sdk(daemon.ws, { token: token('refreshed') });
      await connected(last);
      last.on('connecting', (event) => assert.fail(JSON.stringify(event)));
      for (const date of ['18446744073709551615', '9223372036854775807', '1e300', '4102444800.5']) {
        const { status, answer } = await daemon.apiRaw('refresh', `{"user":"refreshed","expire_at":${date}}`);
        assert.deepEqual([status, answer], [200, { result: {} }], date);
      }
      // A sweep a second, this request and what there is of pings; a timer that is always due makes fifty.
      const rate = await ticksPerSecond(daemon);
      assert.ok(rate < 30, `${rate} ticks a second`);
      for (const client of [...clients, last]) client.removeAllListeners().disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    test('far dates of subscription tokens, of hooks and of the API end nothing either', async () => {
      const dates = [unixNow() + 8 * 365 * 86_400, 2 ** 63, 1e300];
      const soon = unixNow() + 3;
      const far = ({ user, client }) => ({ result: { expire_at: dates[(user || client).at(-1)] } });
      const backend = await Backend.start({
        connect: ({ data }) => ({ result: data }),
        refresh: far,
        subscribe: ({ data }) => ({ result: data }),
        sub_refresh: far,
      });
      const config = configuration({
        client: { connect_hook: 'connect', refresh_hook: 'refresh' },
        namespace: [{ name: 'closed', presence: true }, { name: 'asked', subscribe_hook: 'subscribe', sub_refresh_hook: 'sub_refresh' }],
        hook: backend.hooks(['connect', 'refresh', 'subscribe', 'sub_refresh']),
      });
      const daemon = await Daemon.start({ driver, config, args: ['--shards', '1'] });
      const clients = [];
      const subscriptions = [];
      const begin = async (options, channel, subscription) => {
        const client = sdk(daemon.ws, options);
        await connected(client);
        client.on('connecting', (event) => assert.fail(`${channel}: ${JSON.stringify(event)}`));
        clients.push(client);
        subscriptions.push(await subscribed(client, channel, subscription));
      };
      for (const [at, date] of dates.entries()) {
        const user = `user-${at}`;
        for (const claims of [{ exp: date }, { exp: soon + 60, expire_at: date }]) {
          const channel = `closed:${user}-${Object.keys(claims).length}`;
          await begin({ token: token(user) }, channel, { token: token(user, { channel, ...claims }) });
        }
        await begin({ data: { user, expire_at: date } }, `asked:at-once-${at}`, { data: { expire_at: date } });
        await begin({ data: { user, expire_at: soon } }, `asked:later-${at}`, { data: { expire_at: soon } });
        const body = `{"user":"${user}","channel":"closed:api","expire_at":${date}}`;
        const { status, answer } = await daemon.apiRaw('subscribe', body);
        assert.deepEqual([status, answer], [200, { result: {} }], body);
      }
      await until(
        () => backend.of('refresh').length >= dates.length && backend.of('sub_refresh').length >= dates.length,
        'what ended soon has been asked about',
      );
      const rate = await ticksPerSecond(daemon);
      assert.ok(rate < 30, `${rate} ticks a second`);
      assert.equal(backend.of('refresh').length, dates.length, 'once for each');
      assert.equal(backend.of('sub_refresh').length, dates.length);
      for (const { channel, seen } of subscriptions) {
        assert.deepEqual([seen.subscribing.length, seen.unsubscribed, seen.errors], [1, [], []], channel);
      }
      const { num_users } = await daemon.api('presence_stats', { channel: 'closed:api' });
      assert.equal(num_users, dates.length);
      for (const client of clients) client.removeAllListeners().disconnect();
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('a host that has been up for 994 days', async () => {
      // Ticks of 20 ms fill 32 bits a few seconds after the start, and those of a sign have done so long before.
      const now = Number(process.hrtime.bigint() / 1_000_000_000n);
      const ahead = Math.floor(2 ** 32 * 0.02) - now - 6;
      const user = process.getuid() === 0 ? [] : ['--user', '--map-root-user'];
      const under = ['unshare', ...user, '--time', '--monotonic', String(ahead), '--fork', '--kill-child', '--'];
      const config = configuration({ client: { ping_interval: '4s', pong_timeout: '3s', connect_timeout: '8s' } });
      const daemon = await Daemon.start({ driver, config, under, args: ['--shards', '2'] });
      const early = sdk(daemon.ws);
      await connected(early);
      const room = await subscribed(early, 'room');
      early.on('connecting', (event) => assert.fail(JSON.stringify(event)));
      for (let second = 0; second < 14; second += 1) {
        const late = sdk(daemon.ws);
        await connected(late);
        late.disconnect();
        await daemon.publish('room', second);
        await sleep(1_000);
      }
      await received(room, Array.from({ length: 14 }, (_, second) => second));
      early.removeAllListeners().disconnect();
      await daemon.kill();
    });

    test('a log that nobody reads holds up neither clients nor the end', async () => {
      const directory = mkdtempSync(path.join(tmpdir(), 'trunkline-log-'));
      const fifo = path.join(directory, 'log');
      execFileSync('mkfifo', [fifo]);
      const reader = openSync(fifo, constants.O_RDWR | constants.O_NONBLOCK);
      // Full, so that the first line waits for ever.
      assert.throws(() => {
        for (const filler of [Buffer.alloc(4096), Buffer.alloc(1)]) {
          for (;;) if (writeSync(reader, filler) < filler.length) break;
        }
      }, { code: 'EAGAIN' });
      const child = spawn('sh', ['-c', 'exec "$@" 2>"$0"', fifo, binary, '--listen', '127.0.0.1:0', '--driver', driver], {
        env: { PATH: process.env.PATH, TRUNKLINE_API_KEY: API_KEY, TRUNKLINE_CLIENT_TOKEN_HMAC_SECRET: TOKEN_SECRET },
        stdio: ['ignore', 'pipe', 'inherit'],
      });
      const ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve(code ?? signal)));
      let out = '';
      child.stdout.setEncoding('utf8').on('data', (text) => (out += text));
      const address = await until(() => out.match(/ws:\/\/([\d.]+:\d+)\//)?.[1], () => `an address in ${out}`);
      for (let n = 0; n < 20; n += 1) {
        child.kill('SIGHUP');
        const stranger = sdk(`ws://${address}/connection/websocket`, { token: token('ann', {}, 'not the secret of the node') });
        const refused = next(stranger, 'disconnected');
        stranger.connect();
        assert.equal((await refused).code, 3500);
        assert.equal((await fetch(`http://${address}/health`)).status, 200);
      }
      child.kill('SIGTERM');
      assert.equal(await ended, 0);
      closeSync(reader);
      rmSync(directory, { recursive: true });
    });

    test('the process gives up what it does not need', async () => {
      const daemon = await Daemon.start({ driver });
      assert.match(readFileSync(`/proc/${daemon.pid}/status`, 'utf8'), /^NoNewPrivs:\s+1$/m);
      assert.equal(await daemon.stop(), 0);
    });
  });
}

test('metrics of a client port need the key, on loopback too: a proxy may stand before it', async () => {
  const daemon = await Daemon.start();
  assert.equal((await fetch(`${daemon.http}/metrics`)).status, 401);
  assert.equal((await fetch(`${daemon.http}/metrics?api_key=${API_KEY}`)).status, 200);
  assert.equal(await daemon.stop(), 0);
  const development = await Daemon.start({ config: null });
  assert.equal((await fetch(`${development.http}/metrics`)).status, 200);
  assert.equal(await development.stop(), 0);
});
