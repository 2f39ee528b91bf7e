// The backends of docs/backend.md, in Python and in Node: real processes, the unmodified SDK, npm `ws` for the tunnel.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import WebSocket from 'ws';

import { watchUnread } from '../backends/page.mjs';
import { Application, EXAMPLE_KEY, languages } from './support/application.mjs';
import { binary, drivers } from './support/daemon.mjs';
import { connected, received, sdk, subscribed, watch } from './support/sdk.mjs';
import { next, until, within } from './support/wait.mjs';

const run = promisify(execFile);

/** A WebSocket of a browser that has the cookie. */
const withCookie = (session) => class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { headers: { Cookie: `theme=dark; session=${session}` } });
  }
};

/** An open tunnel and its messages: text as a string, binary as a Buffer. */
async function tunnel(url) {
  const socket = new WebSocket(url);
  const messages = [];
  socket.on('message', (data, binary) => messages.push(binary ? data : data.toString()));
  await within(once(socket, 'open'), 'the tunnel opens');
  const got = async (wanted) => {
    await until(() => messages.length >= wanted.length, () => `${wanted.length} messages, got ${messages.length}`);
    assert.deepEqual(messages, wanted);
  };
  return { socket, got };
}

/** Passes requests on to the daemon; the first to `path` waits until `release` is called. */
async function detour(to, path) {
  let held;
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    if (request.url === path && !held) await new Promise((resolve) => (held = resolve));
    const { 'x-api-key': key, 'content-type': kind } = request.headers;
    const headers = { 'X-API-Key': key, 'Content-Type': kind };
    const answer = await fetch(`${to}${request.url}`, { method: 'POST', headers, body: Buffer.concat(chunks) });
    response.writeHead(answer.status).end(await answer.text());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    address: `127.0.0.1:${server.address().port}`,
    holds: () => until(() => held, 'the first request is held'),
    release: () => held(),
    stop: () => { server.closeAllConnections(); server.close(); },
  };
}

/** The HTTP status with which a tunnel is refused. */
async function refused(url) {
  const socket = new WebSocket(url);
  socket.on('error', () => {});
  const [, response] = await within(once(socket, 'unexpected-response'), 'the refusal');
  socket.terminate();
  return response.statusCode;
}

for (const [language, driver] of Object.keys(languages).flatMap((one) => drivers.map((driver) => [one, driver]))) {
  describe(`the backend in ${language}, on ${driver}`, () => {
    let application;
    let daemon;
    const clients = [];
    const client = (user, options = {}) => {
      const made = sdk(daemon.ws, { data: { session: `session-of-${user}` }, ...options });
      made.messages = [];
      made.on('message', ({ data }) => made.messages.push(data));
      clients.push(made);
      return made;
    };
    const notify = async (id, users, text = `text of ${id}`) => {
      const { status, answer } = await application.post('/notify', { id, users, text });
      assert.equal(status, 200, answer);
      return answer;
    };

    /** Whoever has left is gone at the daemon too: who is away must not depend on who is faster. */
    const nobody = () => until(async () => {
      const { nodes } = await daemon.api('info', {}, EXAMPLE_KEY);
      return nodes[0].num_clients === 0;
    }, 'nobody is connected');

    before(async () => {
      application = await Application.behind(language, driver);
      daemon = application.daemon;
    });
    after(async () => {
      clients.forEach((one) => one.disconnect());
      assert.equal(await application.stop(), 0);
      assert.doesNotMatch(application.output, /Traceback|Error/);
    });

    // --- chat

    test('chat: members by cookie and by data see each other come and go', async () => {
      const ann = client('nobody', { data: undefined, websocket: withCookie('session-of-ann') });
      const room = await subscribed(ann, 'chat:team', { joinLeave: true });
      const bob = client('bob');
      await subscribed(bob, 'chat:team');
      const named = ({ info }) => [info.user, info.connInfo.name];
      await until(() => room.seen.joins.some((join) => join.info.user === 'bob'), 'bob joins');
      assert.deepEqual(named(room.seen.joins.find((join) => join.info.user === 'bob')), ['bob', 'Bob']);
      const present = Object.values((await room.presence()).clients).map((info) => info.user);
      assert.deepEqual(present.sort(), ['ann', 'bob']);
      bob.disconnect();
      await until(() => room.seen.leaves.length === 1, 'bob leaves');
      assert.deepEqual(named(room.seen.leaves[0]), ['bob', 'Bob']);
      ann.disconnect();
    });

    test('chat: who is no member, or nobody at all, is not let in', async () => {
      const carol = client('carol');
      const outside = watch(carol, 'chat:team');
      outside.subscribe();
      const refusal = next(outside, 'unsubscribed');
      await connected(carol);
      assert.deepEqual(await refusal, { channel: 'chat:team', code: 403, reason: 'members only' });
      await assert.rejects(carol.publish('chat:team', { text: 'let me in' }), { code: 403, message: 'members only' });
      carol.disconnect();
      for (const data of [undefined, null, [], 'x', 7, { session: {} }, { session: 'made up' }, { session: '__proto__' }]) {
        const stranger = client('nobody', { data });
        const end = next(stranger, 'disconnected');
        stranger.connect();
        assert.deepEqual(await end, { code: 4501, reason: 'sign in first' }, JSON.stringify(data));
      }
    });

    test('chat: a text gets its author, and one that is none is refused by name', async () => {
      const [ann, bob] = [client('ann'), client('bob')];
      const [mine, theirs] = [await subscribed(ann, 'chat:team'), await subscribed(bob, 'chat:team')];
      await mine.publish({ text: '  hello  ', author: 'bob' });
      const refusal = { code: 400, message: 'a text has 1 to 500 characters' };
      for (const data of [{ text: '' }, { text: ' \n' }, { text: 'x'.repeat(501) }, { text: 1 }, {}, [], null, 'text']) {
        await assert.rejects(mine.publish(data), refusal, JSON.stringify(data));
      }
      await theirs.publish({ text: '🙂'.repeat(500) });
      const wanted = [{ author: 'ann', text: 'hello' }, { author: 'bob', text: '🙂'.repeat(500) }];
      await received(mine, wanted);
      await received(theirs, wanted);
      const { publications } = await daemon.api('history', { channel: 'chat:team', limit: 10 }, EXAMPLE_KEY);
      assert.deepEqual(publications.map(({ data }) => data), wanted);
      [ann, bob].forEach((one) => one.disconnect());
    });

    test('chat: events tell when somebody was seen last; signed ones, and each once', async () => {
      const read = async () => (await fetch(`${daemon.http}/api/events`, { headers: { 'X-API-Key': EXAMPLE_KEY } })).json();
      const ann = client('ann');
      const { client: id } = await connected(ann);
      ann.disconnect();
      await nobody();
      // What the log holds is what the backend was told, once it has caught up.
      const { log, state, end } = await until(async () => {
        const [log, state] = [await read(), await application.state()];
        const end = log.events.find((event) => event.client === id && event.type === 'disconnected');
        return end && state.told.seq === log.last && { log, state, end };
      }, 'the backend is told');
      assert.equal(state.last_seen.ann, end.time_ms);
      assert.deepEqual([state.told.epoch, state.told.seq, state.told.events], [log.epoch, log.last, log.events.length]);
      assert.deepEqual(state.told.gaps, []);

      const now = Math.floor(Date.now() / 1000);
      const signed = (batch, t = now, secret = 'secret-of-the-events') => {
        const body = JSON.stringify(batch);
        const v1 = createHmac('sha256', secret).update(`${t}.${body}`).digest('hex');
        return application.post('/trunkline/events', body, { 'X-Trunkline-Signature': `t=${t},v1=${v1}` });
      };
      const event = (seq, user) => ({ seq, time_ms: 1000 + seq, type: 'connected', client: 'c', user, transport: 'websocket' });
      const batch = { epoch: 'another run', events: [event(1, 'dan'), event(2, 'eve')] };
      for (const [t, secret] of [[now, 'guessed'], [now - 301, undefined], [now + 400, undefined], ['x', 'guessed']]) {
        assert.equal((await signed(batch, t, secret)).status, 403);
      }
      for (const header of ['', 'nonsense', 't=1', 'v1=00', 't=,v1=', `t=${now},v1=zz`, 't=ü,v1=ü', '===,,,']) {
        const { status } = await application.post('/trunkline/events', batch, { 'X-Trunkline-Signature': header });
        assert.equal(status, 403, header);
      }
      assert.equal((await application.state()).last_seen.dan, undefined);
      assert.equal((await signed(batch)).status, 204);
      assert.equal((await signed(batch)).status, 204);
      const gap = { seq: 9, time_ms: 1, type: 'gap', from: 3, to: 9, count: 7 };
      const overlapping = { epoch: 'another run', events: [event(2, 'eve'), gap] };
      assert.equal((await signed(overlapping)).status, 204);
      const { last_seen: seen, told } = await application.state();
      assert.deepEqual([seen.dan, seen.eve], [1001, 1002]);
      assert.deepEqual(told, { epoch: 'another run', seq: 9, events: state.told.events + 2, gaps: [[3, 9]] });
    });

    test('hooks and tunnels are answered to trunkline alone', async () => {
      const question = { client: 'c', user: 'ann', channel: 'chat:team', data: { text: 'x' } };
      for (const name of ['connect', 'subscribe', 'publish', 'tunnel']) {
        for (const headers of [{}, { Authorization: 'Bearer guessed' }]) {
          assert.equal((await application.post(`/trunkline/${name}`, question, headers)).status, 403, name);
        }
      }
    });

    // --- notifications

    test('notifications: connected users get them at once, the others by phone, nobody twice', async () => {
      await nobody();
      const devices = [client('ann'), client('ann')];
      for (const device of devices) await connected(device);
      const wanted = { connections: 2, phones: ['bob'] };
      assert.deepEqual(await notify('n1', ['ann', 'bob']), wanted);
      assert.deepEqual(await notify('n1', ['ann', 'bob']), wanted, 'repeated');
      assert.deepEqual(await notify('n2', ['ann']), { connections: 2, phones: [] });
      for (const device of devices) {
        await until(() => device.messages.length >= 2, 'both notifications');
        assert.deepEqual(device.messages, [{ id: 'n1', text: 'text of n1' }, { id: 'n2', text: 'text of n2' }]);
      }
      assert.deepEqual((await application.state()).phones, { n1: ['bob'], n2: [] });
      devices.forEach((device) => device.disconnect());
    });

    test('notifications: a client that was away gets the newest count and no other', async () => {
      const shown = [];
      const carol = client('carol');
      watchUnread(carol, (count) => shown.push(count));
      const shows = async (wanted) => {
        await until(() => shown.length >= wanted.length, () => `${wanted}; shown: ${shown}`);
        assert.deepEqual(shown, wanted);
      };
      await nobody();
      await notify('c1', ['carol']);
      await notify('c2', ['carol']);
      await connected(carol);
      await shows([2]);
      await notify('c3', ['carol', 'ann']);
      await shows([2, 3]);
      // Away for several, away for one, away for none.
      carol.disconnect();
      await nobody();
      for (const id of ['c4', 'c5', 'c6']) assert.deepEqual((await notify(id, ['carol'])).phones, ['carol']);
      await connected(carol);
      await shows([2, 3, 6]);
      carol.disconnect();
      await nobody();
      await notify('c7', ['carol']);
      await connected(carol);
      await shows([2, 3, 6, 7]);
      carol.disconnect();
      await connected(carol);
      assert.equal((await application.post('/read', { session: 'session-of-carol' })).status, 200);
      await shows([2, 3, 6, 7, 0]);
      await notify('c8', ['carol']);
      await shows([2, 3, 6, 7, 0, 1]);
      const stranger = client('bob');
      const other = watch(stranger, '#carol');
      other.subscribe();
      await connected(stranger);
      await until(() => other.seen.unsubscribed.length === 1, 'the refusal');
      assert.equal(other.seen.unsubscribed[0].code, 103);
      [carol, stranger].forEach((one) => one.disconnect());
    });

    test('notifications: a count that is overtaken on its way is not shown', async () => {
      const way = await detour(daemon.http, '/api/batch');
      const other = await Application.start(language, way.address);
      const send = (id) => other.post('/notify', { id, users: ['bob'], text: id });
      const shown = [];
      const bob = client('bob');
      watchUnread(bob, (count) => shown.push(count));
      await application.post('/read', { session: 'session-of-bob' });
      await connected(bob);
      await until(() => shown.length > 0, 'the count of before');
      const late = send('o1');
      await way.holds();
      assert.equal((await send('o2')).status, 200);
      way.release();
      assert.equal((await late).status, 200);
      assert.equal((await send('o3')).status, 200);
      await until(() => shown.at(-1) === 3, () => `the last count; shown: ${shown}`);
      assert.deepEqual(shown, [0, 2, 3]);
      bob.disconnect();
      await other.stop();
      way.stop();
    });

    test('what the application cannot mean is refused', async () => {
      for (const [where, body] of [
        ['/notify', {}], ['/notify', 'no JSON'], ['/notify', { id: 'x', users: 7, text: '' }],
        ['/read', { session: 'made up' }], ['/ticket', {}], ['/ticket', []],
      ]) {
        assert.equal((await application.post(where, body)).status, 400, `${where} ${JSON.stringify(body)}`);
      }
      assert.equal((await application.post('/nowhere', {})).status, 404);
      assert.equal((await application.post('/trunkline/nowhere', {}, { Authorization: 'Bearer key-of-the-hooks' })).status, 404);
    });

    // --- tunnel

    test('tunnel: a ticket lets one client in, which is echoed, spoken to, and told of when it leaves', async () => {
      const url = `ws://${daemon.address}/tunnel/echo`;
      assert.equal(await refused(url), 403);
      assert.equal(await refused(`${url}?ticket=made-up`), 403);
      const { answer } = await application.post('/ticket', { session: 'session-of-bob' });
      assert.ok(answer.url.startsWith(`${url}?ticket=`), answer.url);
      const { socket, got } = await tunnel(answer.url);
      await got(['hello bob']);
      assert.equal(await refused(answer.url), 403, 'a ticket is good once');
      const bytes = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
      socket.send('grüße');
      socket.send(bytes);
      socket.send('{"a":1}');
      await got(['hello bob', 'grüße', bytes, '{"a":1}']);
      const [[connection, state]] = Object.entries((await application.state()).tunnels);
      assert.deepEqual(state, { user: 'bob', code: null });
      const speak = async (text) => (await application.post('/speak', { connection, text })).answer.status;
      assert.equal(await speak('unasked: ä'), 204);
      await got(['hello bob', 'grüße', bytes, '{"a":1}', 'unasked: ä']);
      socket.close(4001, 'done');
      await until(async () => (await application.state()).tunnels[connection].code !== null, 'the close is told');
      assert.deepEqual((await application.state()).tunnels[connection], { user: 'bob', code: 4001 });
      assert.equal(await speak('too late'), 410);
    });

    // --- last: another run of the daemon

    test('trunkline is restarted: counts and events go on, though all numbers begin at 1', async () => {
      const shown = [];
      const ann = client('ann');
      watchUnread(ann, (count) => shown.push(count));
      await application.post('/read', { session: 'session-of-ann' });
      await connected(ann);
      await notify('r1', ['ann']);
      await until(() => shown.at(-1) === 1, 'the count');
      const again = next(ann, 'connected');
      daemon = await application.restart();
      const { client: id } = await again;
      await notify('r2', ['ann']);
      await until(() => shown.at(-1) === 2, () => `the count of the new run; shown: ${shown}`);
      assert.deepEqual(shown, [0, 1, 2]);
      const seen = await until(async () => {
        const { told, last_seen: seen } = await application.state();
        const response = await fetch(`${daemon.http}/api/events`, { headers: { 'X-API-Key': EXAMPLE_KEY } });
        const { epoch, last, events } = await response.json();
        const event = events.find((one) => one.client === id);
        return event && told.epoch === epoch && told.seq === last && { ann: seen.ann, event };
      }, 'the backend is told by the new run');
      assert.equal(seen.ann, seen.event.time_ms);
      ann.disconnect();
    });
  });
}

for (const language of Object.keys(languages)) {
  test(`the backend in ${language} says so when trunkline is not there`, async () => {
    // Nobody listens there: a port of the discard service.
    const application = await Application.start(language, '127.0.0.1:9');
    const { status, answer } = await application.post('/notify', { id: 'n', users: ['ann'], text: 'x' });
    assert.equal(status, 502, answer);
    await application.stop();
  });
}

describe('docs/backend.md', () => {
  const read = (name) => readFileSync(new URL(`../../${name}`, import.meta.url), 'utf8');
  const text = read('docs/backend.md');
  const fenced = [...text.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].map(([, kind, body]) => ({ kind, body }));
  const of = (kind) => fenced.filter((block) => block.kind === kind).map(({ body }) => body);
  const sources = {
    python: read('tests/backends/python/backend.py'),
    js: read('tests/backends/node/backend.mjs') + read('tests/backends/page.mjs'),
    toml: read('tests/backends/trunkline.toml'),
  };

  for (const [kind, source] of Object.entries(sources)) {
    test(`what it quotes in ${kind} is what the tests run`, () => {
      const long = of(kind).filter((body) => body.split('\n').length > 4);
      assert.ok(long.length >= 2, `${long.length} blocks`);
      for (const body of long) assert.ok(source.includes(body), body);
    });
  }

  test('both backends are short enough to be read, and are quoted alike', () => {
    for (const name of ['python/backend.py', 'node/backend.mjs']) {
      const lines = read(`tests/backends/${name}`).split('\n').length - 1;
      assert.ok(lines <= 250, `${name}: ${lines}`);
    }
    const names = (kind, pattern) => of(kind).flatMap((body) => [...body.matchAll(pattern)].map(([, name]) => name));
    const snake = (name) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
    const inNode = names('js', /^(?:async )?function (\w+)/gm).map(snake);
    assert.deepEqual(names('python', /^def (\w+)/gm), inNode);
  });

  test('a sequence of each is drawn', () => {
    const drawn = of('mermaid');
    assert.equal(drawn.length, 3);
    // Line by line what the drawing knows; '#' and ';' would end a message.
    const known = /^ {4}(participant \w+ as [\w ]+|\w+(->>|-->>|--x)\w+: [^#;]+)$/;
    for (const body of drawn) {
      const [head, ...lines] = body.trimEnd().split('\n');
      assert.equal(head, 'sequenceDiagram');
      for (const line of lines) assert.match(line, known);
      const declared = lines.filter((line) => line.includes('participant')).map((line) => line.trim().split(' ')[1]);
      for (const [, from, to] of body.matchAll(/(\w+)(?:->>|-->>|--x)(\w+):/g)) {
        assert.ok(declared.includes(from) && declared.includes(to), `${from} ${to}`);
      }
    }
  });

  test('the keys of its tables are all keys of a section, and no others', () => {
    const fields = (file, name) => {
      const [, body] = read(file).match(new RegExp(`pub struct ${name} \\{([^]*?)\n    \\}`));
      return [...body.matchAll(/^ +pub (\w+):/gm)].map(([, key]) => key).sort();
    };
    for (const [title, struct, more] of [
      ['[[hook]]', 'HookOptions', []], ['[[tunnel]]', 'TunnelSettings', ['name']], ['[events]', 'EventSettings', []],
      ['[client.token]', 'TokenSettings', []],
    ]) {
      const table = text.split(`| \`${title}\` |`)[1].split('\n\n')[0];
      const rows = table.split('\n').slice(2).map((row) => row.split('|')[1]);
      const keys = rows.flatMap((cell) => [...cell.matchAll(/`(\w+)`/g)].map(([, key]) => key)).sort();
      assert.deepEqual(keys, [...fields('src/config/sections.rs', struct), ...more].sort(), title);
    }
  });

  describe('its commands', () => {
    let application;
    let ann;
    let spoken;
    let closed;
    before(async () => {
      application = await Application.behind('node');
      ann = sdk(application.daemon.ws, { data: { session: 'session-of-ann' } });
      await connected(ann);
      const { answer } = await application.post('/ticket', { session: 'session-of-ann' });
      spoken = await tunnel(answer.url);
      closed = once(spoken.socket, 'close');
    });
    after(async () => {
      ann.disconnect();
      assert.equal(await application.stop(), 0);
    });

    /** The shape of JSON: its keys, and the kinds of what stands there. */
    const shape = (value) => {
      if (Array.isArray(value)) return value.slice(0, 1).map(shape);
      if (value === null || typeof value !== 'object') return value === null ? 'null' : typeof value;
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, shape(inner)]));
    };
    const commands = [...text.matchAll(/^```sh\n([^]*?)^```$(?:\n```json\n([^]*?)^```$)?/gm)];

    test('there is one for each thing to be asked', () => {
      const all = commands.map(([, line]) => line).join('');
      for (const part of [
        '/notify', '/api/push', '/api/publish', 'spread_ms', '/api/events', '/tickets', '-X DELETE', 'gentoken', 'checktoken',
      ]) {
        assert.ok(all.includes(part), part);
      }
    });

    for (const [, line, answer] of commands) {
      test(line.trim().split('\n').at(-1), async () => {
        const [connection] = Object.keys((await application.state()).tunnels);
        const command = line
          .replaceAll('127.0.0.1:8000', application.daemon.address)
          .replaceAll('127.0.0.1:3000', application.address)
          .replaceAll('/connections/ID', `/connections/${connection}`)
          .replaceAll(/(^|\()trunkline /gm, `$1"${binary}" `);
        const { stdout } = await run('bash', ['-ec', command]);
        if (answer) assert.deepEqual(shape(JSON.parse(stdout)), shape(JSON.parse(answer)));
        else assert.equal(stdout, '');
      });
    }

    test('and they have done what it says', async () => {
      assert.deepEqual(ann.state, 'connected');
      await spoken.got(['hello ann', 'hello']);
      const [code, reason] = await within(closed, 'the tunnel is closed');
      assert.deepEqual([code, reason.toString()], [4001, 'over']);
    });
  });
});
