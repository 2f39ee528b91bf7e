// Tunnels: npm `ws` as any client that speaks a protocol of its own, and an HTTP server of node as its backend.

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';

import WebSocket from 'ws';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, sdk, token } from './support/sdk.mjs';
import { CLOSE, PING, RawSocket, TEXT, frame } from './support/socket.mjs';
import { Backend, Client, refused } from './support/tunnel.mjs';
import { sleep, until } from './support/wait.mjs';

for (const driver of drivers) {
  describe(`tunnels on ${driver}`, () => {
    let backend;
    let daemon;
    let base;

    before(async () => {
      backend = await Backend.start();
      const tunnel = [
        {
          name: 'game',
          endpoint: backend.url,
          timeout: '2s',
          forward_headers: ['Cookie', 'X-One'],
          static_headers: ['Authorization: Bearer of-the-daemon'],
          subprotocols: ['v2', 'v1'],
          messages_waiting_max: 4,
          bytes_waiting_max: '64KiB',
        },
        { name: 'other', endpoint: backend.url },
        { name: 'narrow', endpoint: backend.url, timeout: '2s', in_flight_max: 1 },
        { name: 'wide', endpoint: backend.url, timeout: '60s', messages_waiting_max: 100, bytes_waiting_max: '2MiB' },
        // Nobody listens there: a port of the discard service.
        { name: 'down', endpoint: 'http://127.0.0.1:9/', timeout: '300ms' },
      ];
      const client = { ping_interval: '2s', pong_timeout: '1500ms', outbox_bytes_max: '256KiB' };
      daemon = await Daemon.start({ driver, config: configuration({ tunnel, client }), args: ['--shards', '2'] });
      base = `ws://${daemon.address}/tunnel/`;
    });
    after(async () => {
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });
    beforeEach(() => backend.reset());

    const call = async (method, path, { body, type = 'text/plain', key = API_KEY } = {}) => {
      const headers = { ...(key && { 'X-API-Key': key }), ...(type && body !== undefined && { 'Content-Type': type }) };
      const response = await fetch(`${daemon.http}/api/${path}`, { method, headers, body });
      const text = await response.text();
      return { status: response.status, headers: response.headers, answer: text && JSON.parse(text) };
    };
    const push = (id, body, type) => call('POST', `connections/${id}`, { body, type });
    const ticket = (name, body) => call('POST', `tunnel/${name}/tickets`, { body: JSON.stringify(body) });
    const idOf = () => backend.of('connect')[0].connection;

    // --- connect

    test('the backend is asked who connects, names the user, chooses the subprotocol and speaks first', async () => {
      backend.connect = (_, response) => response.end(JSON.stringify({
        user: 'grün & co%', subprotocol: 'v3', message: { hello: [1] }, unknown: true,
      }));
      const options = { headers: { Cookie: 'a=1', 'X-One': 'one', 'X-Two': 'two' } };
      const client = await Client.connect(`${base}game?room=7&x=%20`, ['v1', 'v3'], options);
      const { connection, headers, json } = backend.of('connect')[0];
      assert.deepEqual(json, {
        type: 'connect', connection, tunnel: 'game', authenticated: false, query: 'room=7&x=%20',
        headers: { cookie: 'a=1', 'x-one': 'one' }, subprotocols: ['v1', 'v3'], address: '127.0.0.1',
      });
      assert.equal(headers.authorization, 'Bearer of-the-daemon');
      assert.equal(headers['x-trunkline-tunnel'], 'game');
      assert.equal(backend.of('connect')[0].request.url, '/game?x=1');
      assert.equal(client.ws.protocol, 'v3');
      assert.deepEqual(await client.got(1), ['{"hello":[1]}']);
      client.ws.send('x');
      await client.got(2);
      assert.equal(decodeURIComponent(backend.of('message')[0].headers['x-trunkline-user']), 'grün & co%');
      client.ws.close(4001, 'done');
      assert.deepEqual(await backend.closed(), {
        type: 'close', connection, tunnel: 'game', user: 'grün & co%', address: '127.0.0.1', code: 4001, reason: 'done',
        messages: 1, undelivered: 0,
      });
    });

    test('without a choice the client gets its first that is spoken here, or none', async () => {
      const both = await Client.connect(`${base}game`, ['v9', 'v1', 'v2']);
      assert.equal(both.ws.protocol, 'v1');
      const none = await Client.connect(`${base}game`);
      assert.equal(none.ws.protocol, '');
      both.ws.terminate();
      none.ws.terminate();
      await until(() => backend.of('close').length === 2, 'both are told');
      for (const { json } of backend.of('close')) assert.equal(json.code, 1006);
    });

    const answers = {
      'a 401 goes to the client': [401, 401],
      'a 403 goes to the client': [403, 403],
      'another 4xx is a 403': [404, 403],
      'a 500 is a 503': [500, 503],
      'a redirect is not followed and a 503': [302, 503],
    };
    for (const [name, [status, wanted]] of Object.entries(answers)) {
      test(`connect: ${name}`, async () => {
        backend.connect = (_, response) => response.writeHead(status, { Location: backend.url }).end('{"user":"x"}');
        const { status: got, headers } = await refused(`${base}game`);
        assert.equal(got, wanted);
        assert.equal(Boolean(headers['retry-after']), wanted === 503);
        assert.equal(backend.asked.length, 1);
      });
    }

    const nonsense = {
      'no JSON': 'let it in',
      'a list': '["u"]',
      'another type of user': '{"user":7}',
      'a user with a line break': '{"user":"a\\nb"}',
      'a subprotocol that was not offered': '{"subprotocol":"v2"}',
      'a body without end': `{"user":"${'x'.repeat(300_000)}"}`,
    };
    for (const [name, body] of Object.entries(nonsense)) {
      test(`connect: an answer that is ${name} lets nobody in`, async () => {
        backend.connect = (_, response) => response.end(body);
        assert.equal((await refused(`${base}game`, ['v1'])).status, 503);
      });
    }

    test('connect: a backend that hangs or is down is a 503', async () => {
      backend.connect = () => {};
      assert.equal((await refused(`${base}game`)).status, 503);
      assert.equal((await refused(`${base}down`)).status, 503);
      for (const why of ['no answer in time', 'no connection']) {
        // The log is written by a thread of its own.
        await until(() => daemon.output.includes(`the backend of a tunnel failed: ${why}`), () => daemon.output);
      }
    });

    test('connect: who waits behind others for its turn too long is a 503, and the next one gets in', async () => {
      backend.connect = () => {};
      const both = await Promise.all([refused(`${base}narrow`), refused(`${base}narrow`)]);
      assert.deepEqual(both.map(({ status }) => status), [503, 503]);
      backend.reset();
      (await Client.connect(`${base}narrow`)).ws.close();
      assert.equal((await backend.closed()).code, 1005);
    });

    test('what is no handshake for a tunnel is refused by name', async () => {
      assert.equal((await refused(`${base}unknown`)).status, 404);
      assert.equal((await refused(`${base}game/more`)).status, 404);
      const { status, headers } = await fetch(`${daemon.http}/tunnel/game`);
      assert.deepEqual([status, headers.get('sec-websocket-version')], [426, '13']);
      assert.equal((await fetch(`${daemon.http}/tunnel/game`, { method: 'POST', body: 'x' })).status, 405);
      const foreign = await refused(`${base}game`, [], { origin: 'https://elsewhere.example' });
      assert.deepEqual([foreign.status, foreign.problem.detail], [403, 'origin is not allowed']);
      assert.equal(backend.asked.length, 0);
    });

    test('a client that leaves before it is let in: the backend hears of its end', async () => {
      let held;
      backend.connect = (_, response) => { held = response; };
      const ws = new WebSocket(`${base}game`);
      ws.on('error', () => {});
      await until(() => held, 'the backend is asked');
      const connections = async () => (await daemon.metrics()).get('trunkline_connections_closed_total');
      const closed = await connections();
      ws.terminate();
      await until(async () => (await connections()) > closed, 'it has left');
      held.end('{"user":"u"}');
      const { connection, user, code, messages } = await backend.closed();
      assert.deepEqual([connection, user, code, messages], [idOf(), 'u', 1006, 0]);
    });

    // --- messages

    test('a thousand messages, text and binary, come back byte for byte and in order', async () => {
      const client = await Client.connect(`${base}game`);
      const sent = [];
      for (let n = 0; n < 1000; n += 1) {
        const bytes = Buffer.from(Array.from({ length: n % 300 + 1 }, (_, at) => (n * 7 + at * 13) % 256));
        sent.push(n % 2 ? bytes : `${n} grüße \u0000\u{1f600} ${'x'.repeat(n % 500)}`);
      }
      for (const message of sent) client.ws.send(message);
      assert.deepEqual(await client.got(1000), sent);
      assert.deepEqual(backend.of('message').map(({ sequence }) => sequence), sent.map((_, n) => n + 1));
      client.ws.close();
      assert.equal((await backend.closed()).messages, 1000);
      assert.equal(backend.asked.at(-1).type, 'close');
    });

    test('fragments arrive as one message; an answer without body is none', async () => {
      backend.message = (_, response) => response.writeHead(204).end();
      const client = await Client.connect(`${base}game`);
      client.ws.send('one ', { fin: false });
      client.ws.send('message', { fin: true });
      client.ws.send('');
      await until(() => backend.of('message').length === 2, 'both arrive');
      assert.deepEqual(backend.of('message').map(({ body }) => body.toString()), ['one message', '']);
      client.ws.close();
      await backend.closed();
      assert.deepEqual(client.messages, []);
    });

    test('a client is not read from while its backend does not keep up, not closed for it, and loses nothing', async () => {
      const COUNT = 600;
      let release;
      const released = new Promise((done) => { release = done; });
      backend.message = async (one, response) => {
        await released;
        response.end();
      };
      // The first answer comes within the timeout; the client has waited longer than two pings by then.
      const client = await Client.connect(`${base}other`);
      for (let n = 1; n <= COUNT; n += 1) client.ws.send(`${n} ${'x'.repeat(32 * 1024)}`);
      await until(async () => (await daemon.metrics()).get('trunkline_tunnel_pauses_total') > 0, 'reading pauses');
      await sleep(4500);
      assert.ok(client.ws.bufferedAmount > 0, 'the rest waits on the client\'s side');
      const { answer } = await call('GET', `connections/${idOf()}`);
      // What came with the last read is taken in beyond the bound.
      assert.ok(answer.messages_waiting >= 1 && answer.bytes_waiting <= 512 * 1024, JSON.stringify(answer));
      assert.equal(backend.of('message').length, 1, 'one at a time');
      release();
      await until(() => backend.of('message').length === COUNT, () => `all arrive: ${backend.of('message').length}`);
      assert.deepEqual(
        backend.of('message').map(({ body }) => parseInt(body, 10)),
        Array.from({ length: COUNT }, (_, n) => n + 1),
      );
      client.ws.close();
      assert.equal((await backend.closed()).code, 1005);
    });

    test('what a client said before it left still arrives, then its end', async () => {
      let release;
      const released = new Promise((done) => { release = done; });
      backend.message = async (_, response) => {
        await released;
        response.end('an answer for nobody');
      };
      const client = await Client.connect(`${base}game`);
      // One more, and the client would not be read from: its Close would wait.
      for (let n = 1; n <= 4; n += 1) client.ws.send(`${n}`);
      client.ws.close(1000, 'bye');
      await client.closed();
      await until(() => backend.of('message').length === 1, 'the first arrives');
      assert.equal((await push(idOf(), 'late')).status, 410);
      release();
      const { code, reason, messages, undelivered } = await backend.closed();
      assert.deepEqual([code, reason, messages, undelivered], [1000, 'bye', 4, 0]);
      assert.deepEqual(backend.asked.slice(1).map(({ type, body }) => (type === 'message' ? `${body}` : type)),
        ['1', '2', '3', '4', 'close']);
    });

    test('a backend is never asked more at a time than it may be', async () => {
      let now = 0;
      let most = 0;
      const usual = backend.message;
      backend.message = async (one, response) => {
        now += 1;
        most = Math.max(most, now);
        await sleep(1);
        now -= 1;
        usual(one, response);
      };
      const clients = [];
      for (let n = 0; n < 5; n += 1) clients.push(await Client.connect(`${base}narrow`));
      for (let n = 0; n < 10; n += 1) clients.forEach(({ ws }) => ws.send(`${n}`));
      for (const client of clients) {
        assert.deepEqual(await client.got(10), Array.from({ length: 10 }, (_, n) => `${n}`));
        client.ws.close();
      }
      assert.equal(most, 1);
      await until(() => backend.of('close').length === 5, 'all are told');
    });

    test('what those who left still have for a silent backend is bounded, and what is dropped is told', async () => {
      const CLIENTS = 80;
      const MESSAGES = 17;
      const held = [];
      backend.message = (_, response) => held.push(response);
      const clients = [];
      for (let n = 0; n < CLIENTS; n += 1) clients.push(await Client.connect(`${base}wide`));
      // 960 KiB of each wait: together far more than the 16 MiB that each of two shards keeps.
      for (const { ws } of clients) {
        for (let n = 0; n < MESSAGES; n += 1) ws.send('x'.repeat(60 * 1024));
        ws.close();
      }
      await Promise.all(clients.map((client) => client.closed()));
      await until(() => held.length === CLIENTS, 'the first of each arrives');
      backend.message = (_, response) => response.end();
      for (const response of held) response.end();
      await until(() => backend.of('close').length === CLIENTS, 'every end is told');
      const told = backend.of('close').map(({ json }) => json);
      for (const { messages, undelivered } of told) assert.equal(messages + undelivered, MESSAGES);
      assert.ok(told.some(({ undelivered }) => undelivered === 0), 'some had room');
      assert.ok(told.some(({ undelivered }) => undelivered > 0), 'some had none');
      const arrived = told.reduce((sum, { messages }) => sum + messages, 0);
      assert.equal(backend.of('message').length, arrived);
    });

    test('a client that speaks before it is let in is heard once it is', async () => {
      let held;
      backend.connect = (_, response) => { held = response; };
      const raw = await RawSocket.connect(daemon.port);
      raw.write(Buffer.concat([
        Buffer.from('GET /tunnel/game HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
          'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n'),
        frame(TEXT, 'with the handshake'),
      ]));
      await until(() => held, 'the backend is asked');
      raw.write(frame(TEXT, 'behind it'));
      held.end();
      assert.equal((await raw.head()).status, 101);
      for (const wanted of ['with the handshake', 'behind it']) {
        assert.equal((await raw.frame()).payload.toString(), wanted);
      }
      raw.write(frame(CLOSE));
      assert.equal((await backend.closed()).code, 1005);
    });

    test('a message whose connection breaks, or that the backend puts off, is handed over again', async () => {
      let tries = 0;
      const usual = backend.message;
      backend.message = (one, response) => {
        tries += 1;
        if (tries === 1) one.request.socket.destroy();
        else if (tries === 2) response.writeHead(503).end();
        else usual(one, response);
      };
      const client = await Client.connect(`${base}game`);
      client.ws.send('a');
      client.ws.send('b');
      assert.deepEqual(await client.got(2), ['a', 'b']);
      assert.deepEqual(backend.of('message').map(({ sequence }) => sequence), [1, 1, 1, 2]);
      client.ws.close();
      await backend.closed();
    });

    const failures = {
      'a 500': (_, response) => response.writeHead(500).end('no'),
      'a 404': (_, response) => response.writeHead(404).end(),
      'a redirect': (_, response) => response.writeHead(307, { Location: backend.url }).end(),
      'a huge answer': (_, response) => response.end('x'.repeat(300_000)),
      'text that is none': (_, response) => response.writeHead(200, { 'Content-Type': 'text/plain' }).end(Buffer.from([0xff])),
      'an answer that breaks off': (one, response) => {
        response.writeHead(200, { 'Content-Length': 100 }).write('half');
        setImmediate(() => one.request.socket.destroy());
      },
      'no answer': () => {},
    };
    for (const [name, answer] of Object.entries(failures)) {
      test(`message: ${name} ends the connection with 1011, and what was lost is told`, async () => {
        backend.message = answer;
        const client = await Client.connect(`${base}game`);
        for (const text of ['a', 'b', 'c']) client.ws.send(text);
        assert.equal((await client.closed()).code, 1011);
        const { code, messages, undelivered } = await backend.closed();
        assert.deepEqual([code, messages], [1011, 1]);
        // How many had arrived by then is the sockets' matter.
        assert.ok(undelivered >= 1 && undelivered <= 3, `${undelivered}`);
        assert.equal(backend.of('message').length, 1);
      });
    }

    test('message: a 410 ends the connection in order', async () => {
      backend.message = (_, response) => response.writeHead(410).end();
      const client = await Client.connect(`${base}game`);
      client.ws.send('a');
      assert.equal((await client.closed()).code, 1000);
      assert.equal((await backend.closed()).code, 1000);
    });

    test('a message that is too long is 1009, text that is none is 1007: the backend hears of both', async () => {
      const long = await Client.connect(`${base}game`);
      long.ws.send('x'.repeat(270_000));
      assert.equal((await long.closed()).code, 1009);
      assert.equal((await backend.closed()).code, 1009);
      backend.reset();
      const raw = await RawSocket.upgrade(daemon.port, '/tunnel/game');
      raw.write(Buffer.from([0x81, 0x81, 0, 0, 0, 0, 0xff]));
      assert.equal((await raw.closed()).code, 1007);
      assert.equal((await backend.closed()).code, 1007);
    });

    test('a message after the Close is not heard', async () => {
      const raw = await RawSocket.upgrade(daemon.port, '/tunnel/game');
      raw.write(Buffer.from([0x88, 0x80, 0, 0, 0, 0, 0x81, 0x81, 0, 0, 0, 0, 0x61]));
      assert.equal((await raw.frame()).opcode, CLOSE);
      assert.equal((await backend.closed()).messages, 0);
      assert.equal(backend.of('message').length, 0);
    });

    test('a close is told again until the backend takes it', async () => {
      let tries = 0;
      backend.close = (_, response) => {
        tries += 1;
        response.writeHead(tries < 3 ? 500 : 200).end();
      };
      (await Client.connect(`${base}game`)).ws.close();
      await until(() => tries === 3, 'the third try');
    });

    test('a client that does not answer pings is closed; one that does is not', async () => {
      const client = await Client.connect(`${base}game`);
      let pings = 0;
      client.ws.on('ping', () => { pings += 1; });
      const raw = await RawSocket.upgrade(daemon.port, '/tunnel/game');
      assert.equal((await raw.frame()).opcode, PING);
      assert.deepEqual(await raw.closed(), { code: 1011, reason: 'no pong' });
      await until(() => pings >= 3, 'three pings');
      assert.equal(client.ws.readyState, WebSocket.OPEN);
      client.ws.close();
      await until(() => backend.of('close').length === 2, 'both are told');
    });

    // --- from the backend

    test('the backend speaks, asks and closes by itself; after that the connection is gone', async () => {
      backend.connect = (_, response) => response.end('{"user":"u1"}');
      const client = await Client.connect(`${base}game`);
      const id = idOf();
      const all = Buffer.from(Array.from({ length: 256 }, (_, at) => at));
      for (const [body, type] of [['text', 'text/plain'], ['{"a":1}', 'application/json'], [all, 'application/octet-stream']]) {
        assert.equal((await push(id, body, type)).status, 204);
      }
      assert.deepEqual(await client.got(3), ['text', '{"a":1}', all]);
      const { status, answer } = await call('GET', `connections/${id}`);
      assert.equal(status, 200);
      assert.ok(Math.abs(answer.connected_at - Date.now() / 1000) < 3600);
      delete answer.connected_at;
      assert.deepEqual(answer, {
        connection: id, tunnel: 'game', user: 'u1', address: '127.0.0.1', messages: 0, messages_waiting: 0, bytes_waiting: 0, bytes_owed: 0,
      });
      assert.equal((await call('DELETE', `connections/${id}?code=4007&reason=over%20now`)).status, 204);
      assert.deepEqual(await client.closed(), { code: 4007, reason: 'over now' });
      const { code, reason } = await backend.closed();
      assert.deepEqual([code, reason], [4007, 'over now']);
      for (const gone of [push(id, 'x'), call('GET', `connections/${id}`), call('DELETE', `connections/${id}`)]) {
        const { status: told, answer: problem } = await gone;
        assert.deepEqual([told, problem.status, problem.detail], [410, 410, 'the connection has ended']);
      }
    });

    test('a push to the newest connection of a user is for the newest that takes messages', async () => {
      backend.connect = (_, response) => response.end('{"user":"both"}');
      const pushed = (data) => daemon.api('push', { user: 'both', data, newest: true });
      const tunnelled = [await Client.connect(`${base}game`)];
      assert.deepEqual(await pushed(0), { connections: 0, users: 0, absent: ['both'] });
      const client = sdk(daemon.ws, { token: token('both') });
      const messages = [];
      client.on('message', ({ data }) => messages.push(data));
      await connected(client);
      for (let n = 0; n < 2; n += 1) tunnelled.push(await Client.connect(`${base}game`));
      assert.deepEqual(await pushed(1), { connections: 1, users: 1, absent: [] });
      await until(() => messages.length === 1, 'the one that takes messages has it');
      client.disconnect();
      tunnelled.forEach(({ ws }) => ws.close());
      await until(() => backend.of('close').length === 3, 'all are told');
    });

    test('what is wrong with a call is said by name', async () => {
      const client = await Client.connect(`${base}game`);
      const id = idOf();
      const sdk = await RawSocket.client(daemon.port);
      const wrong = [
        [push('x', 'm'), 400, /no id/],
        [push('01234567-89ab-4cde-8f01-23456789abcd', 'm'), 410, /ended/],
        [push(sdk.connected.client, 'm'), 404, /no tunnel/],
        [call('POST', `connections/${id}`, { body: 'm', key: null }), 401, /API key/],
        [call('GET', `connections/${id}`, { key: 'wrong' }), 401, /API key/],
        [call('DELETE', `connections/${id}`, { key: null }), 401, /API key/],
        [push(id, 'a=b', 'application/x-www-form-urlencoded'), 415, /Content-Type/],
        [push(id, Buffer.from([0xff]), 'text/plain'), 400, /UTF-8/],
        [push(id, 'x'.repeat(140_000), 'text/plain'), 413, /131072/],
        [call('DELETE', `connections/${id}?code=1005`), 400, /code/],
        [call('DELETE', `connections/${id}?code=x`), 400, /code|digit/],
        [call('DELETE', `connections/${id}?reason=${'x'.repeat(124)}`), 400, /123/],
        [call('DELETE', `connections/${id}?kode=1000`), 400, /kode/],
        [call('PUT', `connections/${id}`, { body: 'm' }), 405, /method/],
      ];
      for (const [asked, status, detail] of wrong) {
        const { status: told, answer } = await asked;
        assert.equal(told, status, `${detail}: ${JSON.stringify(answer)}`);
        assert.match(answer.detail, detail);
      }
      assert.equal((await push(id, 'still here')).status, 204);
      assert.deepEqual(await client.got(1), ['still here']);
      sdk.destroy();
      client.ws.close();
      await backend.closed();
    });

    test('a client that does not read is told of, not closed, and gets what was taken', async () => {
      const client = await Client.connect(`${base}other`);
      const id = idOf();
      client.ws._socket.pause();
      const body = (n) => `${n} ${'x'.repeat(100_000)}`;
      let taken = 0;
      // As fast as the client could answer pings: it does not, and is closed as slow only some pings later.
      for (;;) {
        const { status, headers } = await push(id, body(taken));
        if (status === 429) {
          assert.equal(headers.get('retry-after'), '1');
          break;
        }
        assert.equal(status, 204);
        taken += 1;
      }
      client.ws._socket.resume();
      const got = await client.got(taken);
      got.forEach((message, n) => assert.equal(message, body(n)));
      client.ws.close();
      await backend.closed();
    });

    test('the API that disconnects a user disconnects its tunnels', async () => {
      backend.connect = (_, response) => response.end('{"user":"u7"}');
      const client = await Client.connect(`${base}game`);
      await daemon.api('disconnect', { user: 'somebody' });
      await daemon.api('disconnect', { user: 'u7', disconnect: { code: 4100, reason: 'out' } });
      assert.deepEqual(await client.closed(), { code: 4100, reason: 'out' });
      assert.equal((await backend.closed()).code, 4100);
    });

    // --- tickets

    test('a ticket lets one connection in, with the user and the data of its maker', async () => {
      const { status, answer } = await ticket('game', { user: 'u9', data: { seat: [3] } });
      assert.equal(status, 200);
      assert.equal(answer.url, `/tunnel/game?ticket=${answer.ticket}`);
      assert.ok(Math.abs(answer.expires_at - 60 - Date.now() / 1000) < 3600);
      const client = await Client.connect(`ws://${daemon.address}${answer.url}&room=1`);
      const { json } = backend.of('connect')[0];
      assert.deepEqual([json.user, json.authenticated, json.data, json.query], ['u9', true, { seat: [3] }, 'room=1']);
      assert.equal((await refused(`ws://${daemon.address}${answer.url}`)).status, 403);
      assert.equal(backend.of('connect').length, 1, 'the backend is not asked about a bad ticket');
      client.ws.close();
      assert.equal((await backend.closed()).user, 'u9');
    });

    test('a ticket of another tunnel, one that was made up and one that has expired let nobody in', async () => {
      const { answer } = await ticket('other', { user: 'u' });
      const short = await ticket('game', { user: 'u', ttl_s: 1 });
      for (const bad of [answer.ticket, 'A'.repeat(22), '', '%00']) {
        assert.equal((await refused(`${base}game?ticket=${bad}`)).status, 403, bad);
      }
      await sleep(1100);
      assert.equal((await refused(`ws://${daemon.address}${short.answer.url}`)).status, 403);
      assert.equal(backend.asked.length, 0);
      (await Client.connect(`ws://${daemon.address}${answer.url}`)).ws.close();
      await backend.closed();
    });

    test('a ticket that a failing backend has not seen is good once more', async () => {
      const { answer } = await ticket('game', { user: 'u' });
      backend.connect = (_, response) => response.writeHead(500).end();
      assert.equal((await refused(`ws://${daemon.address}${answer.url}`)).status, 503);
      backend.reset();
      (await Client.connect(`ws://${daemon.address}${answer.url}`)).ws.close();
      assert.equal((await backend.closed()).user, 'u');
    });

    test('what is wrong with a ticket is said by name', async () => {
      const wrong = [
        [ticket('nowhere', { user: 'u' }), 404, /tunnel/],
        [ticket('game', {}), 400, /user/],
        [ticket('game', { user: '' }), 400, /user/],
        [ticket('game', { user: 7 }), 400, /string/],
        [ticket('game', { user: 'a\nb' }), 400, /user/],
        [ticket('game', { user: 'x'.repeat(256) }), 400, /255/],
        [ticket('game', { user: 'u', ttl_s: 0 }), 400, /ttl_s/],
        [ticket('game', { user: 'u', ttl_s: 3601 }), 400, /ttl_s/],
        [ticket('game', { user: 'u', data: 'x'.repeat(5000) }), 400, /4096/],
        [ticket('game', { user: 'u', tll_s: 1 }), 400, /tll_s/],
        [ticket('game', ['u']), 400, /object/],
        [call('POST', 'tunnel/game/tickets', { body: '{"user":"u"}', key: null }), 401, /API key/],
      ];
      for (const [asked, status, detail] of wrong) {
        const { status: told, answer } = await asked;
        assert.equal(told, status, JSON.stringify(answer));
        assert.match(answer.detail, detail);
      }
    });

    test('the address behind a proxy is in every request, and masked where people read it', async () => {
      const tunnel = [{ name: 'game', endpoint: backend.url }];
      const masked = await Daemon.start({
        driver, config: configuration({ tunnel, trusted_networks: ['127.0.0.1'], address_mask: 'network' }),
      });
      const address = '198.51.100.7';
      const headers = { 'X-Forwarded-For': address };
      const client = await Client.connect(`ws://${masked.address}/tunnel/game`, [], { headers });
      client.ws.send('x');
      await client.got(1);
      const id = idOf();
      const described = await fetch(`${masked.http}/api/connections/${id}`, { headers: { 'X-API-Key': API_KEY } });
      assert.equal((await described.json()).address, '198.51.100.0/24');
      // The message that is behind the one that the backend has goes when its client is gone.
      let release;
      backend.message = (_, response) => { release = () => response.end(); };
      client.ws.send('y');
      await until(() => release, 'the backend has one');
      client.ws.send('z');
      client.ws.close();
      await client.closed();
      const first = release;
      release = undefined;
      first();
      await until(() => release, 'the backend has the last one');
      release();
      assert.equal((await backend.closed()).address, address);

      let held;
      backend.connect = (_, response) => { held = response; };
      const early = new WebSocket(`ws://${masked.address}/tunnel/game`, { headers });
      early.on('error', () => {});
      await until(() => held, 'the backend is asked');
      const closed = async () => (await masked.metrics()).get('trunkline_connections_closed_total');
      const before = await closed();
      early.terminate();
      await until(async () => (await closed()) > before, 'it has left before it was answered');
      held.end();
      await until(() => backend.of('close').length === 2, 'both ends are told');
      for (const { json } of [...backend.of('connect'), ...backend.of('close')]) assert.equal(json.address, address);
      assert.equal(backend.asked.length, 7);
      for (const { headers: told } of backend.asked) assert.equal(told['x-trunkline-address'], address);
      assert.equal(await masked.stop(), 0);
    });

    test('what happened is counted', async () => {
      const metrics = await daemon.metrics();
      for (const name of [
        'trunkline_tunnels_opened_total', 'trunkline_tunnel_messages_received_total',
        'trunkline_tunnel_messages_sent_total', 'trunkline_tunnel_messages_undelivered_total',
        'trunkline_tunnel_questions_total{kind="connect",outcome="ok"}',
        'trunkline_tunnel_questions_total{kind="connect",outcome="refused"}',
        'trunkline_tunnel_questions_total{kind="connect",outcome="bad_ticket"}',
        'trunkline_tunnel_questions_total{kind="message",outcome="failed"}',
        'trunkline_api_requests_total{method="connections",code="410"}',
        'trunkline_api_requests_total{method="tickets",code="0"}',
        'trunkline_faults_total{cause="tunnel_refused"}', 'trunkline_faults_total{cause="tunnel_unavailable"}',
        'trunkline_faults_total{cause="tunnel_failed"}',
      ]) {
        assert.ok(metrics.get(name) > 0, `${name}: ${metrics.get(name)}`);
      }
      await until(async () => (await daemon.metrics()).get('trunkline_clients_active') === 0, 'nobody is left');
    });

    test('a user has no more tunnels than connections may be', async () => {
      const tunnel = [{ name: 'game', endpoint: backend.url }];
      const config = (policy) => configuration({
        tunnel, client: { user_connections_max: 2, user_connections_policy: policy },
      });
      for (const policy of ['reject', 'replace']) {
        const limited = await Daemon.start({ driver, config: config(policy), args: ['--shards', '3'] });
        const url = `ws://${limited.address}/tunnel/game`;
        backend.reset();
        backend.connect = (_, response) => response.end('{"user":"u","message":"welcome"}');
        const crowd = await Promise.all(Array.from({ length: 8 }, () => Client.connect(url)));
        const closed = [];
        crowd.forEach((client) => client.closing.then(({ code }) => closed.push(code)));
        const over = policy === 'reject' ? 3504 : 3510;
        await until(() => closed.length === 6, () => `${closed.length} of 6 are closed`);
        assert.deepEqual(new Set(closed), new Set([over]));
        const stayed = crowd.filter((client) => client.ws.readyState === WebSocket.OPEN);
        await stayed[0].got(1);
        if (policy === 'reject') {
          assert.equal(crowd.filter((client) => client.messages.length > 0).length, 2, 'only who is in is welcomed');
        }
        // The backend, which has let them in, hears how each of them ended.
        await until(() => backend.of('close').length === 6, 'six closes are told');
        assert.deepEqual(new Set(backend.of('close').map(({ json }) => json.code)), new Set([over]));
        stayed[0].ws.send('hello');
        assert.deepEqual(await stayed[0].got(2), ['welcome', 'hello']);
        stayed.forEach(({ ws }) => ws.close());
        assert.equal(await limited.stop(), 0);
      }
    });

    test('at the end clients are sent away with 1012 and the backend hears of it', async () => {
      const tunnel = [{ name: 'game', endpoint: backend.url }];
      const ending = await Daemon.start({ driver, config: configuration({ tunnel }), args: ['--shards', '2'] });
      const client = await Client.connect(`ws://${ending.address}/tunnel/game`);
      client.ws.send('last words');
      await client.got(1);
      // The close is not lost even when the backend takes its time over it.
      backend.close = (_, response) => setTimeout(() => response.end(), 500);
      assert.equal(await ending.stop(), 0);
      assert.deepEqual(await client.closed(), { code: 1012, reason: 'shutdown' });
      const [{ json }] = backend.of('close');
      assert.deepEqual([json.code, json.messages], [1012, 1]);
    });
  });
}
