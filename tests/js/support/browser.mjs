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

const html = (script) => `<!doctype html><html lang="en"><head><meta charset="utf-8"><title>the SDK in a browser</title>
<link rel="icon" href="data:,"></head><body><script src="/${script}"></script></body></html>`;

/** Serves pages with the unmodified browser builds of the npm SDK: of JSON at /, of Protobuf at /protobuf. */
export async function serveSdk() {
  const build = (name) => readFile(fileURLToPath(new URL(`../node_modules/centrifuge/dist/${name}`, import.meta.url)));
  const served = {
    '/': ['text/html', html('centrifuge.js')],
    '/protobuf': ['text/html', html('centrifuge.protobuf.js')],
  };
  for (const name of ['centrifuge.js', 'centrifuge.protobuf.js']) served[`/${name}`] = ['text/javascript', await build(name)];
  const server = http.createServer((request, response) => {
    const [type, content] = served[request.url] ?? [];
    if (!type) return response.writeHead(404).end();
    return response.writeHead(200, { 'Content-Type': `${type}; charset=utf-8` }).end(content);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const origin = `http://127.0.0.1:${server.address().port}`;
  return { origin, close: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }) };
}
