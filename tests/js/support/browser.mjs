// Headless Chromium, and a small server for the tests' own page.

import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import http from 'node:http';
import { fileURLToPath } from 'node:url';

import { chromium } from 'playwright-core';

import { DEADLINE_MS } from './wait.mjs';

export async function launch() {
  const browser = await chromium.launch({
    executablePath: process.env.TRUNKLINE_TEST_CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
      '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  return browser;
}

/** A page whose errors fail the test: they are collected in `page.problems`. */
export async function open(browser, url) {
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  page.problems = [];
  page.on('pageerror', (error) => page.problems.push(String(error)));
  page.requested = [];
  page.on('request', (request) => page.requested.push(request.url()));
  await page.goto(url);
  return page;
}

const HTML = `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>the SDK in a browser</title>
<link rel="icon" href="data:,"></head><body><script src="/centrifuge.js"></script></body></html>`;

/** Serves one page with the unmodified browser build of the npm SDK. */
export async function serveSdk() {
  const file = fileURLToPath(new URL('../node_modules/centrifuge/dist/centrifuge.js', import.meta.url));
  const script = await readFile(file);
  const server = http.createServer((request, response) => {
    const wanted = request.url === '/centrifuge.js' ? ['text/javascript', script] : ['text/html', HTML];
    response.writeHead(200, { 'Content-Type': `${wanted[0]}; charset=utf-8` }).end(wanted[1]);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const origin = `http://127.0.0.1:${server.address().port}`;
  return { origin, close: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }) };
}
