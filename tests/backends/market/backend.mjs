#!/usr/bin/env node
// A market behind trunkline: two feeds that publish the same quotes, and a page that shows them. docs/market-data.md tells the story.

import { createHmac } from 'node:crypto';
import { readFileSync } from 'node:fs';
import http from 'node:http';

const PORT = Number(process.env.PORT ?? 3000);
const TRUNKLINE = process.env.TRUNKLINE ?? '127.0.0.1:8000';
const API_KEY = 'key-of-the-example';
const TOKEN_SECRET = 'secret-of-the-example';
const CHANNEL = 'quotes:all';

const PAGE = readFileSync(new URL('page.html', import.meta.url));
const SDK = readFileSync(new URL('../dist/centrifuge.js', import.meta.resolve('centrifuge')));

/** Symbol: number of its last quote, and the quote. Where a real one has the exchange. */
const market = new Map(['ACME', 'INIT', 'NEWS', 'ZINC'].map((symbol) => [symbol, { number: 0, bid: 100 }]));

function trade() {
  for (const quote of market.values()) {
    quote.number += 1;
    quote.bid = Math.round((quote.bid + Math.random() - 0.5) * 100) / 100;
  }
}

/** Many calls of the API in one. Errors of single ones come with status 200. */
async function batch(commands) {
  const response = await fetch(`http://${TRUNKLINE}/api/batch`, {
    method: 'POST',
    headers: { 'X-API-Key': API_KEY, 'Content-Type': 'application/json' },
    body: JSON.stringify({ commands, parallel: true }),
  });
  if (!response.ok) throw new Error(`batch: ${response.status}`);
  const { replies } = await response.json();
  const failed = replies.find((reply) => reply.error);
  if (failed) throw new Error(`publish: ${JSON.stringify(failed.error)}`);
}

/** What the market says. The number of a quote is its version: of two feeds that say the same, one is heard. */
const quotes = () => batch([...market].map(([symbol, { number, bid }]) => (
  { publish: { channel: CHANNEL, key: symbol, data: { bid }, version: number } })));

/** A feed says what the market is, each time a little later than it was. */
async function feed(pause) {
  while (market.size > 0) {
    try {
      await quotes();
    } catch (error) {
      console.error(`${error}`); // the next round says what is then
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

/** The symbol is not traded any more. A feed that is late must not bring it back: the removal has a version as well. */
async function delist({ symbol }) {
  const { number } = market.get(symbol);
  market.delete(symbol);
  await batch([{ publish: { channel: CHANNEL, key: symbol, remove: true, version: number + 1 } }]);
  return {};
}

/** The end of the day: nothing changes any more. */
let trading = setInterval(trade, 20);
async function close() {
  clearInterval(trading);
  await quotes();
  return Object.fromEntries([...market].map(([symbol, { bid }]) => [symbol, bid]));
}

/** A subscription at a pace of its own, for phones: signed, since everybody would like to be fast. */
function subscription({ every }) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1000) + 3600;
  const text = `${part({ alg: 'HS256' })}.${part({ sub: '', channel: CHANNEL, exp, deliver_every: every })}`;
  return { token: `${text}.${createHmac('sha256', TOKEN_SECRET).update(text).digest('base64url')}` };
}

const APPLICATION = new Map([['/delist', delist], ['/close', close], ['/subscription', subscription]]);
const FILES = new Map([['/', ['text/html', PAGE]], ['/centrifuge.js', ['text/javascript', SDK]]]);

const server = http.createServer(async (request, response) => {
  const url = new URL(request.url, 'http://backend');
  const [kind, file] = FILES.get(url.pathname) ?? [];
  if (file) return response.writeHead(200, { 'Content-Type': `${kind}; charset=utf-8` }).end(file);
  try {
    const handler = APPLICATION.get(url.pathname);
    if (!handler) return response.writeHead(404).end();
    const answer = await handler(Object.fromEntries(url.searchParams));
    return response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
  } catch (error) {
    return response.writeHead(502, { 'Content-Type': 'text/plain' }).end(`${error}\n`);
  }
});
server.listen(PORT, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
feed(20);
feed(30);
