// Another process takes the place of a running node: unmodified clients see nothing, and what fails changes nothing.

import assert from 'node:assert/strict';
import { describe, test } from 'node:test';

import { EventSource } from 'eventsource';
import WebSocket from 'ws';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { forms, over, sdk, subscribed, transports } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { Authority, startSecure, trusting } from './support/tls.mjs';
import { Backend } from './support/tunnel.mjs';
import { lineLoop, pollLoop } from './support/unidirectional.mjs';
import { file, folder, running, script, upgrade } from './support/upgrade.mjs';
import { sleep, until } from './support/wait.mjs';

/** Publishes numbers from 1 on to each of the channels, ten at a time and `rate` a second, until it is stopped; gives how many. */
function publisher(daemon, channels, rate) {
  const state = { stopped: false, failures: [] };
  const done = (async () => {
    const began = performance.now();
    let published = 0;
    let calls = 0;
    while (!state.stopped) {
      for (let at = 0; at < channels.length; at += 10) {
        const failed = (error) => state.failures.push(String(error.cause ?? error));
        const some = channels.slice(at, at + 10);
        await Promise.all(some.map((channel) => daemon.publish(channel, published + 1).catch(failed)));
        calls += some.length;
        await sleep(Math.max(0, began + (1000 * calls) / rate - performance.now()));
      }
      published += 1;
    }
    return published;
  })();
  return { failures: state.failures, stop: () => { state.stopped = true; return done; } };
}

/** Clients of the run under load, ten of each channel. The long form has 1,000. */
const crowd = Number(process.env.TRUNKLINE_CLIENTS ?? 10);

const range = (to) => Array.from({ length: to }, (_, at) => at + 1);

for (const driver of drivers) {
  describe(`upgrade on ${driver}`, () => {
    // Files of other configurations are in a folder that the first one does not name.
    const config = (changes) => configuration({ driver, shards: 2, sandbox: { read: [folder] }, ...changes });

    test('ten in a row under load, to other drivers and numbers of shards: every client has everything once', async (t) => {
      const backend = await Backend.start();
      const tunnel = [{ name: 'chat', endpoint: backend.url }];
      const daemon = await Daemon.start({ config: config({ tunnel }), listen: '127.0.0.1:0' });
      const files = [
        file(`${driver}-three.toml`, config({ tunnel, shards: 3, driver: drivers.find((other) => other !== driver) })),
        file(`${driver}-one.toml`, config({ tunnel, shards: 1 })),
        file(`${driver}-two.toml`, config({ tunnel })),
      ];
      const clients = [];
      const got = [];
      const channels = ['news', ...range(Math.ceil(crowd / 10) - 1).map((number) => `news${number}`)];
      for (let number = 0; number < crowd; number += 1) {
        const client = sdk(daemon.ws, { form: forms[number % forms.length] });
        clients.push(client);
        got.push((await subscribed(client, channels[number % channels.length])).seen.publications);
      }
      const events = new EventSource(`${daemon.http}/sse?channel=news`);
      const heard = { events: [], polls: [], resets: 0, errors: 0 };
      events.onmessage = (event) => heard.events.push(JSON.parse(event.data).data);
      events.onerror = () => { heard.errors += 1; };
      await until(() => events.readyState === EventSource.OPEN, 'the stream is open');
      const poll = pollLoop(daemon.http, { channel: 'news' }, (message) => heard.polls.push(message.data), () => { heard.resets += 1; });
      const plain = new WebSocket(`ws://${daemon.address}/tunnel/chat`);
      const ended = [];
      plain.on('close', (code) => ended.push(code));
      await new Promise((resolve) => plain.once('open', resolve));
      await sleep(200);
      clients.forEach((client) => Object.values(client.log).forEach((list) => list.splice(0)));

      const began = performance.now();
      const load = publisher(daemon, channels, 500);
      let { pid } = daemon;
      for (let number = 0; number < 10; number += 1) {
        await sleep(100);
        const before = pid;
        const said = await upgrade(pid, '--config', files[number % files.length]);
        assert.equal(said.code, 0, said.out + said.error);
        ({ pid } = said);
        assert.notEqual(pid, before);
      }
      await sleep(100);
      const published = await load.stop();
      const rate = Math.round((published * channels.length * 1000) / (performance.now() - began));
      t.diagnostic(`${crowd} clients, ${published * channels.length} publications, ${rate} a second`);
      assert.deepEqual(load.failures, []);
      await until(() => got.every((seen) => seen.length >= published), 'everything has come');
      for (const [number, client] of clients.entries()) {
        assert.deepEqual(got[number].map((publication) => publication.data), range(published));
        const offsets = got[number].map((publication) => publication.offset);
        assert.deepEqual(offsets, range(published).map((at) => at + offsets[0] - 1));
        assert.deepEqual(client.log, { connecting: [], disconnected: [], errors: [] });
      }
      await until(() => heard.events.length >= published && heard.polls.length >= published, 'streams and polls have it');
      assert.deepEqual(heard.events, range(published));
      assert.deepEqual(heard.polls, range(published));
      assert.deepEqual([heard.resets, heard.errors], [0, 0]);
      const before = backend.asked.length;
      plain.send('still here');
      await until(() => backend.asked.length > before, 'the tunnel goes on');
      assert.deepEqual(ended, []);

      const metrics = await daemon.metrics();
      assert.equal(metrics.get('trunkline_upgrade_total{result="done"}'), 10);
      assert.equal(metrics.get('trunkline_upgrade_connections_closed_total'), 0);
      poll.stop();
      events.close();
      plain.terminate();
      clients.forEach((client) => client.disconnect());
      process.kill(pid, 'SIGTERM');
      assert.equal(await daemon.ended(), 0);
      await backend.stop();
    });

    test('TLS, clients without WebSocket, those that only listen, and one that has stopped reading', async () => {
      const authority = new Authority();
      const slow = { ping_interval: '10m', pong_timeout: '5m', outbox_bytes_max: '32MiB' };
      const signed = authority.sign(`served-${driver}`);
      const daemon = await startSecure({ signed, config: { driver, shards: 2, client: slow } });
      const clients = [
        ...forms.map((form) => sdk(`wss://${daemon.secure}/connection/websocket`, { form, websocket: trusting(authority) })),
        ...transports.map((way) => over(daemon.http, way)),
      ];
      const subscriptions = await Promise.all(clients.map((client) => subscribed(client, 'news')));
      const heard = { messages: [], lines: [], resets: [], closed: [] };
      const socket = new WebSocket(`ws://${daemon.address}/ws?channel=news`);
      socket.on('message', (text) => {
        const message = JSON.parse(text);
        if (message.channel) heard.messages.push(message.data);
      });
      socket.on('close', (code) => heard.closed.push(code));
      const lines = lineLoop(daemon.http, { channel: 'news' }, (message) => heard.lines.push(message.data), (why) => heard.resets.push(why));
      const listening = async () => (await daemon.api('channels')).channels.news?.num_clients === clients.length + 2;
      await until(listening, 'all listen');
      // More than the kernel's buffers take: what it lacks stands in the log.
      const fill = 'x'.repeat(48 * 1024);
      const stalled = await RawSocket.client(daemon.port);
      stalled.command({ id: 2, subscribe: { channel: 'long' } });
      assert.ok((await stalled.message()).subscribe);
      stalled.pause();
      for (const n of range(400)) await daemon.publish('long', { n, fill });
      clients.forEach((client) => Object.values(client.log).forEach((list) => list.splice(0)));

      const load = publisher(daemon, ['news'], 500);
      let { pid } = daemon;
      for (let round = 0; round < 3; round += 1) {
        await sleep(100);
        const said = await upgrade(pid);
        assert.equal(said.code, 0, said.out + said.error);
        ({ pid } = said);
      }
      const published = await load.stop();
      assert.deepEqual(load.failures, []);
      for (const [at, client] of clients.entries()) {
        const { publications } = subscriptions[at].seen;
        await until(() => publications.length >= published, `everything has come to client ${at}`);
        assert.deepEqual(publications.map((publication) => publication.data), range(published));
        assert.deepEqual(client.log, { connecting: [], disconnected: [], errors: [] });
        // What it says arrives as well.
        assert.equal((await subscriptions[at].presenceStats()).numClients, clients.length + 2);
      }
      await until(() => heard.messages.length >= published && heard.lines.length >= published, 'the others have it');
      assert.deepEqual(heard, { messages: range(published), lines: range(published), resets: [], closed: [] });
      stalled.resume();
      for (const n of range(400)) assert.equal((await stalled.message()).push.pub.data.n, n);

      stalled.destroy();
      lines.stop();
      socket.terminate();
      clients.forEach((client) => client.disconnect());
      process.kill(pid, 'SIGTERM');
      assert.equal(await daemon.ended(), 0);
      authority.remove();
    });

    test('what fails is named and changes nothing', async () => {
      const own = config();
      const daemon = await Daemon.start({ config: own });
      const client = sdk(daemon.ws);
      const seen = (await subscribed(client, 'news')).seen.publications;
      const load = publisher(daemon, ['news'], 200);
      const sleeps = script('sleeps', 'exec sleep 60');
      for (const [args, problem] of [
        [['--binary', script('ends', 'exit 7')], /exit code 7/],
        [['--binary', file('no-program', 'text')], /cannot be started/],
        [['--binary', sleeps, '--timeout', '300ms'], /did not answer in time/],
        [['--config', file('broken.toml', 'listen = 7\n[nothing]\n')], /nothing|listen/],
        [['--config', '/nonexistent.toml'], /nonexistent/],
      ]) {
        const said = await upgrade(daemon.pid, ...args);
        assert.equal(said.code, 1, `${args}: ${said.out}`);
        assert.match(said.error, problem);
      }
      const first = upgrade(daemon.pid, '--binary', sleeps, '--timeout', '2s');
      await until(() => /process \d+ is started/.test(daemon.output.split('sleeps').at(-1)), 'one is running');
      await sleep(200);
      assert.match((await upgrade(daemon.pid)).error, /running already/);
      assert.match((await first).error, /did not answer in time/);
      assert.match((await upgrade(1)).error, /no node that can be asked/);
      const drain = (method, body) => fetch(`${daemon.http}/api/drain`, {
        method, headers: { 'X-API-Key': API_KEY }, body,
      });
      assert.equal((await drain('POST', '{"over_ms": 1000, "delay_ms": 60000}')).status, 200);
      assert.match((await upgrade(daemon.pid)).error, /drains: stop that first/);
      assert.equal((await drain('DELETE')).status, 200);
      const published = await load.stop();
      assert.deepEqual(load.failures, []);
      await until(() => seen.length >= published, 'everything has come');
      assert.deepEqual(seen.map((publication) => publication.data), range(published));
      assert.deepEqual([client.log.disconnected, client.log.errors], [[], []]);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    test('more clients than a shard begins to read from at once: each is read from and written to', async () => {
      const daemon = await Daemon.start({ config: config({ shards: 1 }), args: ['--echo'] });
      const address = daemon.ws.replace('/connection/websocket', '/echo');
      const sockets = Array.from({ length: 600 }, () => new WebSocket(address));
      await Promise.all(sockets.map((socket) => new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject))));
      const echoed = () => Promise.all(sockets.map((socket, at) => new Promise((resolve, reject) => {
        socket.once('close', reject);
        socket.once('message', (data) => resolve(String(data)));
        socket.send(String(at));
      })));
      const expected = sockets.map((_, at) => String(at));
      assert.deepEqual(await echoed(), expected);
      const moved = await upgrade(daemon.pid);
      assert.equal(moved.code, 0, moved.error);
      assert.deepEqual(await echoed(), expected);
      sockets.forEach((socket) => socket.removeAllListeners('close').terminate());
      process.kill(moved.pid, 'SIGTERM');
      assert.equal(await daemon.ended(), 0);
    });

    test('SIGUSR2 asks for one as well', async () => {
      const daemon = await Daemon.start({ config: config() });
      const client = sdk(daemon.ws);
      const seen = (await subscribed(client, 'news')).seen.publications;
      daemon.signal('SIGUSR2');
      const serves = /process (\d+) \(trunkline \S+\) serves/;
      await until(() => serves.test(daemon.output), () => daemon.output);
      const pid = Number(daemon.output.match(serves)[1]);
      running.add(pid);
      await daemon.publish('news', 1);
      await until(() => seen.length === 1, 'it has come');
      // The old process ends by itself, and not because it has waited long enough.
      assert.equal(await daemon.exited(), 0);
      assert.doesNotMatch(daemon.output, /has not settled/);
      await daemon.publish('news', 2);
      await until(() => seen.length === 2, 'it has come as well');
      assert.deepEqual([client.log.disconnected, client.log.errors], [[], []]);
      client.disconnect();
      process.kill(pid, 'SIGTERM');
      assert.equal(await daemon.ended(), 0);
    });

    // A debug build dies where it is told to.
    for (const place of ['hello', 'listeners', 'parcels', 'adopted', 'commit']) {
      test(`the new process is killed at "${place}": everybody stays`, async () => {
        const daemon = await Daemon.start({ config: config(), env: { TRUNKLINE_FAULT: `new.${place}=kill` } });
        const client = sdk(daemon.ws);
        const seen = (await subscribed(client, 'news')).seen.publications;
        client.log.connecting.splice(0);
        const load = publisher(daemon, ['news'], 200);
        await sleep(50);
        const said = await upgrade(daemon.pid);
        assert.equal(said.code, 1, said.out);
        assert.match(said.error, /signal 9/);
        await sleep(50);
        const published = await load.stop();
        assert.deepEqual(load.failures, []);
        await until(() => seen.length >= published, 'everything has come');
        assert.deepEqual(seen.map((publication) => publication.data), range(published));
        assert.deepEqual(client.log, { connecting: [], disconnected: [], errors: [] });
        client.disconnect();
        assert.equal(await daemon.stop(), 0);
      });
    }

    for (const place of ['hello', 'listeners', 'ready', 'ahead', 'parcels', 'complete', 'commit']) {
      test(`the old process is killed at "${place}": the new one starts again in its place`, async () => {
        // A port by its number: a node that starts again must find the one that clients know.
        const listen = `127.0.0.1:${await freePort()}`;
        const daemon = await Daemon.start({ config: config(), listen, env: { TRUNKLINE_FAULT: `old.${place}=kill` } });
        const client = sdk(daemon.ws);
        const seen = (await subscribed(client, 'news')).seen;
        const said = await upgrade(daemon.pid);
        assert.equal(said.code, 1, said.out);
        const pid = Number(said.out.match(/process (\d+) is started/)?.[1]);
        assert.ok(pid, said.out);
        running.add(pid);
        await until(() => seen.subscribed.length === 2, () => `the client is back; ${daemon.output}`);
        await daemon.publish('news', 'again');
        await until(() => seen.publications.length === 1, 'it has come');
        assert.deepEqual([client.log.disconnected, client.state], [[], 'connected']);
        client.disconnect();
        process.kill(pid, 'SIGTERM');
        assert.equal(await daemon.ended(), 'SIGKILL');
      });
    }

    for (const fault of ['old.committed', 'new.committed']) {
      test(`a process is killed at "${fault}": there is one`, async () => {
        const daemon = await Daemon.start({ config: config(), env: { TRUNKLINE_FAULT: `${fault}=kill` } });
        const client = sdk(daemon.ws);
        const seen = (await subscribed(client, 'news')).seen.publications;
        client.log.connecting.splice(0);
        const said = await upgrade(daemon.pid);
        const started = Number(said.out.match(/process (\d+) is started/)?.[1]);
        running.add(started);
        await daemon.publish('news', 'still');
        await until(() => seen.length === 1, () => `it has come; ${daemon.output}`);
        assert.deepEqual(client.log, { connecting: [], disconnected: [], errors: [] });
        client.disconnect();
        process.kill(fault.startsWith('old') ? started : daemon.pid, 'SIGTERM');
        assert.equal(await daemon.ended(), fault.startsWith('old') ? 'SIGKILL' : 0);
      });
    }
  });
}
