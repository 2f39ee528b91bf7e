#!/usr/bin/env node
// A feed behind trunkline: posts that are announced, their likes, and how many read along. docs/notifications.md tells the story.

import { readFileSync } from 'node:fs';
import http from 'node:http';

const PORT = Number(process.env.PORT ?? 3000);
const TRUNKLINE = process.env.TRUNKLINE ?? '127.0.0.1:8000';
const API_KEY = 'key-of-the-example';

const PAGE = readFileSync(new URL('page.html', import.meta.url));
const SDK = readFileSync(new URL('../dist/centrifuge.js', import.meta.resolve('centrifuge')));

/** Id of a post: its likes. Where a real one has the database. */
const posts = new Map();

async function publish(body) {
  const response = await fetch(`http://${TRUNKLINE}/api/publish`, {
    method: 'POST',
    headers: { 'X-API-Key': API_KEY, 'Content-Type': 'application/json' },
    body: JSON.stringify(body),
  });
  const { error } = await response.json();
  if (error) throw new Error(`publish: ${JSON.stringify(error)}`);
}

/** A new post. That there is one is spread over a time: who reads it at once is a crowd. */
async function post({ text }) {
  const id = `post-${posts.size + 1}`;
  posts.set(id, 0);
  await publish({ channel: 'feed:all', data: { id, text }, idempotency_key: id, spread_ms: 100 });
  return { id };
}

/** The number, never a difference; with itself as version, since likes overtake each other on their way. */
async function like({ id }) {
  if (!posts.has(id)) throw new Error('no such post');
  const likes = posts.get(id) + 1;
  posts.set(id, likes);
  await publish({ channel: 'counters:likes', key: id, data: likes, version: likes });
  return { likes };
}

const APPLICATION = new Map([['/post', post], ['/like', like]]);
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
