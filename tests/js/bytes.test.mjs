// Namespaces whose publications are bytes: the npm SDK in Protobuf as it is, the API with base64, hooks, and who does not get them.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { Centrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

import { Backend } from './support/backend.mjs';
import { Daemon, binary, configuration, drivers, open } from './support/daemon.mjs';
import { connected, received, sdk, subscribed, token, watch } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { file, folder, upgrade } from './support/upgrade.mjs';
import { next, until } from './support/wait.mjs';

const base64 = (bytes) => Buffer.from(bytes).toString('base64');
/** All that text and JSON cannot hold: bytes of every value, line breaks, none of them first in a text. */
const every = Uint8Array.from({ length: 256 }, (_, at) => at);
const CLOSED = { code: 3506, reason: 'inappropriate protocol' };

for (const driver of drivers) {
  describe(`payloads of bytes on ${driver}`, () => {
    let daemon;
    let backend;
    const asked = [];
    const clients = [];

    /** The SDK in Protobuf, to which payloads are bytes. */
    const client = (options = {}) => {
      const made = new Centrifuge(daemon.ws, { websocket: WebSocket, minReconnectDelay: 20, maxReconnectDelay: 200, ...options });
      clients.push(made);
      return made;
    };
    /** What a subscription has got, in base64. */
    const listen = async (channel, options = {}, of = client()) => {
      const sub = of.newSubscription(channel, options);
      const got = [];
      sub.on('publication', ({ data }) => got.push(base64(data)));
      const done = next(sub, 'subscribed');
      sub.subscribe();
      of.connect();
      const event = await done;
      return { sub, got, event, of };
    };
    const has = async (listener, wanted) => {
      await until(() => listener.got.length >= wanted.length, () => `${wanted.length} publications; there are ${listener.got}`);
      assert.deepEqual(listener.got, wanted.map(base64));
    };

    before(async () => {
      backend = await Backend.start({
        publish: (body) => {
          asked.push(body);
          return { result: body.channel === 'asked:other' ? { b64data: base64([0xff, 10, 0]) } : {} };
        },
      });
      const files = { ...open, name: 'files', payload: 'bytes', allow_delta: true };
      daemon = await Daemon.start({
        driver, args: ['--shards', '3'],
        config: configuration({
          namespace: [
            files,
            { ...files, name: 'cache', recovery_mode: 'cache', auto_cache_recover: true },
            { ...files, name: 'asked', publish_hook: 'publish' },
          ],
          hook: backend.hooks(['publish']),
        }),
      });
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('go from clients and from the API to clients, live, recovered and read, unchanged', async () => {
      const [one, two] = [await listen('files:a', { recoverable: true }), await listen('files:a')];
      const text = new TextEncoder().encode(' {"is":\n"JSON"} ');
      await one.of.publish('files:a', every);
      await one.of.publish('files:a', text);
      await daemon.api('publish', { channel: 'files:a', b64data: base64(every.toReversed()) });
      await daemon.api('broadcast', { channels: ['files:a'], b64data: base64([10]) });
      await daemon.api('publish', { channel: 'files:a', data: { n: 1 } });
      const wanted = [every, text, every.toReversed(), [10], new TextEncoder().encode('{"n":1}')];
      await has(one, wanted);
      await has(two, wanted);
      one.of.disconnect();
      await daemon.api('publish', { channel: 'files:a', b64data: base64([0, 0]) });
      const back = next(one.sub, 'subscribed');
      one.of.connect();
      assert.equal((await back).recovered, true);
      await has(one, [...wanted, [0, 0]]);
      const read = await two.of.history('files:a', { limit: 10 });
      assert.deepEqual(read.publications.map(({ data }) => base64(data)), [...wanted, [0, 0]].map(base64));
      const { publications } = await daemon.api('history', { channel: 'files:a', limit: 10 });
      assert.deepEqual(publications.map((each) => [each.b64data, each.data]), [...wanted, [0, 0]].map((bytes) => [base64(bytes), undefined]));
    });

    test('have deltas', async () => {
      const delta = await listen('files:delta', { delta: 'fossil', recoverable: true });
      const payloads = [0, 1, 2, 3].map((n) => Uint8Array.from({ length: 2000 }, (_, at) => (at * at + (at === 1000 ? n : 0)) & 0xff));
      for (const payload of payloads.slice(0, 2)) await delta.of.publish('files:delta', payload);
      await has(delta, payloads.slice(0, 2));
      delta.of.disconnect();
      for (const payload of payloads.slice(2)) await daemon.api('publish', { channel: 'files:delta', b64data: base64(payload) });
      delta.of.connect();
      await has(delta, payloads);
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      raw.command({ id: 2, subscribe: { channel: 'files:patched', delta: 'fossil' } });
      assert.ok(await raw.frame(), 'it is subscribed');
      for (const payload of payloads.slice(0, 2)) await daemon.api('publish', { channel: 'files:patched', b64data: base64(payload) });
      const [whole, patch] = [await raw.frame(), await raw.frame()].map(({ payload }) => payload.length);
      assert.ok(whole > 2000 && patch < 200, `a patch of ${patch} bytes`);
      raw.destroy();
    });

    test('are cached for who comes', async () => {
      await daemon.api('publish', { channel: 'cache:a', b64data: base64([1, 0xff]) });
      await daemon.api('publish', { channel: 'cache:a', b64data: base64([2, 0xff]) });
      await has(await listen('cache:a'), [[2, 0xff]]);
    });

    test('are base64 to a hook, which may have others published', async () => {
      const [same, other] = [await listen('asked:same'), await listen('asked:other')];
      await same.of.publish('asked:same', every);
      await same.of.publish('asked:other', new TextEncoder().encode('[1]'));
      await has(same, [every]);
      await has(other, [[0xff, 10, 0]]);
      const bodies = asked.map(({ channel, data, b64data }) => [channel, data, b64data]);
      assert.deepEqual(bodies, [['asked:same', undefined, base64(every)], ['asked:other', undefined, base64('[1]')]]);
    });

    test('may come by a plain POST, and clients without the SDK do not read them', async () => {
      const files = await listen('files:post');
      const posted = await fetch(`${daemon.http}/publish?channel=files:post`, { method: 'POST', body: every });
      assert.equal(posted.status, 200, await posted.text());
      await has(files, [every]);
      for (const path of ['sse', 'stream', 'poll', 'history']) {
        const response = await fetch(`${daemon.http}/${path}?channel=files:post`);
        assert.deepEqual([response.status, (await response.json()).code], [404, 108], path);
      }
    });

    test('are error 107 in a namespace of JSON', async () => {
      const json = await listen('plain');
      await assert.rejects(json.of.publish('plain', every), { code: 107 });
      await assert.rejects(daemon.api('publish', { channel: 'plain', b64data: base64(every) }), /107/);
      const { status } = await fetch(`${daemon.http}/publish?channel=plain`, { method: 'POST', body: every });
      assert.equal(status, 400);
      await daemon.api('publish', { channel: 'plain', b64data: base64('1') });
      await has(json, ['1']);
    });

    describe('close a client that reads JSON with 3506', () => {
      const ended = async (made) => {
        const end = next(made, 'disconnected');
        if (made.state === 'disconnected') made.connect();
        assert.deepEqual(await end, CLOSED);
      };
      const json = (options) => {
        const made = sdk(daemon.ws, options);
        clients.push(made);
        return made;
      };

      test('when it subscribes', async () => {
        const counted = await daemon.faults(/disconnect_3506/);
        const made = json();
        watch(made, 'files:a').subscribe();
        await ended(made);
        assert.equal(await daemon.faults(/disconnect_3506/), counted + 1);
      });
      test('when it reads the history', async () => {
        const made = json();
        await connected(made);
        const end = next(made, 'disconnected');
        made.history('files:a', { limit: 1 }).catch(() => {});
        assert.deepEqual(await end, CLOSED);
      });
      test('when its token grants them', async () => {
        await ended(json({ token: token('ann', { channels: ['files:a'] }) }));
      });
      test('when the API subscribes it', async () => {
        const made = json({ token: token('bob') });
        await connected(made);
        const end = next(made, 'disconnected');
        await daemon.api('subscribe', { user: 'bob', channel: 'files:a' });
        assert.deepEqual(await end, CLOSED);
      });
      test('when it only listens', async () => {
        const connect = JSON.stringify({ token: token('eve', { channels: ['files:a'] }) });
        const response = await fetch(`${daemon.http}/connection/uni_http_stream`, { method: 'POST', body: connect });
        assert.match(await response.text(), /"disconnect":\{"code":3506,"reason":"inappropriate protocol"\}/);
      });
      test('and not when it publishes: its JSON is bytes as any other', async () => {
        const [files, made] = [await listen('files:json'), json()];
        await connected(made);
        await made.publish('files:json', { n: [1] });
        await has(files, ['{"n":[1]}']);
        // The same client has channels of JSON.
        const sub = await subscribed(made, 'plain-json');
        await daemon.publish('plain-json', 1);
        await received(sub, [1]);
        made.disconnect();
      });
    });
  });
}

for (const driver of drivers) {
  test(`an upgrade to another form of payloads, on ${driver}: who cannot read it is closed, bytes are no history of JSON`, async () => {
    const config = (payload = 'json') => configuration({
      driver, shards: 2, sandbox: { read: [folder] }, namespace: [{ ...open, name: 'turn', payload }],
    });
    const daemon = await Daemon.start({ config: config() });
    const [json, other] = [sdk(daemon.ws), sdk(daemon.ws)];
    const protobuf = new Centrifuge(daemon.ws, { websocket: WebSocket });
    const binary = protobuf.newSubscription('turn:a', {});
    const got = [];
    binary.on('publication', ({ data }) => got.push(base64(data)));
    const begun = next(binary, 'subscribed');
    binary.subscribe();
    protobuf.connect();
    await begun;
    await subscribed(json, 'turn:a');
    const stays = await subscribed(other, 'plain');
    const lines = await fetch(`${daemon.http}/stream?channel=turn:a`);
    await daemon.publish('turn:a', 1);
    await until(() => got.length === 1, 'it has come');

    const end = next(json, 'disconnected');
    let said = await upgrade(daemon.pid, '--config', file(`${driver}-bytes.toml`, config('bytes')));
    assert.equal(said.code, 0, said.out + said.error);
    assert.deepEqual(await end, CLOSED);
    assert.match(await lines.text(), /3506/);
    await daemon.api('publish', { channel: 'turn:a', b64data: base64([0xff, 10]) });
    await until(() => got.length === 2, 'the others go on');
    assert.deepEqual(got, [base64('1'), base64([0xff, 10])]);
    assert.equal((await daemon.api('history', { channel: 'turn:a', limit: 10 })).publications.length, 2);

    said = await upgrade(said.pid, '--config', file(`${driver}-json.toml`, config()));
    assert.equal(said.code, 0, said.out + said.error);
    const { publications, offset } = await daemon.api('history', { channel: 'turn:a', limit: 10 });
    assert.deepEqual([publications, offset], [[], 2]);
    const again = sdk(daemon.ws);
    const room = await subscribed(again, 'turn:a', { since: { offset: 0, epoch: '' }, recoverable: true });
    assert.equal(room.seen.subscribed[0].recovered, false);
    await daemon.publish('turn:a', 3);
    await received(room, [3]);
    await until(() => got.length === 3, 'all have it');
    await daemon.publish('plain', 'still');
    await received(stays, ['still']);
    assert.deepEqual(other.log.disconnected, []);
    [again, other, protobuf].forEach((made) => made.disconnect());
    process.kill(said.pid, 'SIGTERM');
    assert.equal(await daemon.ended(), 0);
  });
}

test('bytes are kept over a kill -9, and exported in base64', async () => {
  const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-bytes-'));
  const store = path.join(folder, 'store');
  const config = configuration({ store: { path: store }, namespace: [{ ...open, name: 'files', payload: 'bytes', durable: 'sync' }] });
  const first = await Daemon.start({ driver: 'mio', config });
  const wanted = [every, [10, 0xff], new TextEncoder().encode('{"n":1}')].map(base64);
  for (const b64data of wanted) await first.api('publish', { channel: 'files:a', b64data });
  process.kill(first.pid, 'SIGKILL');
  const isThere = () => {
    try {
      return process.kill(first.pid, 0);
    } catch {
      return false;
    }
  };
  await until(() => !isThere(), 'it is gone');
  const second = await Daemon.start({ driver: 'mio', config });
  const { publications } = await second.api('history', { channel: 'files:a', limit: 10 });
  assert.deepEqual(publications.map(({ b64data }) => b64data), wanted);
  assert.equal(await second.stop(), 0);
  const lines = execFileSync(binary, ['store', 'export', store], { encoding: 'utf8' }).trim().split('\n').map((line) => JSON.parse(line));
  assert.deepEqual(lines.map(({ data, b64data }) => b64data ?? base64(JSON.stringify(data))), wanted);
  rmSync(folder, { recursive: true });
});
