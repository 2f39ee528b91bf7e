#!/usr/bin/env node
// A backend behind trunkline: chat with presence, notifications with an unread counter, a tunnel that echoes.
//
// Only what node has: what it shows is HTTP. Its state is in memory where a real one has a database, and its users are
// made up. docs/backend.md tells the story, tests/js/backends.test.mjs runs it.

import { createHmac, randomUUID, timingSafeEqual } from 'node:crypto';
import http from 'node:http';

const PORT = Number(process.env.PORT ?? 3000);
const TRUNKLINE = process.env.TRUNKLINE ?? '127.0.0.1:8000';
const API_KEY = 'key-of-the-example';
const HOOKS_KEY = 'Bearer key-of-the-hooks';
const EVENTS_SECRET = 'secret-of-the-events';

const SESSIONS = new Map([['session-of-ann', 'ann'], ['session-of-bob', 'bob'], ['session-of-carol', 'carol']]);
const MEMBERS = new Map([['chat:team', new Set(['ann', 'bob'])]]);

const lastSeen = new Map(); // user: milliseconds since 1970
const told = { epoch: '', seq: 0, events: 0, gaps: [] };
const unread = new Map(); // user: ids of notifications
const phones = new Map(); // id of a notification: users whose phones got it
const tunnels = new Map(); // connection: { user, code }
const versions = { epoch: randomUUID(), newest: 0 };

/** A text that a stranger sent, or nothing. Whatever else came must not end in a 500. */
const textOf = (data, key) => (typeof data?.[key] === 'string' ? data[key] : '');

// --- trunkline's API

/** trunkline did not do what it was asked, or is not there. */
class Refused extends Error {}

/** One call of the API: status and body of the answer. */
async function call(path, body, kind) {
  try {
    const response = await fetch(`http://${TRUNKLINE}/api/${path}`, {
      method: 'POST',
      headers: { 'X-API-Key': API_KEY, 'Content-Type': kind },
      body,
      signal: AbortSignal.timeout(5000),
    });
    return { status: response.status, text: await response.text() };
  } catch (error) {
    throw new Refused(`${path}: ${error}`);
  }
}

/** One call with JSON: its result. Errors of the API come with status 200. */
async function api(method, request) {
  const { status, text } = await call(method, JSON.stringify(request), 'application/json');
  const answer = status === 200 ? JSON.parse(text) : {};
  if (status !== 200 || answer.error) throw new Refused(`${method}: ${status} ${text}`);
  return answer.result ?? answer;
}

// --- chat

/** A browser shows the site's cookie, an app its session in `data`. */
function onConnect(hookCall, headers) {
  const cookie = (headers.cookie ?? '').match(/(?:^|;\s*)session=([^;]*)/);
  const user = SESSIONS.get(cookie ? cookie[1] : textOf(hookCall.data, 'session'));
  if (!user) return { disconnect: { code: 4501, reason: 'sign in first' } };
  return { result: { user, info: { name: user[0].toUpperCase() + user.slice(1) } } };
}

function onSubscribe({ user, channel }) {
  if (!MEMBERS.get(channel)?.has(user)) return { error: { code: 403, message: 'members only' } };
  return { result: {} };
}

function onPublish({ user, channel, data }) {
  // Asked of everybody who tries to publish, subscribed or not.
  if (!MEMBERS.get(channel)?.has(user)) return { error: { code: 403, message: 'members only' } };
  const text = textOf(data, 'text').trim();
  const length = [...text].length;
  if (length === 0 || length > 500) return { error: { code: 400, message: 'a text has 1 to 500 characters' } };
  return { result: { data: { author: user, text } } };
}

/** Whether trunkline sent this, and not long ago. */
function isSigned(signature, body) {
  const { t = '', v1 = '' } = Object.fromEntries(signature.split(',').map((part) => part.split('=')));
  const wanted = createHmac('sha256', EVENTS_SECRET).update(`${t}.`).update(body).digest();
  const shown = Buffer.from(v1, 'hex');
  if (shown.length !== wanted.length || !timingSafeEqual(shown, wanted)) return false;
  return Math.abs(Date.now() / 1000 - Number(t)) < 300;
}

function onEvents({ epoch, events }) {
  // Another epoch: trunkline was restarted without a store, and numbers begin at 1.
  if (epoch !== told.epoch) Object.assign(told, { epoch, seq: 0 });
  for (const event of events) {
    if (event.seq <= told.seq) continue; // a batch that was sent again
    told.seq = event.seq;
    if (event.type === 'gap') {
      told.gaps.push([event.from, event.to]);
    } else {
      told.events += 1;
      lastSeen.set(event.user, event.time_ms);
    }
  }
}

// --- notifications

/** { id, users, text }. May be repeated: nobody gets it twice and nothing is counted twice. */
async function notify({ id, users, text }) {
  for (const user of users) unread.set(user, (unread.get(user) ?? new Set()).add(id));
  const pushed = await api('push', { users, data: { id, text }, idempotency_key: id });
  phones.set(id, pushed.absent); // here the phones would be rung
  await tellUnread(users);
  return { connections: pushed.connections, phones: pushed.absent };
}

/** The count of each user, on the personal channel. `version` keeps an older count from coming after a newer one. */
async function tellUnread(users) {
  const commands = users.map((user) => {
    versions.newest += 1;
    const version = { version: versions.newest, version_epoch: versions.epoch };
    const data = { unread: unread.get(user)?.size ?? 0 };
    return { publish: { channel: `#${user}`, data, ...version } };
  });
  const { replies } = await api('batch', { commands, parallel: true });
  const failed = replies.find((reply) => reply.error);
  if (failed) throw new Refused(`publish: ${JSON.stringify(failed.error)}`);
}

/** The user of a session that the application shows. */
function signedIn(request) {
  const user = SESSIONS.get(textOf(request, 'session'));
  if (!user) throw new TypeError('no such session');
  return user;
}

async function readAll(request) {
  const user = signedIn(request);
  unread.delete(user);
  await tellUnread([user]);
  return {};
}

// --- tunnel

function onTunnel(headers, body) {
  const { 'x-trunkline-type': kind, 'x-trunkline-connection': connection } = headers;
  if (kind === 'connect') {
    const { authenticated, user } = JSON.parse(body);
    if (!authenticated) return [403]; // no ticket
    tunnels.set(connection, { user, code: null });
    return [200, 'application/json', JSON.stringify({ message: `hello ${user}` })];
  }
  // A body is a message to the client: text or binary as its type says.
  if (kind === 'message') return [200, headers['content-type'], body];
  const { user, code } = JSON.parse(body);
  tunnels.set(connection, { user, code });
  return [204];
}

/** A URL for a client that can show nothing else, like a mini program: good once, and for a minute. */
async function ticket(request) {
  const user = signedIn(request);
  const made = await api('tunnel/echo/tickets', { user, ttl_s: 60, data: { app: 'mini program' } });
  return { url: `ws://${TRUNKLINE}${made.url}` };
}

/** Says something to a tunnel's client, unasked. 410: it has gone. */
async function speak({ connection, text }) {
  const { status } = await call(`connections/${connection}`, text, 'text/plain');
  return { status };
}

// --- the server

const HOOKS = new Map([['connect', onConnect], ['subscribe', onSubscribe], ['publish', onPublish]]);
const APPLICATION = new Map([['/notify', notify], ['/read', readAll], ['/ticket', ticket], ['/speak', speak]]);

/** What a request comes to: status, type and body. */
async function answerTo({ method, url, headers }, body) {
  if (method === 'GET') {
    const maps = { last_seen: lastSeen, phones, tunnels };
    const objects = Object.entries(maps).map(([name, map]) => [name, Object.fromEntries(map)]);
    return [200, 'application/json', JSON.stringify({ told, ...Object.fromEntries(objects) })];
  }
  const name = url.startsWith('/trunkline/') ? url.slice('/trunkline/'.length) : undefined;
  if (name === 'events') {
    if (!isSigned(headers['x-trunkline-signature'] ?? '', body)) return [403];
    onEvents(JSON.parse(body));
    return [204];
  }
  if (name !== undefined && headers.authorization !== HOOKS_KEY) return [403];
  if (name === 'tunnel') return onTunnel(headers, body);
  const handler = name === undefined ? APPLICATION.get(url) : HOOKS.get(name);
  if (!handler) return [404];
  return [200, 'application/json', JSON.stringify(await handler(JSON.parse(body), headers))];
}

const server = http.createServer(async (request, response) => {
  const chunks = [];
  try {
    for await (const chunk of request) chunks.push(chunk);
    const [status, kind, body] = await answerTo(request, Buffer.concat(chunks));
    response.writeHead(status, kind && { 'Content-Type': kind }).end(body);
  } catch (error) {
    const status = error instanceof Refused ? 502 : error instanceof SyntaxError || error instanceof TypeError ? 400 : 500;
    response.writeHead(status, { 'Content-Type': 'text/plain' }).end(`${error}\n`);
  }
});
server.listen(PORT, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
