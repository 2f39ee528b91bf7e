// Deltas as npm centrifuge, unmodified, decodes them: what each subscriber ends up with is what was published.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EventSource } from 'eventsource';

import { Daemon, configuration, drivers, open } from './support/daemon.mjs';
import { Proxy } from './support/proxy.mjs';
import { received, sdk, subscribed } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { until } from './support/wait.mjs';

const ways = [
  { transport: 'websocket', form: 'json' },
  { transport: 'websocket', form: 'protobuf' },
  { transport: 'http_stream', form: 'json' },
  { transport: 'http_stream', form: 'protobuf' },
  { transport: 'sse', form: 'json' },
];

const over = (http, { transport, form }) => {
  const base = transport === 'websocket' ? http.replace('http', 'ws') : http;
  return sdk([{ transport, endpoint: `${base}/connection/${transport}` }], {
    form, emulationEndpoint: `${http}/emulation`, fetch, readableStream: ReadableStream, eventsource: EventSource,
  });
};

/** A random number from a seed: a failure is run again. */
const random = (seed) => () => {
  seed = (seed * 1103515245 + 12345) % 2147483648;
  return seed / 2147483648;
};

/** A document, and the next one after some change. */
const words = ['price', 'Ελληνικά', '日本語', '😀', 'a "quoted" word', 'line\nbreak', '\u0000', 'x'.repeat(40)];
const document = (next, rows) => ({
  rows: Array.from({ length: rows }, (_, id) => ({ id, name: words[Math.floor(next() * words.length)], price: Math.floor(next() * 1e6) })),
});
const changed = (before, next) => {
  const after = structuredClone(before);
  for (let change = Math.floor(next() * 3); change >= 0; change -= 1) {
    const at = Math.floor(next() * after.rows.length);
    const kind = next();
    if (kind < 0.6) after.rows[at].price = Math.floor(next() * 1e6);
    else if (kind < 0.75) after.rows.splice(at, 1);
    else if (kind < 0.9) after.rows.splice(at, 0, { id: -1, name: words[Math.floor(next() * words.length)] });
    else after.rows.reverse();
    if (after.rows.length === 0) after.rows.push({ id: 0 });
  }
  return after;
};

for (const driver of drivers) {
  describe(`deltas on ${driver}`, () => {
    let daemon;
    let proxy;
    const clients = [];
    const client = (http, way) => {
      const made = over(http, way);
      clients.push(made);
      made.connect();
      return made;
    };

    before(async () => {
      const namespace = [{ name: 'd', ...open, allow_delta: true }, {
        name: 'bare', allow_subscribe_for_client: true, allow_delta: true, join_leave: true, force_push_join_leave: true,
      }];
      daemon = await Daemon.start({ driver, args: ['--shards', '3'], config: configuration({ namespace }) });
      proxy = await Proxy.to(daemon.port);
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
    });

    test('everybody gets every publication, however it is carried', async () => {
      const subscriptions = [];
      for (const way of ways) {
        subscriptions.push(await subscribed(client(daemon.http, way), 'd:all', { delta: 'fossil' }));
        // Beside them one that did not ask.
        subscriptions.push(await subscribed(client(daemon.http, way), 'd:all'));
      }
      const next = random(7);
      const documents = [document(next, 40)];
      for (let n = 1; n < 120; n += 1) {
        documents.push(next() < 0.05 ? document(next, 30) : changed(documents.at(-1), next));
      }
      for (const data of documents) await daemon.publish('d:all', data);
      for (const subscription of subscriptions) await received(subscription, documents);
    });

    test('the first publication is whole and the next ones are patches', async () => {
      const raw = await RawSocket.client(daemon.port);
      raw.command({ id: 2, subscribe: { channel: 'd:raw', delta: 'fossil' } });
      assert.equal((await raw.message()).subscribe.delta, true);
      const plain = await RawSocket.client(daemon.port);
      plain.command({ id: 2, subscribe: { channel: 'd:raw' } });
      assert.equal((await plain.message()).subscribe.delta, undefined);
      const one = { text: 'a'.repeat(500), n: 1 };
      await daemon.publish('d:raw', one);
      await daemon.publish('d:raw', { ...one, n: 2 });
      await daemon.publish('d:raw', 'short');
      const pubs = [(await raw.message()).push.pub, (await raw.message()).push.pub, (await raw.message()).push.pub];
      assert.deepEqual([pubs[0].data, pubs[0].delta], [JSON.stringify(one), undefined]);
      assert.equal(pubs[1].delta, true);
      assert.ok(pubs[1].data.length < 60, pubs[1].data);
      assert.deepEqual([pubs[2].data, pubs[2].delta], ['"short"', undefined], 'not shorter: whole');
      for (const n of [1, 2]) {
        const { pub } = (await plain.message()).push;
        assert.deepEqual([pub.data, pub.delta], [{ ...one, n }, undefined], 'who did not ask gets none');
      }
      raw.destroy();
      plain.destroy();
    });

    test('where they are not allowed, and in formats that are not known, all is whole', async () => {
      for (const subscribe of [{ channel: 'off', delta: 'fossil' }, { channel: 'd:off', delta: 'xdelta' }]) {
        const raw = await RawSocket.client(daemon.port);
        raw.command({ id: 2, subscribe });
        assert.equal((await raw.message()).subscribe.delta, undefined);
        for (const n of [1, 2]) {
          await daemon.publish(subscribe.channel, { text: 'b'.repeat(300), n }, { delta: true });
          const { pub } = (await raw.message()).push;
          assert.deepEqual([pub.data.n, pub.delta], [n, undefined]);
        }
        raw.destroy();
      }
    });

    test('who comes later, and who was away, goes on with patches', async () => {
      const next = random(11);
      const subscriptions = [];
      for (const way of ways) {
        subscriptions.push(await subscribed(client(proxy.http, way), 'd:cut', { delta: 'fossil', recoverable: true, positioned: true }));
      }
      const documents = [document(next, 30)];
      const publish = async (count) => {
        for (let n = 0; n < count; n += 1) {
          documents.push(changed(documents.at(-1), next));
          await daemon.publish('d:cut', documents.at(-1));
        }
      };
      await daemon.publish('d:cut', documents[0]);
      await publish(5);
      for (const round of [0, 1, 2]) {
        const counts = subscriptions.map((subscription) => subscription.seen.subscribed.length);
        proxy.cut();
        await until(() => subscriptions.every((each) => each.state === 'subscribing'), 'the cut is noticed');
        await publish(round * 4);
        proxy.allow();
        await until(() => subscriptions.every((each, at) => each.seen.subscribed.length > counts[at]), 'they are back');
        await publish(4);
        for (const subscription of subscriptions) await received(subscription, documents);
      }
      const late = await subscribed(client(daemon.http, ways[0]), 'd:cut', { delta: 'fossil' });
      const from = documents.length;
      await publish(4);
      await received(late, documents.slice(from));
      for (const subscription of subscriptions) await received(subscription, documents);
    });

    test('without a history, and among joins and leaves', async () => {
      const next = random(13);
      const one = await subscribed(client(daemon.http, ways[0]), 'bare:x', { delta: 'fossil' });
      const documents = [document(next, 30)];
      await daemon.publish('bare:x', documents[0]);
      for (let n = 0; n < 10; n += 1) {
        const guest = client(daemon.http, ways[n % ways.length]);
        const theirs = await subscribed(guest, 'bare:x', { delta: 'fossil' });
        const from = documents.length;
        for (const skip_history of [false, true, false]) {
          documents.push(changed(documents.at(-1), next));
          await daemon.publish('bare:x', documents.at(-1), { skip_history });
        }
        await received(theirs, documents.slice(from));
        guest.disconnect();
      }
      await received(one, documents);
    });

    test('who reads slowly catches up with whole publications, and goes on with patches', async () => {
      const next = random(17);
      const raw = await RawSocket.client(daemon.port);
      raw.command({ id: 2, subscribe: { channel: 'd:slow', delta: 'fossil' } });
      assert.equal((await raw.message()).subscribe.delta, true);
      const quick = await subscribed(client(daemon.http, ways[0]), 'd:slow', { delta: 'fossil' });
      raw.pause?.();
      const documents = [document(next, 400)];
      for (let n = 1; n < 60; n += 1) documents.push(n % 4 === 0 ? document(next, 400) : changed(documents.at(-1), next));
      for (const data of documents) await daemon.publish('d:slow', data);
      await received(quick, documents);
      raw.resume?.();
      // What is whole must be what was published; what is a patch comes behind a whole one.
      const seen = [];
      while (seen.length < documents.length) seen.push((await raw.message()).push.pub);
      assert.deepEqual(seen.map((pub) => pub.offset), documents.map((_, at) => at + 1));
      assert.equal(seen[0].delta, undefined);
      for (const [at, pub] of seen.entries()) {
        if (!pub.delta) assert.deepEqual(JSON.parse(pub.data), documents[at]);
      }
      raw.destroy();
    });
  });
}
