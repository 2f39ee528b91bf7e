// permessage-deflate (RFC 7692) with clients as they are: npm ws, Node's own WebSocket, Chromium, the SDK over each.
// Autobahn's sections 12 and 13: sizes, fragments and parameters, echoed.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import WebSocket from 'ws';

import { launch, open, serveSdk } from './support/browser.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { forms, received, sdk, subscribed } from './support/sdk.mjs';
import { until, within } from './support/wait.mjs';

const run = promisify(execFile);
const SIZES = [0, 1, 16, 64, 125, 126, 127, 256, 1024, 4096, 8192, 16_384, 32_768, 65_535, 65_536, 131_072];
/** What a client may offer, as ws has it. */
const OFFERS = [
  {},
  { serverNoContextTakeover: true },
  { clientNoContextTakeover: true },
  { serverMaxWindowBits: 9 },
  { serverMaxWindowBits: 15 },
  { serverNoContextTakeover: true, serverMaxWindowBits: 9 },
  { serverNoContextTakeover: true, clientNoContextTakeover: true, serverMaxWindowBits: 15, clientMaxWindowBits: 9 },
  { clientMaxWindowBits: 15 },
  { clientMaxWindowBits: false },
];

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
/** About a KiB of JSON, never the same. */
const document = (number) => ({ number, rows: range(1, 20).map((row) => ({ row, name: `name of row ${row}`, value: row * number })) });
/** Text of exactly so many bytes that compresses, with characters of several bytes. */
const text = (size) => {
  let made = '';
  for (let at = 0; Buffer.byteLength(made) < size - 3; at += 1) made += `ä${at % 100}€`;
  made = made.slice(0, size);
  while (Buffer.byteLength(made) > size) made = made.slice(0, -1);
  return made + '.'.repeat(size - Buffer.byteLength(made));
};

for (const driver of drivers) {
  describe(`compression on ${driver}`, () => {
    let daemon;
    const sockets = [];
    const clients = [];
    const ws = async (path, options) => {
      const socket = new WebSocket(`${daemon.http.replace('http', 'ws')}${path}`, options);
      sockets.push(socket);
      socket.got = [];
      socket.on('message', (data, binary) => socket.got.push({ data, binary }));
      await within(once(socket, 'open'), 'an upgrade');
      return socket;
    };
    const count = async (name) => (await daemon.metrics()).get(`trunkline_${name}_total`);

    before(async () => {
      daemon = await Daemon.start({
        driver,
        config: configuration({ client: { compression: true, compression_min_bytes: 200, message_bytes_max: '256KiB' } }),
        args: ['--shards', '2', '--echo'],
      });
    });
    after(async () => {
      sockets.forEach((socket) => socket.terminate());
      clients.forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    for (const offer of OFFERS) {
      test(`messages of every size come back, offered ${JSON.stringify(offer)}`, async () => {
        const socket = await ws('/echo', { perMessageDeflate: { threshold: 0, ...offer } });
        assert.match(socket.extensions, /permessage-deflate/);
        const sent = SIZES.flatMap((size) => [text(size), randomBytes(size), Buffer.alloc(size, 'ab')]);
        for (const message of sent) socket.send(message);
        await until(() => socket.got.length === sent.length, () => `${sent.length} messages; ${socket.got.length} came`);
        for (const [at, message] of sent.entries()) {
          assert.equal(socket.got[at].binary, typeof message !== 'string');
          assert.ok(Buffer.from(message).equals(socket.got[at].data), `message ${at}`);
        }
        socket.close();
      });
    }

    test('fragments, compressed or not, with pings between them', async () => {
      const socket = await ws('/echo', { perMessageDeflate: { threshold: 0 } });
      let pongs = 0;
      socket.on('pong', () => { pongs += 1; });
      const wanted = [];
      for (const size of [10, 1000, 50_000]) {
        for (const compress of [true, false]) {
          const whole = text(size);
          const cut = Math.floor(whole.length / 3);
          socket.send(whole.slice(0, cut), { fin: false, compress });
          socket.ping('between');
          socket.send(whole.slice(cut, 2 * cut), { fin: false, compress });
          socket.send(whole.slice(2 * cut), { fin: true, compress });
          wanted.push(whole);
        }
      }
      await until(() => socket.got.length === wanted.length && pongs === wanted.length, 'all of it');
      assert.deepEqual(socket.got.map(({ data }) => data.toString()), wanted);
      socket.close();
    });

    test('without an offer nothing is compressed', async () => {
      const socket = await ws('/echo', { perMessageDeflate: false });
      assert.equal(socket.extensions, '');
      const before = await count('messages_compressed');
      socket.send(text(5000));
      await until(() => socket.got.length === 1, 'the echo');
      assert.equal(await count('messages_compressed'), before);
      socket.close();
    });

    for (const form of forms) {
      test(`the SDK in ${form}: a publication is compressed once for all, and what is missed is recovered`, async () => {
        const channel = `crowd-${form}`;
        const crowd = range(1, 30).map(() => sdk(daemon.ws, { form }));
        clients.push(...crowd);
        const subs = await Promise.all(crowd.map((client) => subscribed(client, channel, { recoverable: true })));
        const before = [await count('messages_compressed'), await count('compressed_in_bytes'), await count('compressed_out_bytes')];
        const sent = range(1, 20).map(document);
        for (const data of sent) await daemon.publish(channel, data);
        await Promise.all(subs.map((sub) => received(sub, sent)));
        const compressed = (await count('messages_compressed')) - before[0];
        assert.equal(compressed, sent.length, 'once each, on two shards, for thirty subscribers');
        const [bytesIn, bytesOut] = [(await count('compressed_in_bytes')) - before[1], (await count('compressed_out_bytes')) - before[2]];
        assert.ok(bytesOut < bytesIn / 2, `${bytesIn} bytes became ${bytesOut}`);

        // Away while more comes: the reply of the recovery is long.
        crowd[0].disconnect();
        const more = range(21, 60).map(document);
        for (const data of more) await daemon.publish(channel, data);
        crowd[0].connect();
        await received(subs[0], [...sent, ...more]);
        // A command that is compressed by the client: ws compresses from 1 KiB on.
        const inflated = await count('messages_inflated');
        const long = [document(98), document(99)];
        await subs[1].publish(long);
        await received(subs[2], [...sent, ...more, long]);
        assert.ok((await count('messages_inflated')) > inflated, 'the command came compressed');
        crowd.forEach((client) => client.disconnect());
      });
    }

    test('a crowd with and without compression gets the same', async () => {
      const kinds = [{}, { perMessageDeflate: false }];
      const subs = [];
      for (const options of kinds) {
        const client = sdk(daemon.ws, { websocket: class extends WebSocket { constructor(url, protocols) { super(url, protocols, options); } } });
        clients.push(client);
        subs.push(await subscribed(client, 'mixed'));
      }
      const sent = [1, 'short', ...range(1, 10).map(document)];
      for (const data of sent) await daemon.publish('mixed', data);
      await Promise.all(subs.map((sub) => received(sub, sent)));
    });

    for (const bare of [false, true]) {
      test(`unidirectional WebSocket${bare ? ', bare' : ''}: shared frames, its history, and several channels`, async () => {
        const channel = `uni-${bare}`;
        const sent = range(1, 5).map(document);
        for (const data of sent) await daemon.publish(channel, data);
        const query = `channel=${channel}${bare ? '&bare=1' : ''}`;
        const offered = { perMessageDeflate: { threshold: 0 } };
        const one = await ws(`/ws?${query}`, offered);
        const two = await ws(`/ws?${query}&channel=${channel}-other`, offered);
        assert.match(one.extensions, /permessage-deflate/);
        const more = range(6, 12).map(document);
        for (const data of more) await daemon.publish(channel, data);
        const seen = (socket) => socket.got.map(({ data }) => JSON.parse(data)).map((message) => (bare ? message : message.data)).filter((data) => data?.number);
        for (const socket of [one, two]) {
          await until(() => seen(socket).length >= more.length, () => `${more.length} publications; ${seen(socket).length} came`);
          assert.deepEqual(seen(socket).slice(-more.length), more);
        }
        one.close();
        two.close();
      });
    }

    test('a bomb ends its own connection by 1009 and disturbs nobody', async () => {
      const honest = await ws('/echo', { perMessageDeflate: { threshold: 0 } });
      // As long as a message may be for the echo endpoint, and a byte more; on the wire a thousandth of it.
      for (const [path, size] of [['/echo', 16 * 1024 * 1024 + 1], ['/connection/websocket', 256 * 1024 + 1]]) {
        const bomber = await ws(path, { perMessageDeflate: { threshold: 0 } });
        bomber.send(Buffer.alloc(size));
        const [code] = await within(once(bomber, 'close'), 'its end');
        assert.equal(code, 1009);
      }
      const bombers = await Promise.all(range(1, 10).map(() => ws('/connection/websocket', { perMessageDeflate: { threshold: 0 } })));
      for (const bomber of bombers) for (const size of range(1, 50)) bomber.send(' '.repeat(250_000 + size));
      honest.send(text(500));
      await until(() => honest.got.length === 1, 'an answer');
      honest.close();
    });

    test("Node's own WebSocket gets every message, not only the first", async () => {
      const script = `
        const socket = new WebSocket('${daemon.http.replace('http', 'ws')}/ws?channel=undici&bare=1');
        const got = [];
        socket.onopen = () => console.log('open ' + socket.extensions);
        socket.onmessage = ({ data }) => { got.push(JSON.parse(data).number); if (got.length === 20) { console.log(JSON.stringify(got)); socket.close(); } };
        socket.onerror = (error) => console.log('error ' + error.message);
        setTimeout(() => process.exit(1), 60_000).unref();`;
      const child = run(process.execPath, ['--experimental-websocket', '--no-warnings', '-e', script]);
      let output = '';
      child.child.stdout.on('data', (piece) => { output += piece; });
      await until(() => output.includes('open'), () => `it connects: ${output}`);
      await until(async () => (await daemon.api('channels')).channels.undici, 'it is subscribed');
      for (const number of range(1, 20)) await daemon.publish('undici', document(number));
      const { stdout } = await child;
      assert.deepEqual(JSON.parse(stdout.trim().split('\n').at(-1)), range(1, 20), stdout);
    });

    test('Chromium, by the SDK of its page', async () => {
      const site = await serveSdk();
      const daemonOfPage = await Daemon.start({
        driver,
        config: configuration({ client: { compression: true, allowed_origins: [site.origin] } }),
      });
      const browser = await launch();
      try {
        const page = await open(browser, site.origin);
        await page.evaluate((url) => {
          const client = new Centrifuge(url);
          window.got = [];
          const sub = client.newSubscription('page');
          sub.on('publication', ({ data }) => window.got.push(data));
          sub.on('subscribed', () => { window.ready = true; });
          window.send = (data) => sub.publish(data);
          sub.subscribe();
          client.connect();
        }, daemonOfPage.ws);
        await until(() => page.evaluate(() => window.ready), 'it is subscribed');
        const sent = range(1, 20).map(document);
        for (const data of sent) await daemonOfPage.publish('page', data);
        await page.evaluate((data) => window.send(data), document(21));
        await until(() => page.evaluate(() => window.got.length === 21), 'everything');
        assert.deepEqual(await page.evaluate(() => window.got), [...sent, document(21)]);
        const metrics = await daemonOfPage.metrics();
        assert.equal(metrics.get('trunkline_websocket_compressed_total'), 1);
        assert.equal(metrics.get('trunkline_messages_compressed_total'), 21);
        assert.ok(metrics.get('trunkline_messages_inflated_total') >= 1, 'Chromium compresses what it sends');
        assert.deepEqual(page.problems, []);
      } finally {
        await browser.close();
        await site.close();
        assert.equal(await daemonOfPage.stop(), 0);
      }
    });
  });
}

test('without the setting no offer is accepted', async () => {
  const daemon = await Daemon.start({ driver: drivers[0], args: ['--echo'] });
  const socket = new WebSocket(`${daemon.http.replace('http', 'ws')}/echo`, { perMessageDeflate: true });
  await within(once(socket, 'open'), 'an upgrade');
  assert.equal(socket.extensions, '');
  socket.terminate();
  assert.equal(await daemon.stop(), 0);
});
