// npm centrifuge, unmodified, where there is no WebSocket: streams of HTTP whose client speaks by requests of their own.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { EventSource } from 'eventsource';
import WebSocket from 'ws';

import { Backend } from './support/backend.mjs';
import { launch, open, serveSdk } from './support/browser.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { Proxy } from './support/proxy.mjs';
import { connected, over, received, sdk, subscribed, token, transports, unixNow } from './support/sdk.mjs';
import { next, sleep, until } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);

/** Three shards: a request that brings commands is seldom of the shard that has their client. */
const args = ['--shards', '3'];

for (const [driver, way] of drivers.flatMap((driver) => transports.map((way) => [driver, way]))) {
  describe(`the SDK over ${way.transport} in ${way.form} on ${driver}`, () => {
    let daemon;
    let backend;
    let proxy;
    const clients = [];
    const client = (options) => {
      const made = over(daemon.http, way, options);
      clients.push(made);
      return made;
    };

    before(async () => {
      backend = await Backend.start({
        rpc: (body) => ({ result: { data: { method: body.method, transport: body.transport, protocol: body.protocol } } }),
      });
      daemon = await Daemon.start({
        driver, args,
        config: configuration({
          client: { rpc_hook: 'rpc', ping_interval: '1s', pong_timeout: '900ms' },
          hook: backend.hooks(['rpc']),
        }),
      });
      proxy = await Proxy.to(daemon.port);
    });

    after(async () => {
      clients.forEach((each) => each.disconnect());
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('connects, and its commands are answered', async () => {
      const one = client({ token: token('ann', { info: { n: 1 } }) });
      const event = await connected(one);
      assert.equal(event.transport, way.transport);
      const room = await subscribed(one, 'room', { recoverable: true });
      await daemon.publish('room', { text: 'Ελληνικά 😀 "quoted"\n' });
      await room.publish({ by: 'the client' });
      await received(room, [{ text: 'Ελληνικά 😀 "quoted"\n' }, { by: 'the client' }]);
      assert.equal(room.seen.publications[1].info.user, 'ann');
      const { clients: present } = await room.presence();
      assert.deepEqual(Object.keys(present), [event.client]);
      assert.deepEqual(await room.presenceStats(), { numClients: 1, numUsers: 1 });
      const { publications } = await room.history({ limit: 10 });
      assert.deepEqual(publications.map((publication) => publication.offset), [1, 2]);
      const { data } = await one.rpc('who', {});
      assert.deepEqual(data, { method: 'who', transport: way.transport, protocol: way.form });
      await one.send({ one: 'way' });
      room.unsubscribe();
      await until(async () => (await daemon.api('presence_stats', { channel: 'room' })).num_clients === 0, 'it has left');
    });

    test('commands at once are all answered', async () => {
      const one = client();
      await connected(one);
      const answers = await Promise.all(range(1, 40).map((n) => one.rpc('many', { n })));
      assert.equal(answers.length, 40);
    });

    test('answers pings, and outlives many', async () => {
      const one = client();
      const event = await connected(one);
      await sleep(4500);
      assert.equal(one.state, 'connected');
      assert.deepEqual(one.log.connecting.length, 1, JSON.stringify(one.log));
      const { clients: present } = await (await subscribed(one, 'alive')).presence();
      assert.deepEqual(Object.keys(present), [event.client], 'the same connection');
    });

    test('gets what it missed through a cut', async () => {
      const one = over(proxy.http, way);
      clients.push(one);
      one.connect();
      const room = await subscribed(one, 'cut', { recoverable: true, positioned: true });
      await daemon.publish('cut', 1);
      await received(room, [1]);
      for (const round of [0, 1, 2]) {
        const before = room.seen.subscribed.length;
        proxy.cut();
        await until(() => room.state === 'subscribing', 'the cut is noticed');
        for (const n of range(2 + round * 5, 6 + round * 5)) await daemon.publish('cut', n);
        proxy.allow();
        await until(() => room.seen.subscribed.length > before, 'it is subscribed again');
        assert.equal(room.seen.subscribed.at(-1).recovered, true);
        await received(room, range(1, 6 + round * 5));
      }
    });

    test('is told why it is disconnected', async () => {
      const one = client({ token: token('eve') });
      await connected(one);
      const ended = next(one, 'disconnected');
      await daemon.api('disconnect', { user: 'eve', disconnect: { code: 4600, reason: 'be gone' } });
      const event = await ended;
      assert.deepEqual([event.code, event.reason], [4600, 'be gone']);
    });

    test('shows a new token when the old one is about to expire', async () => {
      let asked = 0;
      const one = client({
        token: token('ann', { exp: unixNow() + 2 }),
        getToken: async () => {
          asked += 1;
          return token('ann', { exp: unixNow() + 3600 });
        },
      });
      await connected(one);
      await until(() => asked > 0, 'it is asked for a token');
      await sleep(500);
      assert.equal(one.state, 'connected');
      assert.equal(one.log.connecting.length, 1);
    });

    test('is let in with no token that is wrong', async () => {
      const one = client({ token: token('ann', {}, 'another secret, which is as long') });
      const ended = next(one, 'disconnected');
      one.connect();
      assert.equal((await ended).code, 3500);
    });

    test('a subscription ends and begins as the server says', async () => {
      const one = client({ token: token('sam') });
      await connected(one);
      const begun = next(one, 'subscribed');
      await daemon.api('subscribe', { user: 'sam', channel: 'given' });
      assert.equal((await begun).channel, 'given');
      const published = next(one, 'publication');
      await daemon.publish('given', { n: 1 });
      assert.deepEqual((await published).data, { n: 1 });
      const ended = next(one, 'unsubscribed');
      await daemon.api('unsubscribe', { user: 'sam', channel: 'given' });
      await ended;
    });
  });
}

const stop = async (daemon) => assert.equal(await daemon.stop(), 0);

/** The connect's answer of a stream that stays open until `close`. */
async function openStream(http, { protobuf = false, token: shown } = {}) {
  const controller = new AbortController();
  const type = protobuf ? 'application/octet-stream' : 'application/json';
  const body = protobuf ? Buffer.from([4, 8, 1, 34, 0]) : JSON.stringify({ id: 1, connect: { token: shown } });
  const response = await fetch(`${http}/connection/http_stream`, {
    method: 'POST', headers: { 'Content-Type': type }, body, signal: controller.signal,
  });
  assert.equal(response.status, 200);
  const reader = response.body.getReader();
  let text = '';
  const line = async () => {
    while (!text.includes('\n')) {
      const { done, value } = await reader.read();
      if (done) return undefined;
      text += Buffer.from(value).toString();
    }
    const at = text.indexOf('\n');
    const found = text.slice(0, at);
    text = text.slice(at + 1);
    return JSON.parse(found);
  };
  const first = protobuf ? Buffer.from((await reader.read()).value).toString('latin1') : await line();
  return { first, line, response, close: () => controller.abort() };
}

for (const driver of drivers) {
  describe(`requests that bring commands on ${driver}`, () => {
    let daemon;
    before(async () => {
      daemon = await Daemon.start({ driver, args, config: configuration({ client: { message_bytes_max: 8192 } }) });
    });
    after(() => stop(daemon));

    const emulate = async (body, headers = {}, method = 'POST') => {
      const sent = typeof body === 'string' || Buffer.isBuffer(body) ? body : JSON.stringify(body);
      const response = await fetch(`${daemon.http}/emulation`, {
        method, headers: { 'Content-Type': 'application/json', ...headers }, ...(method === 'POST' ? { body: sent } : {}),
      });
      return { status: response.status, text: await response.text(), response };
    };
    const refused = async () => (await daemon.metrics()).get('trunkline_emulations_refused_total') ?? 0;

    test('reach their client, whichever shard has it', async () => {
      for (let round = 0; round < 12; round += 1) {
        const stream = await openStream(daemon.http);
        const { session, node, client, ping, pong } = stream.first.connect;
        assert.notEqual(session, client);
        assert.deepEqual([ping, pong], [25, true]);
        const data = '{"id":2,"subscribe":{"channel":"reach"}}\n{"id":3,"publish":{"channel":"reach","data":{"round":1}}}';
        const { status, text } = await emulate({ session, node, data });
        assert.deepEqual([status, text], [204, '']);
        const seen = [await stream.line(), await stream.line(), await stream.line()];
        assert.ok(seen.some((reply) => reply.id === 2) && seen.some((reply) => reply.id === 3), JSON.stringify(seen));
        assert.ok(seen.some((reply) => reply.push?.pub?.data.round === 1));
        stream.close();
      }
    });

    test('for a session that there never was, or is no more, are answered 404', async () => {
      const before = await refused();
      const stream = await openStream(daemon.http);
      const { session, client } = stream.first.connect;
      const commands = '{"id":9,"rpc":{}}';
      const others = [
        '', 'x', '00000000-0000-4000-8000-000000000000',
        // What everybody in a channel's presence sees of it is not the session.
        client,
        session.replace(/.$/, (last) => (last === '0' ? '1' : '0')),
      ];
      for (const other of others) {
        assert.equal((await emulate({ session: other, node: 'n', data: commands })).status, 404, other);
      }
      // A client of WebSocket has none, whatever is guessed of its id.
      const socket = sdk(daemon.ws);
      const id = (await connected(socket)).client;
      assert.equal((await emulate({ session: id, node: 'n', data: commands })).status, 404);
      socket.disconnect();
      stream.close();
      await until(async () => (await emulate({ session, node: 'n', data: '{}' })).status === 404, 'its client is gone');
      assert.ok((await refused()) >= before + others.length + 2);
    });

    test("for another user's session are answered 404, and whoever shows a session speaks as its client", async () => {
      const ann = sdk(daemon.ws, { token: token('ann') });
      const stream = await openStream(daemon.http, { token: token('bob') });
      const { session, node } = stream.first.connect;
      const [channel, seen] = ['others', await subscribed(ann, 'others', { joinLeave: true })];
      const other = await openStream(daemon.http, { token: token('cid') });
      // What the others of a channel know of a user's client is no session of it.
      const say = (of, data) => emulate({ session: of, node, data }, { Authorization: `Bearer ${token('cid')}` });
      await say(other.first.connect.session, `{"id":2,"subscribe":{"channel":"${channel}"}}`);
      assert.equal((await other.line()).id, 2);
      await until(async () => Object.keys((await seen.presence()).clients).length === 2, 'both are there');
      for (const { client } of Object.values((await seen.presence()).clients)) {
        assert.equal((await say(client, `{"id":9,"publish":{"channel":"${channel}","data":"as another"}}`)).status, 404);
      }
      // The token of the request is not looked at: the session says whose the commands are.
      assert.equal((await say(session, `{"id":2,"publish":{"channel":"${channel}","data":"by bob"}}`)).status, 204);
      await received(seen, ['by bob']);
      assert.equal(seen.seen.publications[0].info.user, 'bob');
      stream.close();
      other.close();
      ann.disconnect();
    });

    test('for a session of a node that is dead are answered 404, and its client is served under another', async () => {
      const config = configuration();
      const first = await Daemon.start({ driver, args, config });
      const stream = await openStream(first.http);
      const { session, node } = stream.first.connect;
      const listen = `127.0.0.1:${first.port}`;
      process.kill(first.pid, 'SIGKILL');
      assert.equal(await stream.line().catch(() => undefined), undefined, 'its stream has ended');
      const second = await Daemon.start({ driver, args, config, listen });
      const answer = (data) => fetch(`${second.http}/emulation`, { method: 'POST', body: JSON.stringify(data) });
      assert.equal((await answer({ session, node, data: '{"id":2,"rpc":{}}' })).status, 404);
      const again = await openStream(second.http);
      const { session: fresh } = again.first.connect;
      assert.notEqual(fresh, session);
      assert.equal((await answer({ session: fresh, node, data: '{"id":2,"presence":{"channel":"none"}}' })).status, 204);
      assert.equal((await again.line()).id, 2);
      again.close();
      await stop(second);
    });

    test('that are none are refused, and touch no client', async () => {
      const stream = await openStream(daemon.http);
      const { session } = stream.first.connect;
      for (const body of ['', '{', '[]', '{"session":7}', `{"session":"${session}","data":{"id":1}}`, Buffer.from([255, 254])]) {
        assert.equal((await emulate(body)).status, 400, String(body));
      }
      const long = JSON.stringify({ id: 2, rpc: { data: 'x'.repeat(8192) } });
      assert.equal((await emulate({ session, data: long })).status, 413);
      assert.equal((await emulate({ session, data: 'y'.repeat(200_000) })).status, 413);
      // In Protobuf: a session that reads JSON takes none.
      const field = (number, bytes) => Buffer.concat([Buffer.from([number << 3 | 2, bytes.length]), Buffer.from(bytes)]);
      const body = Buffer.concat([field(2, session), field(3, [2, 8, 1])]);
      assert.equal((await emulate(body, { 'Content-Type': 'application/octet-stream' })).status, 415);
      for (const method of ['GET', 'PUT', 'DELETE']) {
        const { status, response } = await emulate('', {}, method);
        assert.deepEqual([status, response.headers.get('allow')], [405, 'POST, OPTIONS']);
      }
      const { status } = await emulate({ session, data: '{"id":5,"presence":{"channel":"none"}}' });
      assert.equal(status, 204);
      assert.equal((await stream.line()).id, 5, 'it is connected still');
      stream.close();
    });

    test('which are malformed end their client by name, in its stream', async () => {
      const stream = await openStream(daemon.http);
      const { session } = stream.first.connect;
      assert.equal((await emulate({ session, data: 'no JSON' })).status, 204);
      assert.deepEqual(await stream.line(), { push: { disconnect: { code: 3501, reason: 'bad request' } } });
      assert.equal(await stream.line(), undefined, 'and the stream ends');
    });

    test('in Protobuf reach a client of Protobuf', async () => {
      const stream = await openStream(daemon.http, { protobuf: true });
      const session = stream.first.match(/[0-9a-f]{8}-[0-9a-f-]{27}/g).at(1);
      const field = (number, bytes) => Buffer.concat([Buffer.from([number << 3 | 2, bytes.length]), Buffer.from(bytes)]);
      const body = Buffer.concat([field(2, session), field(3, [4, 8, 2, 0x5a, 0])]);
      assert.equal((await emulate(body, { 'Content-Type': 'application/octet-stream' })).status, 204);
      assert.equal((await emulate({ session, data: '{}' })).status, 415);
      stream.close();
    });

    test('pages of other origins are asked about before and refused', async () => {
      const preflight = await fetch(`${daemon.http}/emulation`, {
        method: 'OPTIONS',
        headers: { Origin: 'https://elsewhere.example', 'Access-Control-Request-Headers': 'content-type' },
      });
      assert.equal(preflight.status, 403);
      for (const path of ['/emulation', '/connection/http_stream', '/connection/sse', '/connection/uni_sse']) {
        const response = await fetch(`${daemon.http}${path}`, {
          method: 'POST', headers: { Origin: 'https://elsewhere.example' }, body: '{}',
        });
        assert.equal(response.status, 403, path);
        await response.text();
      }
    });

    test('a stream needs a connect, and no more than fits', async () => {
      const status = async (path, init) => {
        const response = await fetch(`${daemon.http}${path}`, init);
        const controller = response.body?.getReader();
        await controller?.cancel();
        return response.status;
      };
      assert.equal(await status('/connection/http_stream', { method: 'POST', body: '' }), 400);
      assert.equal(await status('/connection/http_stream'), 405);
      assert.equal(await status('/connection/sse'), 400);
      assert.equal(await status('/connection/sse', { method: 'PUT', body: '{}' }), 405);
      assert.equal(await status('/connection/http_stream', { method: 'POST', body: 'x'.repeat(9000) }), 413);
      const long = encodeURIComponent(JSON.stringify({ id: 1, connect: { data: 'x'.repeat(60_000) } }));
      assert.equal(await status(`/connection/sse?cf_connect=${long}`), 431);
    });
  });

  describe(`clients that only listen on ${driver}`, () => {
    let daemon;
    let backend;
    before(async () => {
      backend = await Backend.start({ refresh: { result: {} } });
      daemon = await Daemon.start({
        driver, args,
        config: configuration({ client: { ping_interval: '1s', pong_timeout: '900ms', connect_statuses: [] } }),
      });
    });
    after(async () => {
      await stop(daemon);
      await backend.stop();
    });

    const request = (user, channels) => ({ token: token(user, { subs: Object.fromEntries(channels.map((name) => [name, {}])) }) });

    /** What a stream says, message by message. */
    async function listen(url, init, events) {
      const controller = new AbortController();
      const response = await fetch(url, { ...init, signal: controller.signal });
      const reader = response.body.getReader();
      const messages = [];
      (async () => {
        let text = '';
        for (;;) {
          const { done, value } = await reader.read();
          if (done) break;
          text += Buffer.from(value).toString();
          const pieces = text.split('\n');
          text = pieces.pop();
          for (const line of pieces.filter((piece) => piece.trim())) {
            if (events && !line.startsWith('data: ')) continue;
            messages.push(JSON.parse(events ? line.slice(6) : line));
          }
        }
        messages.ended = true;
      })().catch(() => {});
      return { response, messages, close: () => controller.abort() };
    }

    const kinds = {
      uni_http_stream: (asked) => listen(`${daemon.http}/connection/uni_http_stream`, { method: 'POST', body: JSON.stringify(asked) }),
      uni_sse: (asked) =>
        listen(`${daemon.http}/connection/uni_sse?cf_connect=${encodeURIComponent(JSON.stringify(asked))}`, {}, true),
      'uni_sse by POST': (asked) =>
        listen(`${daemon.http}/connection/uni_sse`, { method: 'POST', body: JSON.stringify(asked) }, true),
      uni_websocket: async (asked, inQuery = false) => {
        const query = inQuery ? `?cf_connect=${encodeURIComponent(JSON.stringify(asked))}` : '';
        const socket = new WebSocket(`${daemon.ws.replace('websocket', 'uni_websocket')}${query}`);
        const messages = [];
        socket.on('message', (data) => messages.push(JSON.parse(data)));
        socket.on('close', (code, reason) => Object.assign(messages, { ended: true, code, reason: String(reason) }));
        if (!inQuery) socket.on('open', () => socket.send(JSON.stringify(asked)));
        return { messages, close: () => socket.terminate(), socket };
      },
      'uni_websocket by query': (asked) => kinds.uni_websocket(asked, true),
    };

    for (const [kind, begin] of Object.entries(kinds)) {
      test(`${kind}: bare pushes, the connect first`, async () => {
        const channel = `for ${kind}`;
        const { messages, close } = await begin(request('ann', [channel]));
        await until(() => messages.length > 0, 'the connect');
        const { connect } = messages[0];
        assert.match(connect.client, /^[0-9a-f-]{36}$/);
        assert.deepEqual([connect.ping, connect.pong, connect.session], [1, undefined, undefined]);
        assert.ok(channel in connect.subs);
        for (const n of [1, 2, 3]) await daemon.publish(channel, { n, text: 'a\nb' });
        await daemon.api('send_to_user', { user: 'ann', data: {} }).catch(() => {});
        const published = () => messages.filter((message) => message.pub);
        await until(() => published().length === 3, 'three publications');
        assert.deepEqual(published()[2], { channel, pub: { ...published()[2].pub, data: { n: 3, text: 'a\nb' } } });
        await until(() => messages.filter((message) => Object.keys(message).length === 0).length >= 2, 'pings');
        assert.ok(!messages.ended);
        close();
        await until(async () => (await daemon.api('presence_stats', { channel })).num_clients === 0, 'it has left');
      });

      test(`${kind}: an end that says why`, async () => {
        const { messages } = await begin(request('mallory', []));
        await until(() => messages.length > 0, 'the connect');
        await daemon.api('disconnect', { user: 'mallory', disconnect: { code: 4501, reason: 'enough' } });
        await until(() => messages.ended, 'it ends');
        const told = kind.startsWith('uni_websocket')
          ? { code: messages.code, reason: messages.reason } : messages.find((message) => message.disconnect).disconnect;
        assert.deepEqual(told, { code: 4501, reason: 'enough' });
      });

      test(`${kind}: a connect that is refused`, async () => {
        const { messages } = await begin({ token: 'none' });
        await until(() => messages.ended, 'it ends');
        const code = kind.startsWith('uni_websocket') ? messages.code : messages[0].disconnect.code;
        assert.equal(code, 3500);
      });
    }

    test('what one says after its connect is not listened to', async () => {
      const { messages, socket, close } = await kinds.uni_websocket(request('ann', []));
      await until(() => messages.length > 0, 'the connect');
      socket.send('{"id":2,"publish":{"channel":"said","data":1}}');
      socket.send('garbage');
      await until(() => messages.filter((message) => Object.keys(message).length === 0).length >= 1, 'a ping');
      assert.ok(!messages.ended);
      assert.equal((await daemon.api('history', { channel: 'said', limit: 1 })).offset ?? 0, 0);
      close();
    });

    test('a connect with more behind it is none', async () => {
      const { messages } = await kinds.uni_websocket('x');
      await until(() => messages.ended, 'it ends');
      assert.equal(messages.code, 3501);
      const { messages: two } = await listen(`${daemon.http}/connection/uni_http_stream`, { method: 'POST', body: '{}{"id":2}' });
      await until(() => two.ended, 'it ends');
      assert.equal(two.at(-1).disconnect.code, 3501);
    });

    test('the eventsource package reads it, and comes back by itself', async () => {
      const url = `${daemon.http}/connection/uni_sse?cf_connect=${encodeURIComponent(JSON.stringify(request('eve', ['es'])))}`;
      const source = new EventSource(url);
      const messages = [];
      source.onmessage = (event) => messages.push(JSON.parse(event.data));
      await until(() => messages.some((message) => message.connect), 'the connect');
      await daemon.api('disconnect', { user: 'eve', disconnect: { code: 3011, reason: 'come back' } });
      await until(() => messages.filter((message) => message.connect).length === 2, 'it is back');
      await daemon.publish('es', 7);
      await until(() => messages.some((message) => message.pub?.data === 7), 'and hears');
      source.close();
    });

    test('a proxy of HTTP/1.0 gets no chunks', async () => {
      const net = await import('node:net');
      const socket = net.connect(daemon.port, '127.0.0.1');
      const body = JSON.stringify(request('old', ['old']));
      socket.write(`POST /connection/uni_http_stream HTTP/1.0\r\nHost: a\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
      let text = '';
      socket.setEncoding('utf8').on('data', (piece) => (text += piece));
      await until(() => text.includes('"connect"'), () => text);
      await daemon.publish('old', { n: 1 });
      await until(() => text.includes('"pub"'), () => text);
      const lines = text.split('\r\n\r\n')[1].trim().split('\n').map((line) => JSON.parse(line));
      assert.ok(lines[0].connect && lines.some((line) => line.pub?.data.n === 1));
      socket.destroy();
    });
  });

  describe(`what is configured of transports on ${driver}`, () => {
    let daemon;
    before(async () => {
      daemon = await Daemon.start({
        driver,
        config: configuration({
          client: {
            allow_anonymous: false,
            connect_statuses: ['3500=401', '3501=403'],
            paths: { websocket: '/rt/ws', sse: '', http_stream: '/rt/stream', emulation: '/rt/up' },
          },
        }),
      });
    });
    after(() => stop(daemon));

    test('paths', async () => {
      const ways = [
        ['http_stream', '/rt/stream'], ['websocket', '/rt/ws'],
      ];
      for (const [transport, path] of ways) {
        const scheme = transport === 'websocket' ? daemon.http.replace('http', 'ws') : daemon.http;
        const one = sdk([{ transport, endpoint: `${scheme}${path}` }], {
          emulationEndpoint: `${daemon.http}/rt/up`, fetch, readableStream: ReadableStream, token: token('ann'),
        });
        await connected(one);
        await subscribed(one, 'moved');
        one.disconnect();
      }
      for (const path of ['/connection/websocket', '/connection/sse?cf_connect=x', '/connection/http_stream', '/emulation']) {
        const response = await fetch(`${daemon.http}${path}`, { method: 'POST', body: '{}' });
        assert.equal(response.status, 404, path);
        await response.text();
      }
    });

    test('a refused connect of a client that only listens is a status', async () => {
      const ask = async (path, init) => {
        const response = await fetch(`${daemon.http}${path}`, init);
        return { status: response.status, body: response.status === 200 ? undefined : await response.json(), response };
      };
      const bad = { method: 'POST', body: JSON.stringify({ token: 'bad' }) };
      for (const path of ['/connection/uni_http_stream', '/connection/uni_sse']) {
        const { status, body } = await ask(path, bad);
        assert.deepEqual([status, body], [401, { code: 3500, reason: 'invalid token' }]);
        assert.equal((await ask(path, { method: 'POST', body: '{}' })).status, 403, 'nobody known');
        const good = await ask(path, { method: 'POST', body: JSON.stringify({ token: token('ann') }) });
        assert.equal(good.status, 200);
        const { value } = await good.response.body.getReader().read();
        assert.match(Buffer.from(value).toString(), /"connect"/);
      }
    });
  });

  test(`pings of WebSocket itself on ${driver}`, async () => {
    const daemon = await Daemon.start({
      driver, config: configuration({ client: { ping_interval: '1s', pong_timeout: '900ms' } }),
    });
    const one = sdk(`${daemon.ws}?cf_ws_frame_ping_pong=true`);
    await connected(one);
    let pings = 0;
    const socket = new WebSocket(`${daemon.ws}?cf_ws_frame_ping_pong=true`, { autoPong: true });
    const messages = [];
    socket.on('ping', () => (pings += 1));
    socket.on('message', (data) => messages.push(JSON.parse(data)));
    socket.on('open', () => socket.send('{"id":1,"connect":{}}'));
    const silent = new WebSocket(`${daemon.ws}?cf_ws_frame_ping_pong=true`, { autoPong: false });
    silent.on('open', () => silent.send('{"id":1,"connect":{}}'));
    const ended = next(silent, 'close');
    await until(() => pings >= 3, 'three pings');
    assert.deepEqual(messages.map(({ connect }) => [connect?.ping, connect?.pong]), [[undefined, undefined]], 'and no other ones');
    assert.equal(await ended, 3012);
    assert.deepEqual([one.state, one.log.connecting.length, socket.readyState], ['connected', 1, WebSocket.OPEN]);
    one.disconnect();
    socket.terminate();
    await stop(daemon);
  });
}

describe('the SDK in Chromium without WebSocket', () => {
  let daemon;
  let site;
  let browser;
  before(async () => {
    site = await serveSdk();
    daemon = await Daemon.start({ args, config: configuration({ client: { allowed_origins: [site.origin] } }) });
    browser = await launch();
  });
  after(async () => {
    await browser.close();
    await site.close();
    await stop(daemon);
  });

  for (const way of transports) {
    test(`${way.transport} in ${way.form}, from a page of another origin`, async () => {
      const page = await open(browser, `${site.origin}/${way.form === 'protobuf' ? 'protobuf' : ''}`);
      const channel = `page-${way.transport}-${way.form}`;
      await page.evaluate(([http, transport, form, channel]) => {
        const client = new Centrifuge([{ transport, endpoint: `${http}/connection/${transport}` }], {
          emulationEndpoint: `${http}/emulation`,
        });
        window.got = [];
        const subscription = client.newSubscription(channel, { recoverable: true });
        const text = (data) => (form === 'protobuf' ? JSON.parse(new TextDecoder().decode(data)) : data);
        subscription.on('publication', (event) => window.got.push(text(event.data)));
        subscription.on('subscribed', () => {
          const data = form === 'protobuf' ? new TextEncoder().encode('{"n":1}') : { n: 1 };
          window.published = subscription.publish(data).then(() => true, String);
        });
        client.on('connected', (event) => (window.transport = event.transport));
        subscription.subscribe();
        client.connect();
        window.client = client;
      }, [daemon.http, way.transport, way.form, channel]);
      await page.waitForFunction(() => window.got.length === 1 && window.published);
      assert.equal(await page.evaluate(() => window.published), true);
      assert.equal(await page.evaluate(() => window.transport), way.transport);
      await daemon.publish(channel, { n: 2 });
      await page.waitForFunction(() => window.got.length === 2);
      assert.deepEqual(await page.evaluate(() => window.got), [{ n: 1 }, { n: 2 }]);
      assert.deepEqual(page.problems, []);
      await page.close();
      await until(async () => (await daemon.api('presence_stats', { channel })).num_clients === 0, 'it has left');
    });
  }
});
