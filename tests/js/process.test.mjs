// The process: how it starts, what it refuses, how it ends.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import { describe, test } from 'node:test';
import { promisify } from 'node:util';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, received, sdk, subscribed } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { next, until } from './support/wait.mjs';

const run = promisify(execFile);

for (const driver of drivers) {
  describe(`the process on ${driver}`, () => {
    test('SIGTERM: clients are told 3001, the process ends with 0', async () => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '3'] });
      const clients = [];
      for (let n = 0; n < 10; n += 1) {
        const client = sdk(daemon.ws);
        await connected(client);
        await subscribed(client, 'room');
        clients.push(client);
      }
      const raw = await RawSocket.client(daemon.port);
      const told = clients.map((client) => next(client, 'connecting'));
      const closed = raw.closed();
      assert.equal(await daemon.stop(), 0);
      for (const event of await Promise.all(told)) assert.deepEqual([event.code, event.reason], [3001, 'shutdown']);
      assert.deepEqual(await closed, { code: 3001, reason: 'shutdown' });
      clients.forEach((client) => client.disconnect());
    });

    test('SIGTERM: a client that does not read or answer does not hold the end up for ever', async () => {
      const daemon = await Daemon.start({ driver, config: configuration({ shutdown: { grace: '1s' } }) });
      const deaf = await RawSocket.client(daemon.port);
      deaf.pause();
      const silent = await RawSocket.connect(daemon.port);
      assert.equal(await daemon.stop(), 0);
      deaf.destroy();
      silent.destroy();
    });

    for (const shards of [1, 3, 54]) {
      test(`${shards} shards: everyone in a channel gets everything, in one order`, async () => {
        const daemon = await Daemon.start({ driver, args: ['--shards', String(shards)] });
        const clients = [];
        const rooms = [];
        for (let n = 0; n < 60; n += 1) {
          const client = sdk(daemon.ws);
          client.connect();
          clients.push(client);
          rooms.push(await subscribed(client, `room-${n % 3}`));
        }
        const wanted = [];
        for (let n = 1; n <= 30; n += 1) {
          wanted.push(n);
          await daemon.api('broadcast', { channels: ['room-0', 'room-1', 'room-2'], data: n });
        }
        for (const room of rooms) await received(room, wanted);
        const [node] = (await daemon.api('info')).nodes;
        assert.deepEqual([node.num_clients, node.num_subs, node.num_channels], [60, 60, 3]);
        clients.forEach((client) => client.disconnect());
        await until(async () => (await daemon.api('info')).nodes[0].num_clients === 0, 'all have left');
        assert.equal(await daemon.stop(), 0);
      });
    }

    test('says which driver it uses, in one line', async () => {
      const daemon = await Daemon.start({ driver });
      assert.match(daemon.output, new RegExp(driver === 'mio' ? 'mio' : 'io[-_]uring'));
      assert.equal(await daemon.stop(), 0);
    });

    test('out of descriptors: it goes on with those it has, and accepts again when some are free', async () => {
      const daemon = await Daemon.start({ driver, args: ['--shards', '1'] });
      await run('prlimit', ['--pid', String(daemon.pid), '--nofile=80']);
      const first = await RawSocket.client(daemon.port);
      first.command({ id: 2, subscribe: { channel: 'full' } });
      await first.message();
      const crowd = [];
      for (let n = 0; n < 150; n += 1) crowd.push(await RawSocket.connect(daemon.port));
      await new Promise((resolve) => setTimeout(resolve, 500));
      // The API's own connections are of no use now: an old client publishes nothing, it only has to be alive.
      first.command({ id: 3, rpc: { method: 'x' } });
      assert.equal((await first.message()).error.code, 108);
      crowd.forEach((raw) => raw.destroy());
      const late = await RawSocket.client(daemon.port);
      assert.ok(late.connected.client);
      first.destroy();
      late.destroy();
      assert.equal(await daemon.stop(), 0);
    });
  });
}

describe('the start', () => {
  test('--driver auto says what it chose and why', async () => {
    const daemon = await Daemon.start({ driver: 'auto' });
    assert.match(daemon.output, /io[-_]uring|mio/);
    assert.equal(await daemon.stop(), 0);
  });

  test('without any configuration: loopback, a key, a curl line that works when pasted', async () => {
    const daemon = await Daemon.start({ config: null });
    const line = await until(() => daemon.output.match(/^.*?(curl .*)$/m)?.[1], () => daemon.output);
    const client = sdk(daemon.ws);
    await connected(client);
    const channel = line.match(/"channel"\s*:\s*"([^"]+)"/)?.[1];
    assert.ok(channel, line);
    const room = await subscribed(client, channel);
    const { stdout } = await run('bash', ['-c', line]);
    assert.ok(JSON.parse(stdout.match(/\{.*\}/s)[0]).result.offset >= 1, stdout);
    await until(() => room.seen.publications.length === 1, 'what curl published');
    const page = await fetch(`${daemon.http}/`);
    assert.equal(page.status, 200);
    assert.match(page.headers.get('content-type'), /text\/html/);
    assert.ok(daemon.output.includes(`${daemon.http}/`) || daemon.output.includes(daemon.http), 'the page is named');
    client.disconnect();
    assert.equal(await daemon.stop(), 0);
  });

  test('the development key is a new one each time', async () => {
    const keys = [];
    for (let n = 0; n < 2; n += 1) {
      const daemon = await Daemon.start({ config: null });
      keys.push(await until(() => daemon.output.match(/X-API-Key: ?([\w-]+)/)?.[1], () => daemon.output));
      assert.equal(await daemon.stop(), 0);
    }
    assert.ok(keys[0].length >= 16 && keys[0] !== keys[1], keys.join(' '));
  });

  test('file, environment, flag: each is stronger than the one before', async () => {
    const works = async (daemon, key) => (await daemon.apiRaw('info', {}, { 'X-API-Key': key })).status;
    const cases = [
      [{}, 'in-the-file'],
      [{ env: { TRUNKLINE_API_KEY: 'in-the-environment' } }, 'in-the-environment'],
      [{ env: { TRUNKLINE_API_KEY: 'in-the-environment' }, args: ['--api-key', 'in-the-flag'] }, 'in-the-flag'],
    ];
    for (const [options, strongest] of cases) {
      const daemon = await Daemon.start({ config: configuration({ api: { key: 'in-the-file' } }), ...options });
      for (const key of ['in-the-file', 'in-the-environment', 'in-the-flag']) {
        assert.equal(await works(daemon, key), key === strongest ? 200 : 401, `${key}, ${strongest} should win`);
      }
      assert.equal(await daemon.stop(), 0);
    }
  });

  test('any address but loopback is refused without credentials, before anything listens', async () => {
    for (const options of [
      { config: null, listen: '0.0.0.0:0' },
      { config: null, listen: '127.0.0.1:0', args: ['--api-listen', '0.0.0.0:0'] },
      { config: configuration({ api: { key: undefined } }), listen: '0.0.0.0:0' },
    ]) {
      const daemon = Daemon.spawn(options);
      assert.equal(await daemon.ended(), 2, daemon.output);
      assert.ok(!daemon.address, daemon.output);
      for (const told of ['--api-key', 'TRUNKLINE_API_KEY']) assert.ok(daemon.output.includes(told), daemon.output);
    }
  });

  test('with credentials any address is served', async () => {
    const daemon = await Daemon.start({ listen: '0.0.0.0:0' });
    const response = await fetch(`http://127.0.0.1:${daemon.port}/health`);
    assert.equal(response.status, 200);
    assert.equal((await fetch(`http://127.0.0.1:${daemon.port}/`)).status, 404, 'no development page');
    assert.equal(await daemon.stop(), 0);
  });

  test('a bad setting ends it with 2 and the key\'s name', async () => {
    for (const [config, named] of [
      [configuration({ client: { ping_interval: 'soon' } }), 'ping_interval'],
      [configuration({ client: { pong_timeuot: '8s' } }), 'pong_timeuot'],
      [configuration({ driver: 'kqueue' }), 'driver'],
    ]) {
      const daemon = Daemon.spawn({ config });
      assert.equal(await daemon.ended(), 2, daemon.output);
      assert.ok(daemon.output.includes(named), daemon.output);
    }
  });

  test('a port that is taken ends it with 1 and the address', async () => {
    const other = net.createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const listen = `127.0.0.1:${other.address().port}`;
    const daemon = Daemon.spawn({ listen });
    const code = await daemon.ended();
    other.close();
    assert.equal(code, 1, daemon.output);
    assert.ok(daemon.output.includes(listen), daemon.output);
  });

  test('--api-listen moves the API to its own port', async () => {
    const daemon = await Daemon.start({ args: ['--api-listen', '127.0.0.1:0'] });
    const api = await until(() => daemon.output.match(/API listening on ([\d.]+:\d+)[^\n]*\n/)?.[1],
      () => `the address of the API in:\n${daemon.output}`);
    assert.notEqual(api, daemon.address);
    const ask = (address) => fetch(`http://${address}/api/info`, {
      method: 'POST', headers: { 'X-API-Key': API_KEY }, body: '{}',
    });
    assert.equal((await ask(api)).status, 200);
    assert.equal((await ask(daemon.address)).status, 404);
    const client = sdk(daemon.ws);
    await connected(client);
    client.disconnect();
    assert.equal(await daemon.stop(), 0);
  });

  test('--log json: every line of the log is a document', async () => {
    const daemon = await Daemon.start({ args: ['--log', 'json'] });
    assert.equal(await daemon.stop(), 0);
    const lines = daemon.output.split('\n').filter((line) => line.startsWith('{'));
    assert.ok(lines.length > 0, daemon.output);
    for (const line of lines) assert.ok(JSON.parse(line).level, line);
  });

  test('/echo is there only when asked for', async () => {
    const without = await Daemon.start();
    assert.equal((await fetch(`${without.http}/echo`)).status, 404);
    assert.equal(await without.stop(), 0);
    const daemon = await Daemon.start({ args: ['--echo'] });
    const response = await fetch(`${daemon.http}/echo`, { method: 'POST', body: 'hello' });
    assert.deepEqual([response.status, await response.text()], [200, 'hello']);
    assert.equal(await daemon.stop(), 0);
  });

  test('/metrics counts what happens', async () => {
    const daemon = await Daemon.start({ args: ['--shards', '2'] });
    const client = sdk(daemon.ws);
    await connected(client);
    const room = await subscribed(client, 'room');
    for (let n = 0; n < 5; n += 1) await daemon.publish('room', n);
    await received(room, [0, 1, 2, 3, 4]);
    const metrics = await daemon.metrics();
    for (const name of metrics.keys()) assert.match(name, /^trunkline_/, name);
    assert.ok(metrics.size > 10, [...metrics.keys()].join('\n'));
    const value = (pattern) => [...metrics].filter(([name]) => pattern.test(name)).reduce((sum, [, n]) => sum + n, 0);
    assert.equal(value(/^trunkline_clients_active\b/), 1, [...metrics].join('\n'));
    assert.equal(value(/^trunkline_channels_active\b/), 1);
    assert.equal(value(/^trunkline_subscriptions_active\b/), 1);
    client.disconnect();
    assert.equal(await daemon.stop(), 0);
  });
});
