#!/usr/bin/env node
// A chat behind trunkline: who may come in, who may write where, and what a message looks like. docs/chat.md tells the story.

import { readFileSync } from 'node:fs';
import http from 'node:http';

const PORT = Number(process.env.PORT ?? 3000);

const PAGE = readFileSync(new URL('page.html', import.meta.url));
const SDK = readFileSync(new URL('../dist/centrifuge.js', import.meta.resolve('centrifuge')));

const SESSIONS = new Map([['session-of-ann', 'ann'], ['session-of-bob', 'bob'], ['session-of-eve', 'eve']]);
const MEMBERS = new Map([['chat:team', new Set(['ann', 'bob'])]]);

const refused = (code, message) => ({ error: { code, message } });

function onConnect({ data }) {
  const user = SESSIONS.get(data?.session);
  return user ? { result: { user } } : { disconnect: { code: 4501, reason: 'sign in first' } };
}

function onSubscribe({ user, channel }) {
  return MEMBERS.get(channel)?.has(user) ? { result: {} } : refused(403, 'members only');
}

/** Asked once for each message; what it gives is what everybody gets. */
function onPublish({ user, channel, data }) {
  if (!MEMBERS.get(channel)?.has(user)) return refused(403, 'members only');
  const text = typeof data?.text === 'string' ? data.text.trim() : '';
  if (text === '' || text.length > 500) return refused(400, 'a text has 1 to 500 characters');
  return { result: { data: { author: user, text } } };
}

const HOOKS = new Map([
  ['/trunkline/connect', onConnect], ['/trunkline/subscribe', onSubscribe], ['/trunkline/publish', onPublish],
]);
const FILES = new Map([['/', ['text/html', PAGE]], ['/centrifuge.js', ['text/javascript', SDK]]]);

const server = http.createServer(async (request, response) => {
  const { pathname } = new URL(request.url, 'http://backend');
  const [kind, file] = FILES.get(pathname) ?? [];
  if (file) return response.writeHead(200, { 'Content-Type': `${kind}; charset=utf-8` }).end(file);
  const hook = HOOKS.get(pathname);
  if (!hook) return response.writeHead(404).end();
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const answer = hook(JSON.parse(Buffer.concat(chunks)));
  return response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer));
});
server.listen(PORT, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
