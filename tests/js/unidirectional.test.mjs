// Unidirectional clients: native EventSource, streamed fetch, polls and plain WebSocket beside the SDK in headless
// Chromium; npm eventsource; curl as the docs have it; everything behind nginx as well.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { fetchEventSource } from '@microsoft/fetch-event-source';
import { EventSource } from 'eventsource';

import { launch, open, serveSdk } from './support/browser.mjs';
import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { Nginx } from './support/nginx.mjs';
import { Proxy } from './support/proxy.mjs';
import { lineLoop, pollLoop, socketLoop } from './support/unidirectional.mjs';
import { sleep, until } from './support/wait.mjs';

const run = promisify(execFile);
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
/** The page is offline as long as the issue says. */
const OFFLINE_MS = 5_000;

/** In the page: every way to listen, each with what it got. */
function listenEveryWay({ base, channel, loops }) {
  const [poll, lines, socket] = loops.map((text) => eval(`(${text})`));
  const got = (window.got = { events: [], lines: [], polls: [], sockets: [], sdk: [], resets: [], ready: 0 });
  const reset = (channels) => got.resets.push(channels);
  const query = { channel };
  // What a page must do itself: after an answer that is no stream, a browser does not come back.
  const listen = () => {
    const events = (window.events = new EventSource(`${base}/sse?${new URLSearchParams(query)}`));
    events.addEventListener('ready', () => { got.ready += 1; });
    events.addEventListener('reset', (event) => reset(event.data));
    events.onmessage = (event) => got.events.push(JSON.parse(event.data).data);
  };
  listen();
  poll(base, query, (message) => got.polls.push(message.data), reset);
  lines(base, query, (message) => got.lines.push(message.data), reset);
  socket(base, query, (message) => got.sockets.push(message.data), reset);
  const sdk = new Centrifuge(`${base.replace('http', 'ws')}/connection/websocket`, {
    minReconnectDelay: 100, maxReconnectDelay: 500,
  });
  const sub = sdk.newSubscription(channel, { recoverable: true, positioned: true });
  sub.on('publication', (context) => got.sdk.push(context.data));
  sub.subscribe();
  sdk.connect();
}

for (const driver of drivers) {
  for (const front of ['no front', 'nginx', 'nginx by a unix socket']) {
    describe(`every way to listen in Chromium on ${driver}, ${front}`, () => {
      let site;
      let daemon;
      let nginx;
      let proxy;
      let browser;
      let page;
      before(async () => {
        site = await serveSdk();
        const client = { allowed_origins: [site.origin] };
        const file = front.includes('unix') ? path.join(mkdtempSync(path.join(tmpdir(), 'trunkline-')), 'client.sock') : undefined;
        const args = ['--shards', '2', ...(file ? ['--listen', `unix:${file}`] : [])];
        daemon = await Daemon.start({ driver, config: configuration({ client }), args });
        nginx = front === 'no front' ? undefined : await Nginx.before(file ?? daemon.port);
        proxy = await Proxy.to(nginx?.port ?? daemon.port);
        browser = await launch();
        page = await open(browser, site.origin);
      });
      after(async () => {
        await browser?.close();
        await proxy?.close();
        await nginx?.close();
        await site?.close();
        assert.equal(await daemon?.stop(), 0);
      });

      // The SDK's own path is not one of nginx's here.
      const ways = ['events', 'lines', 'polls', 'sockets', ...(front === 'no front' ? ['sdk'] : [])];

      test('each gets what was published while the page was offline, once and in order', async () => {
        const channel = 'news';
        await page.evaluate(listenEveryWay, {
          base: proxy.http, channel, loops: [pollLoop, lineLoop, socketLoop].map(String),
        });
        const got = () => page.evaluate(() => window.got);
        const clients = async () => (await daemon.api('channels')).channels[channel]?.num_clients ?? 0;
        await until(async () => (await clients()) === ways.length, 'every way is subscribed');
        const complete = async (count) =>
          until(async () => {
            const now = await got();
            return ways.every((way) => now[way].length >= count);
          }, async () => `${count} messages everywhere: ${JSON.stringify(await got())}`);

        for (const number of range(1, 20)) await daemon.publish(channel, number);
        await complete(20);
        await page.context().setOffline(true);
        proxy.cut();
        for (const number of range(21, 120)) {
          await daemon.publish(channel, number);
          await sleep(OFFLINE_MS / 100);
        }
        proxy.allow();
        await page.context().setOffline(false);
        await complete(120);
        for (const number of range(121, 140)) await daemon.publish(channel, number);
        await complete(140);
        // Whatever came twice would come now.
        await sleep(300);
        const all = await got();
        for (const way of ways) assert.deepEqual(all[way], range(1, 140), way);
        assert.deepEqual(all.resets, []);
        assert.deepEqual(page.problems, []);
        assert.ok(all.ready >= 2, 'the event stream has come back');
      });
    });
  }

  describe(`npm fetch-event-source on ${driver}`, () => {
    test('hears what was published, and nothing that is no event', async () => {
      const daemon = await Daemon.start({ driver, env: { TRUNKLINE_CLIENT_PING_INTERVAL: '1s', TRUNKLINE_CLIENT_PONG_TIMEOUT: '500ms' } });
      // What it wants of a browser: a page that is shown.
      globalThis.document ??= { hidden: false, addEventListener() {}, removeEventListener() {} };
      globalThis.window ??= globalThis;
      const heard = [];
      const end = new AbortController();
      const listening = fetchEventSource(`${daemon.http}/sse?channel=quiet`, {
        signal: end.signal,
        openWhenHidden: true,
        onmessage: (message) => heard.push(message),
        onerror: (error) => { throw error; },
      });
      await until(() => heard.some(({ event }) => event === 'ready'), 'the stream is ready');
      for (const number of range(1, 3)) {
        // Time for heartbeats, of which none may become a message.
        await sleep(1500);
        await daemon.publish('quiet', number);
        await until(() => heard.length === number + 1, () => JSON.stringify(heard));
      }
      assert.deepEqual(heard.map(({ event }) => event), ['ready', '', '', '']);
      assert.deepEqual(heard.slice(1).map(({ data }) => JSON.parse(data).data), [1, 2, 3]);
      end.abort();
      await listening;
      assert.equal(await daemon.stop(), 0);
    });
  });

  describe(`npm eventsource on ${driver}`, () => {
    let daemon;
    let proxy;
    before(async () => {
      daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
      proxy = await Proxy.to(daemon.port);
    });
    after(async () => {
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
    });

    for (const channels of [['one'], ['several', 'others', 'more']]) {
      test(`resumes by its last id over ${channels.length} channels`, async () => {
        const query = channels.map((channel) => `channel=${channel}`).join('&');
        const got = Object.fromEntries(channels.map((channel) => [channel, []]));
        const events = new EventSource(`${proxy.http}/sse?${query}`);
        let ready = 0;
        events.addEventListener('ready', () => { ready += 1; });
        events.onmessage = ({ data }) => {
          const message = JSON.parse(data);
          got[message.channel].push(message.data);
        };
        await until(() => ready === 1, 'the stream is ready');
        const publish = async (from, to) => {
          for (const number of range(from, to)) {
            for (const channel of channels) await daemon.publish(channel, number);
          }
        };
        const complete = (count) => until(
          () => channels.every((channel) => got[channel].length >= count), () => JSON.stringify(got));
        await publish(1, 10);
        await complete(10);
        proxy.cut();
        await publish(11, 110);
        proxy.allow();
        await complete(110);
        await publish(111, 115);
        await complete(115);
        events.close();
        for (const channel of channels) assert.deepEqual(got[channel], range(1, 115), channel);
      });
    }
  });

  describe(`behind nginx on ${driver}`, () => {
    let daemon;
    let nginx;
    before(async () => {
      const client = { ping_interval: '1s', pong_timeout: '500ms' };
      daemon = await Daemon.start({ driver, config: configuration({ client }) });
      nginx = await Nginx.before(daemon.port, { readTimeout: '8s' });
    });
    after(async () => {
      await nginx.close();
      assert.equal(await daemon.stop(), 0);
    });

    test('a silent stream outlives the read timeout, and is not held back by buffers', async () => {
      const lines = [];
      const resets = [];
      const loop = lineLoop(nginx.http, { channel: 'quiet' }, (message) => lines.push(message.data), (reset) => resets.push(reset));
      await until(() => loop.state.ready === 1, 'the stream is ready');
      // Longer than nginx's patience; the margin to the heartbeat is for machines with too much to do.
      await sleep(12_000);
      await daemon.publish('quiet', 1);
      await until(() => lines.length === 1, 'the message has come');
      loop.stop();
      assert.equal(loop.state.ready, 1, 'it is still the first stream');
      assert.deepEqual(resets, []);
    });

    test('polls and publishing go through, packed where asked', async () => {
      const start = await (await fetch(`${nginx.http}/poll?channel=c&wait=0`)).json();
      const answer = await fetch(`${nginx.http}/publish?channel=c`, { method: 'POST', body: '{"a":1}' });
      assert.equal(answer.status, 200);
      const next = await (await fetch(`${nginx.http}/poll?channel=c&position=${start.position}`)).json();
      assert.deepEqual(next.messages.map(({ data }) => data), [{ a: 1 }]);
      for (const number of range(1, 100)) await daemon.publish('c', { number, text: 'x'.repeat(50) });
      const packed = await fetch(`${nginx.http}/history?channel=c`, { headers: { 'Accept-Encoding': 'gzip' } });
      assert.equal(packed.headers.get('content-encoding'), 'gzip');
      assert.equal((await packed.json()).messages.length, 100);
    });
  });
}

describe('a client that takes its time', () => {
  let daemon;
  before(async () => {
    const client = { connect_timeout: '1s', ping_interval: '1s', pong_timeout: '500ms' };
    daemon = await Daemon.start({ config: configuration({ client }) });
  });
  after(async () => { assert.equal(await daemon.stop(), 0); });

  test('over its head is told so and not waited for', async () => {
    const socket = net.connect(daemon.port, '127.0.0.1');
    let answer = '';
    socket.setEncoding('utf8').on('data', (text) => (answer += text)).on('error', () => {});
    const ended = new Promise((done) => socket.on('close', done));
    const feeding = (async () => {
      for (const byte of 'GET /sse?channel=c HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') {
        if (socket.destroyed || answer) return;
        socket.write(byte);
        await sleep(100);
      }
    })();
    await until(() => /^HTTP\/1\.1 408 .*"status":408/s.test(answer), () => `408, but: ${answer}`);
    await feeding;
    socket.end();
    await ended;
    const faults = await daemon.metrics();
    assert.ok([...faults].some(([name, value]) => name.includes('http_head_timeout') && value > 0));
  });

  test('over everything is cut off', async () => {
    const socket = net.connect(daemon.port, '127.0.0.1');
    socket.on('error', () => {});
    socket.write('GET /sse?channel=full HTTP/1.1\r\nHost: a\r\n\r\n');
    await until(async () => (await daemon.api('channels')).channels.full?.num_clients === 1, 'it is subscribed');
    socket.pause();
    const pad = 'x'.repeat(50_000);
    for (let sent = 0; sent < 200; sent += 1) await daemon.publish('full', pad);
    // It takes nothing from one heartbeat to the next but one.
    await until(async () => !(await daemon.api('channels')).channels.full, 'it is gone');
    assert.ok([...(await daemon.metrics())].some(([name, value]) => name.includes('disconnect_3008') && value > 0));
    socket.destroy();
  });
});

describe('the page at / and the ways to listen', () => {
  let daemon;
  let proxy;
  let browser;
  before(async () => {
    daemon = await Daemon.start({ config: null });
    proxy = await Proxy.to(daemon.port);
    browser = await launch();
  });
  after(async () => {
    await browser.close();
    await proxy.close();
    assert.equal(await daemon.stop(), 0);
  });

  test('all of them side by side, through a cut', async () => {
    const page = await open(browser, `${proxy.http}/`);
    const key = await until(() => daemon.output.match(/key +(\S+)/)?.[1], () => daemon.output);
    const channel = await page.locator('#channel').inputValue();
    const publish = (data) => daemon.api('publish', { channel, data }, key);
    await page.locator('#transports-start').click();
    const ways = ['sse', 'poll', 'stream', 'ws', 'iframe'];
    await until(async () => ((await daemon.api('channels', {}, key)).channels[channel]?.num_clients ?? 0) >= ways.length,
      'all are subscribed');
    const offsets = () => page.locator('#transports tr').evaluateAll((rows) =>
      Object.fromEntries(rows.map((row) => [row.dataset.transport, `${row.querySelector('.number').textContent}:${row.dataset.offset ?? ''}`])));
    for (const number of [1, 2, 3]) await publish({ number });
    await until(async () => Object.values(await offsets()).every((seen) => seen === '3:3'), async () => JSON.stringify(await offsets()));
    proxy.cut();
    await publish({ number: 4 });
    proxy.allow();
    // A page in a frame does not come back by itself.
    const back = ways.filter((way) => way !== 'iframe');
    await until(async () => {
      const seen = await offsets();
      return back.every((way) => seen[way] === '4:4');
    }, async () => JSON.stringify(await offsets()));
    await page.locator('#transports-stop').click();
    assert.deepEqual(page.problems, []);
    if (process.env.TRUNKLINE_TEST_SCREENSHOT) {
      await page.screenshot({ path: process.env.TRUNKLINE_TEST_SCREENSHOT, fullPage: true });
    }
  });
});

describe('the snippets of docs/transports.md', () => {
  let daemon;
  before(async () => { daemon = await Daemon.start({ config: null }); });
  after(async () => { assert.equal(await daemon.stop(), 0); });

  const text = readFileSync(new URL('../../docs/transports.md', import.meta.url), 'utf8');
  const snippets = [...text.matchAll(/```sh\n([^]*?)```(?:\n```json\n([^]*?)```)?/g)];

  test('there is one for each way', () => {
    const all = snippets.map(([, line]) => line).join('');
    for (const path of ['/sse?', '/poll?', '/history?', '/stream?', '/publish?', 'callback=']) {
      assert.ok(all.includes(path), path);
    }
  });

  for (const [, line, answer] of snippets) {
    test(line.trim(), async () => {
      const key = await until(() => daemon.output.match(/key +(\S+)/)?.[1], () => daemon.output);
      const command = line.replaceAll('127.0.0.1:8000', daemon.address).replace('KEY', key);
      const streams = command.includes('--max-time');
      // More than once: on a loaded machine curl has only just begun when the first one comes.
      const publishing = streams && (async () => {
        for (let n = 0; n < 3; n += 1) {
          await sleep(500);
          await daemon.api('publish', { channel: 'news', data: 'from the docs' }, key);
        }
      })();
      const { stdout } = await run('bash', ['-c', command]).catch((error) => {
        // A stream ends by curl's own clock.
        assert.ok(streams && error.code === 28, `${error}`);
        return error;
      });
      await publishing;
      if (streams) {
        assert.match(stdout, /ready/);
        assert.match(stdout, /from the docs/);
      } else if (answer) {
        const wanted = JSON.parse(answer);
        const got = JSON.parse(stdout);
        assert.deepEqual(Object.keys(got), Object.keys(wanted));
        if (wanted.code) assert.deepEqual(got, wanted);
      } else {
        assert.ok(JSON.parse(stdout), stdout);
      }
    });
  }
});
