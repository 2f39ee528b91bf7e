// The examples of docs/market-data.md, notifications.md and chat.md: their backends, and their pages in Chromium.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { after, before, describe, test } from 'node:test';

import { launch, open } from './support/browser.mjs';
import { Daemon, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { until } from './support/wait.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));
const backends = path.join(here, '../backends');

/** An example in a folder of its own, with the packages of these tests, at ports of its own. */
async function start(t, name) {
  const [port, own] = [await freePort(), await freePort()];
  const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-example-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  cpSync(path.join(backends, name), folder, { recursive: true });
  symlinkSync(path.join(here, 'node_modules'), path.join(folder, 'node_modules'));
  const file = path.join(folder, 'trunkline.toml');
  writeFileSync(file, readFileSync(file, 'utf8').replaceAll('127.0.0.1:8000', `127.0.0.1:${port}`).replaceAll('127.0.0.1:3000', `127.0.0.1:${own}`));
  const daemon = await Daemon.start({ driver: drivers[0], config: null, listen: null, args: ['--config', file, '--shards', '2'] });
  t.after(() => daemon.stop());
  const env = { ...process.env, PORT: `${own}`, TRUNKLINE: `127.0.0.1:${port}` };
  const child = spawn(process.execPath, ['backend.mjs'], { cwd: folder, env, stdio: ['ignore', 'pipe', 'pipe'] });
  t.after(() => child.kill('SIGKILL'));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  await until(() => output.includes('listening'), () => `the backend listens: ${output}`);
  const call = async (where) => {
    const response = await fetch(`http://127.0.0.1:${own}${where}`, { method: 'POST' });
    const text = await response.text();
    assert.equal(response.status, 200, `${where}: ${text}`);
    return JSON.parse(text);
  };
  return { daemon, call, page: (query = '') => `http://127.0.0.1:${own}/?port=${port}${query}`, said: () => output };
}

describe('the examples, in Chromium', () => {
  let browser;
  before(async () => { browser = await launch(); });
  after(() => browser?.close());

  /** Waits until a page says what is wanted. */
  const shows = (page, read, wanted, why) => {
    let last;
    return until(async () => {
      last = await page.evaluate(read);
      return JSON.stringify(last) === JSON.stringify(wanted);
    }, () => `${why}: ${JSON.stringify(last)} is to be ${JSON.stringify(wanted)}`);
  };

  test('chat: messages arrive once, also for who comes later, and everybody sees who is here', async (t) => {
    const example = await start(t, 'chat');
    const enter = async (user) => {
      const page = await open(browser, example.page(`&user=${user}`));
      t.after(() => page.close());
      return page;
    };
    const messages = () => [...document.querySelectorAll('li')].map((it) => it.textContent);
    const here = () => document.querySelector('#here').textContent;
    const state = () => document.querySelector('#state').textContent;
    const ann = await enter('ann');
    await shows(ann, here, 'ann', 'the first');
    await ann.fill('#text', ' hello ');
    await ann.click('button');
    await shows(ann, messages, ['ann: hello'], 'her own');
    await shows(ann, state, 'sent', 'the receipt');
    const bob = await enter('bob');
    await shows(bob, messages, ['ann: hello'], 'what was before');
    for (const page of [ann, bob]) await shows(page, here, 'ann, bob', 'both');
    await bob.fill('#text', ' ');
    await bob.click('button');
    await shows(bob, state, 'a text has 1 to 500 characters', 'the refusal');
    // What was sent into a lost connection is sent again.
    await ann.evaluate(() => { client.disconnect(); send('from the tunnel'); send('and another'); client.connect(); });
    for (const page of [ann, bob]) {
      await until(async () => (await page.evaluate(messages)).length === 3, 'both arrive');
      assert.deepEqual((await page.evaluate(messages)).sort(), ['ann: and another', 'ann: from the tunnel', 'ann: hello']);
    }
    const eve = await enter('eve');
    await shows(eve, state, 'members only', 'who is none');
    await bob.close();
    await shows(ann, here, 'ann', 'one has left');
    assert.deepEqual(ann.problems, []);
  });

  test('market data: every page ends at the truth, whatever its pace', async (t) => {
    const example = await start(t, 'market');
    const pages = await Promise.all(['', '&every=1s'].map((query) => open(browser, example.page(query))));
    t.after(() => Promise.all(pages.map((page) => page.close())));
    const rows = () => [...document.querySelectorAll('tr')].map((row) => [...row.children].map((cell) => cell.textContent));
    for (const page of pages) await until(async () => (await page.evaluate(rows)).length === 4, 'four symbols');
    await example.call('/delist?symbol=NEWS');
    for (const page of pages) await until(async () => (await page.evaluate(rows)).length === 3, 'one is delisted');
    const truth = Object.entries(await example.call('/close')).map(([symbol, bid]) => [symbol, bid.toFixed(2)]);
    for (const page of pages) await shows(page, rows, truth, 'the last quotes');
    // Who comes late has the same.
    const late = await open(browser, example.page());
    t.after(() => late.close());
    await shows(late, rows, truth, 'the last quotes');
    for (const page of [...pages, late]) assert.deepEqual(page.problems, []);
    assert.doesNotMatch(example.said(), /Error/);
  });

  test('counters and notifications: what is new is said, read when it is wanted, and counted', async (t) => {
    const example = await start(t, 'counters');
    const [ann, bob] = await Promise.all([open(browser, example.page()), open(browser, example.page())]);
    t.after(() => ann.close());
    const readers = () => document.querySelector('#readers').textContent;
    const more = () => { const it = document.querySelector('#more'); return it.hidden ? '' : it.textContent; };
    const posts = () => [...document.querySelectorAll('li')].map((it) => [it.textContent, it.dataset.likes]);
    for (const page of [ann, bob]) await shows(page, readers, '2', 'both are here');
    const first = await example.call('/post?text=one');
    await example.call('/post?text=two');
    for (const page of [ann, bob]) await shows(page, more, '2 new', 'the notice');
    assert.deepEqual(await ann.evaluate(posts), [], 'nothing is read yet');
    for (let count = 0; count < 5; count += 1) await example.call(`/like?id=${first.id}`);
    await ann.click('#more');
    await shows(ann, posts, [['two', '0'], ['one', '5']], 'the posts');
    await shows(ann, more, '', 'all is read');
    await shows(bob, more, '2 new', 'not by the other');
    await bob.close();
    await shows(ann, readers, '1', 'one has left');
    await example.call('/post?text=three');
    await shows(ann, more, '1 new', 'the next');
    await ann.click('#more');
    await shows(ann, posts, [['three', '0'], ['two', '0'], ['one', '5']], 'all posts');
    assert.deepEqual(ann.problems, []);
  });
});

describe('the pages of the examples', () => {
  const read = (name) => readFileSync(path.join(here, '../..', name), 'utf8');
  for (const [page, folder] of [['chat.md', 'chat'], ['market-data.md', 'market'], ['notifications.md', 'counters']]) {
    test(`what ${page} quotes is what the tests run`, () => {
      const sources = ['backend.mjs', 'page.html', 'trunkline.toml'].map((name) => read(`tests/backends/${folder}/${name}`)).join('\n');
      const quoted = [...read(`docs/${page}`).matchAll(/^```(?:js|html|toml)\n([^]*?)^```$/gm)].map(([, body]) => body);
      const long = quoted.filter((body) => body.split('\n').length > 12);
      assert.ok(long.length >= 2, `${long.length} blocks`);
      for (const body of long) assert.ok(sources.includes(body), body);
    });
  }
});
