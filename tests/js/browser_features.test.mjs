// npm centrifuge in headless Chromium: whatever carries it, everything that it can do with streams.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { launch, open, serveSdk } from './support/browser.mjs';
import { Daemon, configuration, drivers, open as everything } from './support/daemon.mjs';
import { Proxy } from './support/proxy.mjs';
import { forms, token, transports, unixNow } from './support/sdk.mjs';

const ways = [...forms.map((form) => ({ transport: 'websocket', form })), ...transports];

/** Runs in the page: a client with a subscription for each feature, all that happens in `window.seen`. */
function begin({ http, ws, transport, form, name, tokens }) {
  const read = (data) => (form === 'protobuf' ? JSON.parse(new TextDecoder().decode(data)) : data);
  window.written = (data) => (form === 'protobuf' ? new TextEncoder().encode(JSON.stringify(data)) : data);
  const shown = [...tokens];
  const seen = { connects: 0, tokens: 0, states: 0, got: {}, recovered: {}, joins: [] };
  const endpoint = transport === 'websocket' ? ws : `${http}/connection/${transport}`;
  const client = new Centrifuge([{ transport, endpoint }], {
    emulationEndpoint: `${http}/emulation`,
    minReconnectDelay: 20,
    maxReconnectDelay: 100,
    getToken: async () => {
      seen.tokens += 1;
      return shown.length > 1 ? shown.shift() : shown[0];
    },
  });
  client.on('connected', () => (seen.connects += 1));
  const subs = {};
  const watch = (kind, options) => {
    const sub = client.newSubscription(`${kind}:${name}`, { recoverable: true, ...options });
    seen.got[kind] = [];
    seen.recovered[kind] = [];
    sub.on('publication', ({ data }) => seen.got[kind].push(read(data)));
    sub.on('subscribed', ({ recovered }) => seen.recovered[kind].push(recovered));
    sub.on('join', ({ info }) => seen.joins.push(info.user));
    sub.subscribe();
    subs[kind] = sub;
  };
  watch('plain', { joinLeave: true });
  watch('delta', { delta: 'fossil' });
  watch('filtered', { tagsFilter: { op: 'not', nodes: [{ key: 'k', cmp: 'eq', val: 'no' }] } });
  watch('state', {
    getState: async () => {
      seen.states += 1;
      return { offset: 0, epoch: '' };
    },
  });
  client.connect();
  Object.assign(window, { client, subs, seen, read });
}

for (const driver of drivers) {
  describe(`the SDK in Chromium on ${driver}`, () => {
    let daemon;
    let backend;
    let proxy;
    let site;
    let browser;
    before(async () => {
      backend = await Backend.start({ rpc: (body) => ({ result: { data: { method: body.method } } }) });
      site = await serveSdk();
      daemon = await Daemon.start({
        driver, args: ['--shards', '3'],
        config: configuration({
          client: { rpc_hook: 'rpc', allowed_origins: [site.origin] },
          hook: backend.hooks(['rpc']),
          namespace: [
            { ...everything, name: 'plain' },
            { ...everything, name: 'delta', allow_delta: true },
            { ...everything, name: 'filtered', allow_tags_filter: true },
            { ...everything, name: 'state' },
          ],
        }),
      });
      proxy = await Proxy.to(daemon.port);
      browser = await launch();
    });
    after(async () => {
      await browser.close();
      await proxy.close();
      await site.close();
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    const padding = 'x'.repeat(400);
    const publish = (kind, name, data, tags) => daemon.api('publish', { channel: `${kind}:${name}`, data, tags });
    /** Beside each other, until the cut: that is of all of them. */
    const meet = async (pages, condition, wanted) => {
      for (const [name, page] of pages) {
        try {
          await page.waitForFunction(condition, wanted);
        } catch (error) {
          const seen = await page.evaluate(() => JSON.stringify(window.seen));
          throw new Error(`${name}: ${seen}`, { cause: error });
        }
      }
    };

    test('calls, reads, refreshes, filters, patches, loads its state, and misses nothing through a cut', async () => {
      const pages = new Map();
      for (const way of ways) {
        const name = `${way.transport}-${way.form}`;
        const page = await open(browser, `${site.origin}/${way.form === 'protobuf' ? 'protobuf' : ''}`);
        for (const n of [1, 2]) await publish('state', name, n);
        const tokens = [token(name, { exp: unixNow() + 4 }), token(name, { exp: unixNow() + 3600 })];
        await page.evaluate(begin, { http: proxy.http, ws: proxy.ws, ...way, name, tokens });
        pages.set(name, page);
      }
      await meet(pages, () => Object.values(window.seen.recovered).every((all) => all.length === 1));
      await meet(pages, () => window.seen.got.state.length === 2 && window.seen.joins.length === 1);
      for (const [name, page] of pages) {
        const answers = await page.evaluate(async () => ({
          published: await window.subs.plain.publish(window.written({ from: 'page' })).then(() => true),
          called: window.read((await window.client.rpc('sum', window.written({}))).data),
          stats: await window.subs.plain.presenceStats(),
          present: Object.values((await window.subs.plain.presence()).clients).map(({ user }) => user),
          history: (await window.subs.plain.history({ limit: 10 })).publications.map(({ data }) => window.read(data)),
        }));
        assert.deepEqual(answers, {
          published: true, called: { method: 'sum' }, stats: { numClients: 1, numUsers: 1 }, present: [name], history: [{ from: 'page' }],
        });
        for (const n of [1, 2, 3]) await publish('filtered', name, n, { k: n === 2 ? 'no' : 'yes' });
      }
      // One after the other: a page that is behind gets what it missed without deltas.
      for (const n of [1, 2, 3]) {
        for (const name of pages.keys()) await publish('delta', name, { padding, n });
        await meet(pages, (wanted) => window.seen.got.delta.length === wanted, n);
      }
      await meet(pages, () => window.seen.got.delta.length === 3 && window.seen.got.filtered.length === 2);
      for (const page of pages.values()) {
        const { numDeltaPayloads } = await page.evaluate(() => window.subs.delta.deltaStats());
        assert.equal(numDeltaPayloads, 2);
      }
      await meet(pages, () => window.seen.tokens === 2 && window.seen.connects === 1 && window.client.state === 'connected');

      proxy.cut();
      await meet(pages, () => window.client.state === 'connecting');
      for (const name of pages.keys()) {
        await publish('plain', name, 'away');
        for (const n of [4, 5]) await publish('delta', name, { padding, n });
        for (const n of [4, 5, 6]) await publish('filtered', name, n, { k: n === 5 ? 'yes' : 'no' });
        await publish('state', name, 3);
      }
      proxy.allow();
      await meet(pages, () => Object.values(window.seen.recovered).every((all) => all.length === 2));
      for (const [name, page] of pages) {
        await publish('delta', name, { padding, n: 6 });
        await page.waitForFunction(() => window.seen.got.delta.length === 6);
        const seen = await page.evaluate(() => window.seen);
        assert.deepEqual(seen.got, {
          plain: [{ from: 'page' }, 'away'],
          delta: [1, 2, 3, 4, 5, 6].map((n) => ({ padding, n })),
          filtered: [1, 3, 5],
          state: [1, 2, 3],
        }, name);
        assert.ok(Object.values(seen.recovered).every((all) => all[1] === true), name);
        assert.equal(seen.states, 1, 'what was missed came: nothing is loaded again');
        assert.deepEqual(page.problems, [], name);
        await page.close();
      }
    });
  });
}
