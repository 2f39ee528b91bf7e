// The console as an operator meets it: headless Chromium at api_listen/console. Pictures of what was tested are written to
// target/console.

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { Backend } from './support/backend.mjs';
import { launch } from './support/browser.mjs';
import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, sdk, subscribed, token } from './support/sdk.mjs';
import { DEADLINE_MS, sleep, until } from './support/wait.mjs';

const pictures = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../target/console');
const WIDE = { width: 1280, height: 900 };
const NARROW = { width: 390, height: 844 };

/** Names that would be more than text where somebody made markup of them, or would look like other names. */
const HOSTILE = [
  '<img src=x onerror="window.owned=1">',
  '</script><script>window.owned=2</script>',
  '"><svg onload=window.owned=3>',
  "javascript:window.owned=4//'`${window.owned=4}",
  '\u202egnp.exe\u202c',
  'x'.repeat(255),
];
const CHANNELS = ['<img src=x onerror=window.owned=5>', '</td><script>window.owned=6</script>', 'y'.repeat(255)];

describe('the console', () => {
  let backend;
  let daemon;
  let browser;
  let page;
  let api;
  const clients = new Map();

  const call = async (method, body) => {
    const response = await fetch(`${api}/api/${method}`, {
      method: 'POST', headers: { 'X-API-Key': API_KEY }, body: JSON.stringify(body),
    });
    const answer = await response.json();
    assert.ok(response.ok && !answer.error, JSON.stringify(answer));
    return answer.result;
  };

  const open = async (viewport = WIDE) => {
    const context = await browser.newContext({ viewport });
    const made = await context.newPage();
    made.setDefaultTimeout(DEADLINE_MS);
    made.problems = [];
    made.requested = [];
    made.on('pageerror', (error) => made.problems.push(String(error)));
    // What the policy forbids is said here, and nothing else is but refusals of the API.
    made.on('console', (message) => {
      if (message.type() === 'error' && !/status of (401|400)/.test(message.text())) made.problems.push(message.text());
    });
    made.on('request', (request) => made.requested.push(request));
    await made.goto(`${api}/console`);
    return made;
  };
  const signIn = async (made) => {
    await made.getByLabel('API key').fill(API_KEY);
    await made.keyboard.press('Enter');
    await made.locator('#state[data-state="live"]').waitFor();
  };
  const client = async (user, channels = ['news'], options = {}) => {
    const made = sdk(daemon.ws, { token: token(user), ...options });
    await connected(made);
    for (const channel of channels) await subscribed(made, channel);
    clients.set(user, made);
    return made;
  };
  const search = async (by, whom) => {
    await page.getByLabel('Search by').selectOption(by);
    await page.getByLabel('Name', { exact: true }).fill(whom);
    await page.getByRole('button', { name: 'Look up' }).click();
    await page.waitForFunction((name) => document.getElementById('found-title').textContent.includes(name)
      && !/Looking/.test(document.getElementById('said').textContent), by);
  };
  const said = (wanted) => page.waitForFunction((part) => document.getElementById('said').textContent.includes(part), wanted);
  const rows = (caption) => page.evaluate((title) => {
    const table = [...document.querySelectorAll('table')].findLast((one) => one.caption.textContent === title && one.checkVisibility());
    return table && [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent));
  }, caption);
  const picture = (name, options = {}) => page.screenshot({ path: path.join(pictures, `${name}.png`), ...options });

  before(async () => {
    mkdirSync(pictures, { recursive: true });
    backend = await Backend.start({ rpc: { result: { data: { hello: 'you' } } } });
    daemon = await Daemon.start({
      driver: drivers[0],
      config: {
        name: 'edge-1',
        api_listen: '127.0.0.1:0',
        ...configuration({
          client: { rpc_hook: 'rpc' },
          hook: backend.hooks(['rpc']),
          channel: { allow_publish_for_client: false },
          objective: [{ name: 'deliveries', stage: 'last_write', p99: '30s', window: '1m' }],
        }),
      },
      args: ['--shards', '2'],
    });
    const ready = await until(() => daemon.output.match(/console +(http:\S+)\/console\n/), () => daemon.output);
    api = ready[1];
    browser = await launch();
    await client('ann', ['news', ...CHANNELS]);
    await client('bob');
    for (const user of HOSTILE) await client(user);
  });
  after(async () => {
    for (const made of clients.values()) made.disconnect();
    await browser.close();
    assert.equal(await daemon.stop(), 0);
    await backend.stop?.();
  });

  test('is one page for everybody, without a figure, and refuses a key in its URL', async () => {
    const [plain, shown] = await Promise.all([fetch(`${api}/console`), fetch(`${api}/console`, { headers: { 'X-API-Key': API_KEY } })]);
    assert.equal(await plain.text(), await shown.text());
    for (const query of [`api_key=${API_KEY}`, `key=${API_KEY}`, API_KEY]) {
      const response = await fetch(`${api}/console?${query}`);
      const { detail, status } = await response.json();
      assert.deepEqual([response.status, status], [400, 400]);
      assert.match(detail, /open \/console without a query/);
    }
    assert.equal((await fetch(`${daemon.http}/console`)).status, 404, 'not where clients are');
  });

  test('asks for the key, and says when it is wrong', async () => {
    page = await open();
    await picture('sign-in');
    assert.equal(await page.locator('#console').isVisible(), false);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'key');
    await page.getByLabel('API key').fill('wrong');
    await page.keyboard.press('Enter');
    await page.getByText('The node does not accept this key.').waitFor();
    assert.equal(await page.locator('#console').isVisible(), false);
    assert.equal(await page.getByLabel('API key').getAttribute('aria-invalid'), 'true');
    await signIn(page);
    assert.equal(await page.locator('#sign-in').isVisible(), false);
    await page.locator('#node', { hasText: 'up ' }).waitFor();
  });

  test('shows what the node does: figures, charts with their words, shards, hooks, busiest, closes', async () => {
    const ending = new AbortController();
    const events = await fetch(`${daemon.http}/sse?channel=news&token=${token('reader')}`, { signal: ending.signal });
    assert.equal(events.status, 200);
    await clients.get('bob').rpc('hello', {});
    let publishing = true;
    const traffic = (async () => {
      for (let n = 0; publishing; n += 1) {
        await call('publish', { channel: 'news', data: { n } });
        await sleep(20);
      }
    })();
    await page.waitForFunction(() => {
      const tile = (title) => [...document.querySelectorAll('#tiles div')].find((one) => one.children[0].textContent === title).children[1].textContent;
      return parseFloat(tile('Publications/s')) > 0 && parseFloat(tile('Deliveries/s')) > 0 && /ms|s/.test(tile('Last write p99'))
        && tile('Clients') === '9' && /MiB/.test(tile('Memory'));
    });
    // The second round of what is asked for rarely.
    await page.waitForFunction(() => document.querySelector('#objectives li')?.textContent === 'deliveries met');
    await until(async () => (await rows('Busiest channels'))?.some(([channel]) => channel === 'news'), 'the busiest channel');
    publishing = false;
    await traffic;
    for (const [title, words] of [
      ['Publications and connects a second', /publications [\d.]+/], ['Deliveries a second', /deliveries [\d.]+/],
      ['Time of a publication to each stage, p99', /accepted [\d.]+ m?s, from .*last write [\d.]+ m?s/],
      ['Clients by transport', /websocket 8, from .*sse 1/], ['Memory', /resident [\d.]+ MiB/],
      ['Busy share of shards', /shard 0 \d+ %.*shard 1 \d+ %/],
    ]) {
      const chart = page.getByRole('img', { name: title });
      assert.match(await chart.getAttribute('aria-label'), words);
      // Something is drawn: not all of the canvas has one colour.
      const colours = await chart.locator('canvas').evaluate((canvas) => {
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        return new Set(new Uint32Array(data.buffer)).size;
      });
      assert.ok(colours > 5, `${title}: ${colours} colours`);
    }
    assert.deepEqual((await rows('Shards')).map(([shard]) => shard), ['0', '1']);
    const [[hook, , , most, , , state]] = await rows('Hooks');
    assert.deepEqual([hook, Number(most) > 0, state], ['rpc', true, 'up']);
    ending.abort();
    await until(async () => (await rows('Last closes'))?.some(([, user, code, , by, transport]) =>
      user === 'reader' && code === '3000' && by && transport === 'sse'), async () => JSON.stringify(await rows('Last closes')));
    await picture('light', { fullPage: true });
  });

  test('finds a user, a client, a channel and an address', async () => {
    await search('user', 'ann');
    const [[, id, user, transport]] = await rows('Connections');
    assert.deepEqual([user, transport], ['ann', 'websocket']);
    assert.equal(await page.evaluate(() => document.activeElement.id), 'found-title', 'what was found is where the keyboard is');
    await search('client', id);
    assert.deepEqual((await rows('Connections')).map((row) => row[2]), ['ann']);
    await search('channel', 'news');
    assert.equal((await rows('Connections')).length, 8);
    assert.match(await page.locator('#found-facts').textContent(), /Clients8.*History\d+ publications.*Offset\d+/);
    await search('address', '127.0.0.0/8');
    assert.equal((await rows('Connections')).length, 8);
    await search('address', 'nonsense');
    await said('address is neither an address nor a network');
    await search('user', 'nobody');
    await said('0 connections on this node');
  });

  test('taps, with payloads where they are asked for, and stops', async () => {
    const lines = page.locator('#tap-lines');
    await search('user', 'ann');
    await page.locator('#found-tap').click();
    await page.locator('#tap-state', { hasText: 'running' }).waitFor();
    await call('publish', { channel: 'news', data: { seen: 'first-payload' } });
    await lines.getByText('out', { exact: true }).first().waitFor();
    assert.doesNotMatch(await lines.textContent(), /first-payload/);
    await page.getByLabel('with payloads').check();
    await until(async () => {
      await call('publish', { channel: 'news', data: { seen: 'second-payload' } });
      return /second-payload/.test(await lines.textContent());
    }, 'a payload in the tap');
    await picture('tap');
    await page.locator('#tap-stop').click();
    await page.locator('#tap-state', { hasText: 'stopped' }).waitFor();
    const before = await lines.locator('li').count();
    await call('publish', { channel: 'news', data: { seen: 'third-payload' } });
    await clients.get('ann').rpc('hello', {});
    assert.equal(await lines.locator('li').count(), before);
    await page.locator('#tap-clear').click();
    assert.equal(await lines.locator('li').count(), 0);
  });

  test('publishes what was typed, and says when it is no JSON', async () => {
    await search('channel', 'news');
    const got = new Promise((resolve) => clients.get('bob').getSubscription('news').on('publication', ({ data }) => {
      if (data.from === 'console') resolve(data);
    }));
    await page.getByLabel('Payload (JSON)').fill('{"from": ');
    await page.getByRole('button', { name: 'Publish' }).click();
    await page.getByText(/Not JSON/).waitFor();
    await page.getByLabel('Payload (JSON)').fill('{"from": "console", "n": 12345678901234567890}');
    await page.getByRole('button', { name: 'Publish' }).click();
    await said('Published at offset');
    await got;
    const history = await (await fetch(`${api}/api/history`, {
      method: 'POST', headers: { 'X-API-Key': API_KEY }, body: '{"channel":"news","limit":1,"reverse":true}',
    })).text();
    assert.match(history, /12345678901234567890/, 'no digit is lost on the way');
  });

  test('closes a client when it is confirmed, and not when it is not', async () => {
    await search('user', 'bob');
    const closes = page.getByRole('button', { name: /^Close client/ });
    await closes.click();
    assert.equal(await page.evaluate(() => document.activeElement.id), 'close-no', 'a hasty Enter closes nobody');
    await picture('close');
    await page.keyboard.press('Enter');
    assert.equal(clients.get('bob').state, 'connected');
    await closes.click();
    await page.locator('#close-yes').click();
    await said('was closed (3503)');
    await until(() => clients.get('bob').state === 'disconnected', 'bob is gone');
    assert.equal(clients.get('bob').log.disconnected[0].code, 3503);
    await search('user', 'ann');
    await page.getByRole('button', { name: 'Close all connections' }).click();
    await page.getByLabel('connect again (3009)').check();
    await page.locator('#close-yes').click();
    await said('were closed (3009)');
    await until(() => clients.get('ann').log.connecting.length === 2 && clients.get('ann').state === 'connected', 'ann is back');
    // A list that is pointed at stays as it is.
    await page.mouse.move(1, 1);
    await until(async () => (await rows('Last closes'))?.some(([, user, code]) => user === 'ann' && code === '3009'), 'the reason is listed');
  });

  test('names of strangers stay text, and look like no other name', async () => {
    // Every place that shows names: the busiest, the last closes, connections with their channels, the dialog, a tap.
    for (const channel of CHANNELS) {
      for (let n = 0; n < 40; n += 1) await call('publish', { channel, data: '<img src=x onerror=window.owned=7>' });
    }
    for (const user of HOSTILE) {
      await search('user', user);
      const [[, , shown]] = await rows('Connections');
      assert.equal(shown, user.replace('\u202e', '\\u{202e}').replace('\u202c', '\\u{202c}'));
      await page.locator('#found-tap').click();
      await page.locator('#tap-state', { hasText: 'running' }).waitFor();
      await page.getByRole('button', { name: /^Close client/ }).click();
      await page.locator('#close-yes').click();
      await said('was closed');
    }
    for (const channel of CHANNELS) await search('channel', channel);
    await page.getByLabel('with payloads').check();
    await page.locator('#found-tap').click();
    await page.locator('#tap-state', { hasText: 'running' }).waitFor();
    await call('publish', { channel: CHANNELS[2], data: '<img src=x onerror=window.owned=8>' });
    await page.locator('#tap-lines', { hasText: 'owned=8' }).waitFor();
    await page.locator('#tap-stop').click();
    await until(async () => {
      const text = await page.locator('#tables').textContent();
      return HOSTILE.slice(0, 4).every((user) => text.includes(user)) && CHANNELS.some((channel) => text.includes(channel));
    }, 'the names are in the tables');
    await picture('hostile', { fullPage: true });
    const made = await page.evaluate(() => document.querySelectorAll('main img, main svg, main script, main iframe, [onerror], [onload]').length);
    assert.equal(made, 0);
    assert.equal(await page.evaluate(() => window.owned), undefined);
    // Neither could it be, had somebody written it so.
    const tried = await page.evaluate(() => {
      try {
        document.getElementById('said').innerHTML = '<img src=x onerror=window.owned=9>';
        return 'made';
      } catch (error) {
        return error.name;
      }
    });
    assert.equal(tried, 'TypeError');
    page.problems = page.problems.filter((problem) => !/TrustedHTML|trusted/i.test(problem));
  });

  test('is dark where the browser is, and narrow where the screen is', async () => {
    const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const light = await ground();
    await page.emulateMedia({ colorScheme: 'dark' });
    assert.notEqual(await ground(), light);
    await picture('dark', { fullPage: true });
    await page.setViewportSize(NARROW);
    await page.waitForFunction(() => document.querySelector('.picture canvas').clientWidth < innerWidth);
    assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), NARROW.width, 'nothing sticks out');
    await picture('narrow-dark', { fullPage: true });
    await page.emulateMedia({ colorScheme: 'light' });
    await picture('narrow-light', { fullPage: true });
    await page.setViewportSize(WIDE);
  });

  test('can be used without a pointer, and says what everything is', async () => {
    const unnamed = await page.evaluate(() => [...document.querySelectorAll('input, select, textarea, button, table')]
      .filter((one) => one.checkVisibility() && !(one.labels?.length || one.textContent.trim() || one.ariaLabel || one.caption))
      .map((one) => one.outerHTML));
    assert.deepEqual(unnamed, []);
    for (const role of ['banner', 'main', 'search']) assert.equal(await page.getByRole(role).count(), 1, role);
    assert.ok(await page.getByRole('alert').count() > 0 && await page.getByRole('status').count() > 0);
    await page.evaluate(() => { document.activeElement.blur(); scrollTo(0, 0); });
    const reached = new Set();
    for (let n = 0; n < 60; n += 1) {
      await page.keyboard.press('Tab');
      reached.add(await page.evaluate(() => document.activeElement.id || document.activeElement.className));
    }
    for (const wanted of ['skip', 'sign-out', 'search-by', 'search-for', 'scroll', 'tap-lines']) assert.ok(reached.has(wanted), wanted);
  });

  test('asks nothing while it is hidden, and goes on when it is seen', async () => {
    const hide = (hidden) => page.evaluate((is) => {
      Object.defineProperty(document, 'hidden', { value: is, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }, hidden);
    await hide(true);
    await page.locator('#state[data-state="paused"]').waitFor();
    const before = page.requested.length;
    await sleep(4500);
    assert.equal(page.requested.length, before, 'two rounds would have been');
    await hide(false);
    await page.locator('#state[data-state="live"]').waitFor();
    assert.ok(page.requested.length > before);
  });

  test('the key is in the field of the API, and nowhere else', async () => {
    for (const request of page.requested) {
      assert.ok(!request.url().includes(API_KEY) && !(request.postData() ?? '').includes(API_KEY), request.url());
      assert.ok(request.url().startsWith(api) || request.url().startsWith('data:'), `only this node is asked: ${request.url()}`);
      const isApi = /\/(api\/|metrics)/.test(request.url());
      assert.equal('x-api-key' in request.headers(), isApi, request.url());
    }
    assert.ok(!(await page.content()).includes(API_KEY));
    assert.ok(!page.url().includes(API_KEY));
    const kept = await page.evaluate(() => [JSON.stringify({ ...localStorage }), document.cookie, document.getElementById('key').value]);
    assert.deepEqual(kept, ['{}', '', '']);
    // For the tab: a reload needs none, another tab does.
    await page.reload();
    await page.locator('#state[data-state="live"]').waitFor();
    const other = await page.context().newPage();
    await other.goto(`${api}/console`);
    await other.locator('#sign-in').waitFor();
    await other.close();
  });

  test('a key that is taken away ends it, and no figure stays', async () => {
    const config = configuration({ client: { rpc_hook: 'rpc' }, hook: backend.hooks(['rpc']), channel: { allow_publish_for_client: false } });
    const objective = [{ name: 'deliveries', stage: 'last_write', p99: '30s', window: '1m' }];
    daemon.configure({ name: 'edge-1', api_listen: '127.0.0.1:0', ...config, objective, api: { key: 'another-key-of-the-tests' } });
    const response = await fetch(`${api}/api/reload`, { method: 'POST', headers: { 'X-API-Key': API_KEY } });
    assert.equal(response.status, 200, await response.text());
    await page.getByText('The key is not accepted any more').waitFor();
    assert.equal(await page.locator('#console').isVisible(), false);
    assert.equal(await page.locator('#tables').textContent(), '');
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    await page.getByLabel('API key').fill('another-key-of-the-tests');
    await page.keyboard.press('Enter');
    await page.locator('#state[data-state="live"]').waitFor();
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.locator('#sign-in').waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
    assert.deepEqual(page.problems, []);
  });

  test('says when the node does not answer', async () => {
    await page.getByLabel('API key').fill('another-key-of-the-tests');
    await page.keyboard.press('Enter');
    await page.locator('#state[data-state="live"]').waitFor();
    assert.equal(await daemon.stop(), 0);
    await page.locator('#state[data-state="away"]').waitFor();
    assert.match(await page.locator('#alert').textContent(), /does not answer|503/);
    assert.equal(await page.locator('#alert').evaluate((alert) => alert.getBoundingClientRect().top >= 0), true, 'it is in sight');
    await picture('away');
  });
});
