// Headless Chromium: the daemon's own page as a new user meets it, and the npm SDK as a web site embeds it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { launch, open, serveSdk } from './support/browser.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { Proxy } from './support/proxy.mjs';
import { sleep, until } from './support/wait.mjs';

const run = promisify(execFile);
const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

for (const driver of drivers) {
  describe(`the page at / on ${driver}`, () => {
    let daemon;
    let proxy;
    let browser;
    let page;

    before(async () => {
      daemon = await Daemon.start({ driver, config: null });
      proxy = await Proxy.to(daemon.port);
      browser = await launch();
    });
    after(async () => {
      await browser.close();
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
    });

    /** The publications on the page in the order of their coming: the newest stands first there. */
    const rows = async () => {
      const all = await page.locator('#messages [data-offset]').evaluateAll((elements) =>
        elements.map((element) => ({
          offset: Number(element.dataset.offset), channel: element.dataset.channel, text: element.textContent,
        })));
      return all.reverse();
    };
    const state = async () => (await page.locator('#state').textContent()).trim().toLowerCase();
    const isConnected = async () => /\bconnected\b/.test(await state()) && !/disconnected/.test(await state());

    /** Runs a line as a user pastes it into a shell. */
    const paste = async (line) => {
      const { stdout } = await run('bash', ['-c', line.trim()]);
      assert.ok(JSON.parse(stdout.match(/\{.*\}/s)[0]).result.offset, stdout);
    };

    test('connects, subscribes, and loads nothing from anywhere else', async () => {
      page = await open(browser, `${proxy.http}/`);
      await until(isConnected, async () => `connected; the page says ${await state()}`);
      assert.deepEqual(page.requested.filter((url) => !url.startsWith(proxy.http) && !url.startsWith('ws://127.')
        && !url.startsWith('data:')), []);
      assert.ok((await page.locator('#snippet').textContent()).includes('centrifuge'));
      if (await page.locator('#subscribe').isEnabled()) await page.locator('#subscribe').click();
      await until(async () => Object.keys(await channels()).length === 1, 'the daemon has its subscription');
    });

    const channels = async () => (await daemon.api('channels', {}, await key())).channels;
    const key = async () => (await page.locator('#curl').textContent()).match(/X-API-Key: ?([\w-]+)/)[1];

    test('the curl line of the terminal, pasted, appears on the page', async () => {
      const line = await until(() => daemon.output.match(/^.*?(curl .*)$/m)?.[1], () => daemon.output);
      await paste(line);
      await until(async () => (await rows()).length === 1, () => `one row for: ${line}`);
      const [row] = await rows();
      assert.match(row.text, /hello/);
      assert.equal(row.channel, await page.locator('#channel').inputValue());
      assert.equal(row.offset, 1);
    });

    test('the curl line of the page, pasted, appears on the page', async () => {
      const before = (await rows()).length;
      await page.locator('#data').fill('{"greeting": "it\'s \\"quoted\\" $HOME"}');
      await paste(await page.locator('#curl').textContent());
      await until(async () => (await rows()).length > before, 'one more row');
      const row = (await rows()).at(-1);
      assert.ok(row.text.includes(JSON.stringify('it\'s "quoted" $HOME')), row.text);
    });

    test('what is published on the page appears', async () => {
      const before = (await rows()).length;
      await page.locator('#data').fill('{"from":"the page"}');
      await page.locator('#publish').click();
      await until(async () => (await rows()).length > before, 'one more row');
      assert.match((await rows()).at(-1).text, /the page/);
    });

    /** The ten are there behind those before, once, in order, with no offset left out. */
    const expectTenMore = async (before, text) => {
      await until(async () => (await rows()).length >= before.length + 10, async () =>
        `ten more than ${before.length} rows; ${(await rows()).length} are there`);
      const all = await rows();
      const first = before.at(-1).offset;
      assert.deepEqual(all.slice(0, before.length), before);
      assert.deepEqual(all.slice(before.length).map((row) => row.offset), range(first + 1, first + 10));
      for (const n of range(1, 10)) assert.match(all[before.length + n - 1].text, new RegExp(`${text}-${n}\\b`));
    };

    test('the network cut for 5 s while ten are published: all ten arrive, once, in order', async () => {
      const before = await rows();
      proxy.cut();
      await until(async () => !(await isConnected()), 'the page notices');
      for (const n of range(1, 10)) await publishDirectly(`missed-${n}`);
      await sleep(5000);
      proxy.allow();
      await expectTenMore(before, 'missed');
    });

    test('its own cut button does the same', async () => {
      const before = await rows();
      await page.locator('#cut').click();
      await until(async () => !(await isConnected()), 'it is cut');
      for (const n of range(1, 10)) await publishDirectly(`again-${n}`);
      await sleep(1000);
      await page.locator('#reconnect').click();
      await expectTenMore(before, 'again');
      assert.deepEqual(page.problems, []);
    });

    test('text that looks like markup stays text', async () => {
      const before = (await rows()).length;
      await publishDirectly('<img src=x onerror="document.title=\'owned\'"><script>1</script>');
      await until(async () => (await rows()).length > before, 'the row');
      assert.equal(await page.locator('#messages img, #messages script').count(), 0);
      assert.notEqual(await page.title(), 'owned');
    });

    test('the key is not shown to a page of another name', async () => {
      const shown = await key();
      const { stdout } = await run('curl', ['-s', '-H', 'Host: evil.example', `${daemon.http}/`]);
      assert.ok(!stdout.includes(shown), 'DNS rebinding would read the key');
    });

    /** Past the proxy, which is cut: the backend's way to the daemon is not the page's. */
    const publishDirectly = async (data) =>
      daemon.api('publish', { channel: await page.locator('#channel').inputValue(), data }, await key());
  });

  describe(`the SDK in a browser on ${driver}`, () => {
    let daemon;
    let proxy;
    let site;
    let browser;

    before(async () => {
      site = await serveSdk();
      const client = { allowed_origins: [site.origin] };
      daemon = await Daemon.start({ driver, config: configuration({ client, channel: { allow_tags_filter: true } }) });
      proxy = await Proxy.to(daemon.port);
      browser = await launch();
    });
    after(async () => {
      await browser.close();
      await proxy.close();
      await site.close();
      assert.equal(await daemon.stop(), 0);
    });

    test('a page of another origin reads refusals, and may send the fields of its libraries', async () => {
      const page = await open(browser, site.origin);
      const answers = await page.evaluate(async (base) => {
        const status = async (path, options) => {
          try {
            return (await fetch(base + path, { credentials: 'include', ...options })).status;
          } catch (error) {
            return String(error);
          }
        };
        return {
          200: await status('/poll?channel=web&wait=0', {
            headers: { 'cache-control': 'no-cache', baggage: 'a=1', traceparent: '00-1-1-00', 'x-requested-with': 'x' },
          }),
          400: await status('/poll'),
          401: await status('/poll?channel=web&token=x'),
          404: await status('/poll/?channel=web'),
          405: await status('/connection/websocket', { method: 'POST' }),
          413: await status('/publish?channel=web', { method: 'POST', body: JSON.stringify('x'.repeat(1 << 20)) }),
          426: await status('/connection/websocket'),
          // Not 431: an Origin field that stands behind the bound of a head is never read.
        };
      }, daemon.http);
      assert.deepEqual(Object.keys(answers).filter((status) => answers[status] !== Number(status)), [], JSON.stringify(answers));
    });

    test('connects, subscribes, publishes, calls, and recovers ten after a cut', async () => {
      const page = await open(browser, site.origin);
      await page.evaluate((url) => {
        const seen = (window.seen = { data: [], recovered: [], states: [] });
        const client = (window.client = new window.Centrifuge(url, { minReconnectDelay: 20, maxReconnectDelay: 200 }));
        client.on('state', ({ newState }) => seen.states.push(newState));
        window.subscription = client.newSubscription('web', { recoverable: true });
        window.subscription.on('publication', ({ data }) => seen.data.push(data));
        window.subscription.on('subscribed', ({ recovered }) => seen.recovered.push(recovered));
        window.subscription.subscribe();
        client.connect();
      }, proxy.ws);
      const seen = () => page.evaluate(() => window.seen);
      await until(async () => (await seen()).recovered.length === 1, 'subscribed');

      await daemon.publish('web', 'from HTTP');
      await page.evaluate(() => window.subscription.publish('from the page'));
      await until(async () => (await seen()).data.length === 2, 'two publications');
      assert.deepEqual((await seen()).data, ['from HTTP', 'from the page']);
      const stats = await page.evaluate(() => window.subscription.presenceStats());
      assert.equal(stats.numClients, 1);
      const history = await page.evaluate(() => window.subscription.history({ limit: 10 }));
      assert.equal(history.publications.length, 2);
      const code = await page.evaluate(() => window.client.rpc('x', {}).catch((error) => error.code));
      assert.equal(code, 108);

      proxy.cut();
      await until(async () => (await seen()).states.at(-1) === 'connecting', 'the cut is noticed');
      for (const n of range(1, 10)) await daemon.publish('web', n);
      await sleep(5000);
      proxy.allow();
      await until(async () => (await seen()).recovered.length === 2, 'subscribed again');
      await until(async () => (await seen()).data.length >= 12, 'all that was missed');
      const after = await seen();
      assert.deepEqual(after.data.slice(2), range(1, 10));
      assert.equal(after.recovered[1], true);
      assert.deepEqual(page.problems, []);
    });

    test('the build for Protobuf does the same beside one in JSON', async () => {
      const pages = {};
      for (const [form, where] of Object.entries({ json: '/', protobuf: '/protobuf' })) {
        const page = (pages[form] = await open(browser, `${site.origin}${where}`));
        await page.evaluate(([url, isBytes]) => {
          const read = (data) => (isBytes ? JSON.parse(new TextDecoder().decode(data)) : data);
          window.written = (value) => (isBytes ? new TextEncoder().encode(JSON.stringify(value)) : value);
          const seen = (window.seen = { got: [], recovered: [], states: [] });
          const client = (window.client = new window.Centrifuge(url, { minReconnectDelay: 20, maxReconnectDelay: 200 }));
          client.on('state', ({ newState }) => seen.states.push(newState));
          window.subscription = client.newSubscription('both', { recoverable: true });
          window.subscription.on('publication', ({ data, offset }) => seen.got.push([offset, read(data)]));
          window.subscription.on('subscribed', ({ recovered }) => seen.recovered.push(recovered));
          window.subscription.subscribe();
          client.connect();
        }, [proxy.ws, form === 'protobuf']);
        await until(async () => (await page.evaluate(() => window.seen)).recovered.length === 1, `${form} is subscribed`);
      }
      const allHave = async (count) => {
        for (const page of Object.values(pages)) {
          await until(async () => (await page.evaluate(() => window.seen)).got.length >= count, `${count} publications`);
        }
      };
      await daemon.publish('both', { text: 'из HTTP' });
      for (const [form, page] of Object.entries(pages)) {
        await page.evaluate((text) => window.subscription.publish(window.written(text)), `из ${form}`);
      }
      await allHave(3);
      const code = await pages.protobuf.evaluate(() => window.client.rpc('x', window.written({})).catch((error) => error.code));
      assert.equal(code, 108);
      const history = await pages.protobuf.evaluate(() => window.subscription.history({ limit: 10 }));
      assert.deepEqual(history.publications.map(({ offset }) => offset), [1, 2, 3]);

      proxy.cut();
      for (const page of Object.values(pages)) {
        await until(async () => (await page.evaluate(() => window.seen)).states.at(-1) === 'connecting', 'the cut is noticed');
      }
      for (const n of range(1, 10)) await daemon.publish('both', n);
      proxy.allow();
      await allHave(13);
      const wanted = [{ text: 'из HTTP' }, 'из json', 'из protobuf', ...range(1, 10)].map((data, at) => [at + 1, data]);
      for (const [form, page] of Object.entries(pages)) {
        const { got, recovered } = await page.evaluate(() => window.seen);
        assert.deepEqual(got, wanted, form);
        assert.deepEqual(recovered, [false, true], form);
        assert.deepEqual(page.problems, [], form);
        await page.close();
      }
    });

    for (const form of ['json', 'protobuf']) {
      test(`a filter by tags in ${form}: live, and through a cut`, async () => {
        const page = await open(browser, `${site.origin}/${form === 'protobuf' ? form : ''}`);
        const channel = `filtered-${form}`;
        await page.evaluate(([url, form, channel]) => {
          const client = new Centrifuge(url, { minReconnectDelay: 20, maxReconnectDelay: 100 });
          window.got = [];
          window.recovered = [];
          const tagsFilter = { op: 'or', nodes: [{ key: 'k', cmp: 'eq', val: 'a' }, { key: 'n', cmp: 'gte', val: '2.5' }] };
          const subscription = client.newSubscription(channel, { recoverable: true, tagsFilter });
          const text = (data) => (form === 'protobuf' ? JSON.parse(new TextDecoder().decode(data)) : data);
          subscription.on('publication', ({ data }) => window.got.push(text(data)));
          subscription.on('subscribed', ({ recovered }) => window.recovered.push(recovered));
          subscription.subscribe();
          client.connect();
          window.client = client;
        }, [daemon.ws, form, channel]);
        await page.waitForFunction(() => window.recovered.length === 1);
        const says = (data, tags) => daemon.api('publish', { channel, data, tags });
        await says(1, { k: 'a' });
        await says(2, { k: 'b', n: '2.4' });
        await says(3, { n: '10' });
        await page.waitForFunction(() => window.got.length === 2);
        await page.evaluate(() => window.client.disconnect());
        await says(4, { k: 'b' });
        await says(5, { k: 'a' });
        await page.evaluate(() => window.client.connect());
        await page.waitForFunction(() => window.got.length === 3);
        assert.deepEqual(await page.evaluate(() => [window.got, window.recovered]), [[1, 3, 5], [false, true]]);
        assert.deepEqual(page.problems, []);
        await page.close();
      });
    }

    test('a page of an origin that is not allowed does not get in', async () => {
      const other = await serveSdk();
      const page = await open(browser, other.origin);
      const outcome = await page.evaluate((url) => new Promise((resolve) => {
        const socket = new WebSocket(url);
        socket.onopen = () => resolve('open');
        socket.onerror = () => resolve('refused');
      }), daemon.ws);
      assert.equal(outcome, 'refused');
      await other.close();
    });
  });
}
