// Hostile and broken input: each gets its own code, costs little, is counted, and disturbs no one else.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { connected, received, sdk, subscribed } from './support/sdk.mjs';
import { BINARY, CLOSE, PING, RawSocket, TEXT, frame } from './support/socket.mjs';
import { until } from './support/wait.mjs';

const MIB = 1 << 20;

for (const driver of drivers) {
  describe(`bad input on ${driver}`, () => {
    let daemon;
    let bystander;
    let room;
    let publications = 0;

    /** The case, then: it was counted under its cause, and the bystander still gets what is published. */
    const counted = (name, cause, body) =>
      test(name, async () => {
        const before = await daemon.faults(cause);
        await body();
        await until(async () => (await daemon.faults(cause)) > before, `${name} is counted under ${cause}`);
        await undisturbed();
      });

    const undisturbed = async () => {
      publications += 1;
      await daemon.publish('bystanders', publications);
      await received(room, Array.from({ length: publications }, (_, n) => n + 1));
    };

    /** Sends the bytes on a fresh connection; the status of the answer. */
    const http = async (bytes) => {
      const raw = await RawSocket.connect(daemon.port);
      raw.write(bytes);
      const { status } = await raw.head();
      return { status, raw };
    };

    /** Sends frames on a fresh upgraded connection; how it is closed. */
    const upgraded = async (...frames) => {
      const raw = await RawSocket.upgrade(daemon.port);
      frames.forEach((each) => raw.write(each));
      return raw.closed();
    };

    /** The same after a correct connect. */
    const asClient = async (...frames) => {
      const raw = await RawSocket.client(daemon.port);
      frames.forEach((each) => raw.write(each));
      return raw.closed();
    };

    const text = (payload, options) => frame(TEXT, payload, options);
    const json = (value) => text(JSON.stringify(value));
    const BAD_REQUEST = { code: 3501, reason: 'bad request' };

    before(async () => {
      const client = { connect_timeout: '2s', channels_max: 8 };
      daemon = await Daemon.start({ driver, config: configuration({ client }), args: ['--shards', '2'] });
      bystander = sdk(daemon.ws);
      await connected(bystander);
      room = await subscribed(bystander, 'bystanders');
    });

    after(async () => {
      assert.equal(bystander.log.connecting.length, 1, 'the bystander never lost its connection');
      bystander.disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    // --- HTTP heads

    const heads = {
      'a TLS hello': [Buffer.from('16030100c8010000c40303', 'hex') + 'x'.repeat(64) + '\r\n\r\n', 400, /tls_on_plain_port/],
      'a line of noise': ['\x00\x01\x02\x03\r\n\r\n', 400],
      'no version': ['GET /\r\n\r\n', 400],
      'a space before the colon': ['GET / HTTP/1.1\r\nHost : x\r\n\r\n', 400],
      'a folded line': ['GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n', 400],
      'no Host': ['GET / HTTP/1.1\r\n\r\n', 400],
      'two Hosts': ['GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n', 400],
      'a NUL in a value': ['GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n', 400],
      'both lengths': [
        'POST /api/info HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}', 400],
      'two lengths': ['POST /api/info HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}', 400],
      'a signed length': ['POST /api/info HTTP/1.1\r\nHost: x\r\nContent-Length: +2\r\n\r\n{}', 400],
      'a bad chunk': ['POST /api/info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n', 400],
      'a coding that is not chunked in the end': [
        'POST /api/info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n', 400],
      'an unknown coding': ['POST /api/info HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n', 501],
      'an unknown version': ['GET / HTTP/3.0\r\nHost: x\r\n\r\n', 505],
      'a head over 16 KiB': [`GET / HTTP/1.1\r\nHost: x\r\nA: ${'a'.repeat(17_000)}\r\n\r\n`, 431],
      'a head over 16 KiB that does not end': [`GET / HTTP/1.1\r\nHost: x\r\nA: ${'a'.repeat(40_000)}`, 431],
      'a target without end': [`GET /${'a'.repeat(40_000)}`, [414, 431]],
      'too many fields': [`GET / HTTP/1.1\r\nHost: x\r\n${'A: b\r\n'.repeat(200)}\r\n`, 431],
    };
    for (const [name, [bytes, wanted, named]] of Object.entries(heads)) {
      const cause = named ?? ([wanted].flat().includes(431) ? /http_head_too_large/ : /http_malformed/);
      counted(`${name} is answered with ${wanted} and the end`, cause, async () => {
        const { status, raw } = await http(Buffer.from(bytes, 'latin1'));
        assert.ok([wanted].flat().includes(status), `status ${status}`);
        await until(() => raw.ended, 'the connection ends');
      });
    }

    test('a request that never comes is not waited for', async () => {
      const raw = await RawSocket.connect(daemon.port);
      await until(() => raw.ended, 'the connection ends');
    });

    counted('a head that never ends is not waited for', /http_head_timeout/, async () => {
      const raw = await RawSocket.connect(daemon.port);
      raw.write('GET / HTTP/1.1\r\nHost: x\r\n');
      await until(() => raw.ended, 'the connection ends');
    });

    counted('a body over the bound is refused by its announced length', /http_body_too_large/, async () => {
      const { status } = await http(
        `POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: ${API_KEY}\r\nContent-Length: ${2 * MIB}\r\n\r\n`);
      assert.equal(status, 413);
    });

    counted('a body over the bound is refused by the sum of its chunks', /http_body_too_large/, async () => {
      const raw = await RawSocket.connect(daemon.port);
      raw.write(`POST /api/publish HTTP/1.1\r\nHost: x\r\nX-API-Key: ${API_KEY}\r\nTransfer-Encoding: chunked\r\n\r\n`);
      const chunk = `10000\r\n${'x'.repeat(0x10000)}\r\n`;
      for (let n = 0; n < 20; n += 1) raw.write(chunk);
      assert.equal((await raw.head()).status, 413);
    });

    // --- Upgrades

    const upgrade = 'GET /connection/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n' +
      'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n';

    counted('an upgrade with another version', /handshake_refused/, async () =>
      assert.equal((await http(upgrade.replace('n: 13', 'n: 12'))).status, 426));
    counted('an upgrade with a bad key', /handshake_refused/, async () =>
      assert.equal((await http(upgrade.replace('Ym9uY2U=', '').replace(/Key: .*/, 'Key: short'))).status, 400));
    counted('a GET without an upgrade where one is due', /handshake_refused/, async () =>
      assert.ok([400, 426].includes((await http('GET /connection/websocket HTTP/1.1\r\nHost: x\r\n\r\n')).status)));

    // --- Frames

    counted('a frame over the bound is closed with 1009 before it comes', /frame_too_big/, async () => {
      const raw = await RawSocket.client(daemon.port);
      raw.write(text('', { announce: 256 * 1024 + 1 }));
      assert.equal((await raw.closed()).code, 1009);
    });
    counted('fragments over the bound are closed with 1009', /frame_too_big/, async () => {
      const half = 'x'.repeat(140_000);
      assert.equal((await asClient(text(half, { fin: false }), frame(0, half))).code, 1009);
    });
    counted('bad UTF-8 is closed with 1007', /frame_not_utf8/, async () =>
      assert.equal((await asClient(text(Buffer.from([0x7b, 0xff])))).code, 1007));
    counted('an unmasked frame is closed with 1002', /frame_protocol/, async () =>
      assert.equal((await asClient(Buffer.from([0x81, 0x02, 0x7b, 0x7d]))).code, 1002));
    counted('a reserved opcode is closed with 1002', /frame_protocol/, async () =>
      assert.equal((await asClient(frame(0x3, 'x'))).code, 1002));
    counted('a long ping is closed with 1002', /frame_protocol/, async () =>
      assert.equal((await asClient(frame(PING, 'x'.repeat(126)))).code, 1002));
    counted('a Close with a code that may not be sent is closed with 1002', /frame_protocol/, async () =>
      assert.equal((await asClient(frame(CLOSE, Buffer.from([1005 >> 8, 1005 & 0xff])))).code, 1002));

    // --- Commands

    const documents = {
      'what is no JSON': 'hello',
      'half a document': '{"id":2,"publish":{"channel":"x"',
      'an array': '[]',
      'a number': '12',
      'a field of a wrong type': '{"id":2,"subscribe":{"channel":7}}',
      'an id beyond 32 bits': '{"id":4294967296,"subscribe":{"channel":"x"}}',
      'a negative id': '{"id":-1,"subscribe":{"channel":"x"}}',
      'good before bad': '{"id":2,"subscribe":{"channel":"x"}}\n{"id":3,',
      'deep nesting': `{"id":2,"publish":{"channel":"x","data":${'['.repeat(30_000)}`,
    };
    for (const [name, document] of Object.entries(documents)) {
      counted(`${name} is closed with 3501`, /disconnect_3501/, async () => assert.deepEqual(await asClient(text(document)), BAD_REQUEST));
    }
    counted('JSON of noise in a binary frame is closed with a code', /frame|disconnect/, async () =>
      assert.ok([1003, 3501, 3506].includes((await asClient(frame(BINARY, Buffer.from([1, 2, 3])))).code)));
    counted('an unknown command is closed with 3501 or answered with 104', /disconnect_3501|error_104/, async () => {
      const raw = await RawSocket.client(daemon.port);
      raw.command({ id: 2, nonsense: {} });
      const got = await raw.frame();
      if (got.opcode === CLOSE) assert.equal(got.payload.readUInt16BE(0), 3501);
      else assert.equal(JSON.parse(got.payload).error.code, 104);
    });
    counted('too many commands in a frame are closed with 3501', /disconnect_3501/, async () =>
      assert.deepEqual(await asClient(text(Array(1025).fill('{"id":2,"rpc":{}}').join('\n'))), BAD_REQUEST));
    counted('connect twice is closed with 3501', /disconnect_3501/, async () =>
      assert.deepEqual(await asClient(json({ id: 2, connect: {} })), BAD_REQUEST));
    for (const command of ['subscribe', 'publish', 'history', 'presence', 'rpc', 'unsubscribe', 'refresh']) {
      counted(`${command} before connect is closed with 3501`, /disconnect_3501/, async () =>
        assert.deepEqual(await upgraded(json({ id: 1, [command]: { channel: 'x', data: 1 } })), BAD_REQUEST));
    }
    counted('send before connect is closed with 3501', /disconnect_3501/, async () =>
      assert.deepEqual(await upgraded(json({ send: { data: 1 } })), BAD_REQUEST));
    counted('connect never sent is closed with 3502', /disconnect_3502/, async () =>
      assert.deepEqual(await upgraded(), { code: 3502, reason: 'stale' }));
    counted('pings alone do not keep a client that never connects', /disconnect_3502/, async () =>
      assert.deepEqual(await upgraded(frame(PING, 'a'), frame(PING, 'b')), { code: 3502, reason: 'stale' }));

    const errorOf = async (command) => {
      const raw = await RawSocket.client(daemon.port);
      raw.command({ id: 2, ...command });
      const { error } = await raw.message();
      raw.destroy();
      return error?.code;
    };
    for (const [name, channel] of [['too long', 'c'.repeat(256)], ['with a line break', 'a\nb']]) {
      counted(`a channel name ${name} is error 107 for every command`, /error_107/, async () => {
        assert.equal(await errorOf({ subscribe: { channel } }), 107);
        assert.equal(await errorOf({ publish: { channel, data: 1 } }), 107);
        assert.equal(await errorOf({ history: { channel } }), 107);
        assert.equal(await errorOf({ presence: { channel } }), 107);
      });
    }
    counted('one subscription too many is error 106, those before it live', /error_106/, async () => {
      const raw = await RawSocket.client(daemon.port);
      for (let n = 1; n <= 9; n += 1) raw.command({ id: n, subscribe: { channel: `limit-${n}` } });
      const replies = await raw.replies(9);
      for (let n = 1; n <= 8; n += 1) assert.ok(replies[n].subscribe, `subscription ${n}`);
      assert.equal(replies[9].error?.code, 106);
      await daemon.publish('limit-8', 'x');
      assert.equal((await raw.message()).push.pub.data, 'x');
      raw.destroy();
    });

    // --- The server API

    const api = async (method, body, headers) => daemon.apiRaw(method, body, headers);
    counted('a wrong API key is 401', /api.*401/, async () =>
      assert.equal((await api('publish', { channel: 'x', data: 1 }, { 'X-API-Key': 'wrong' })).status, 401));
    counted('no API key is 401', /api.*401/, async () =>
      assert.equal((await api('publish', { channel: 'x', data: 1 }, {})).status, 401));
    counted('an unknown API method is 404', /api.*404/, async () => assert.equal((await api('explode', {})).status, 404));
    counted('bad JSON for the API is 400', /api.*400/, async () => {
      for (const body of ['', '{', 'x', '{"channel":"x","data":}', '[]']) {
        assert.equal((await api('publish', body)).status, 400, body);
      }
    });
    counted('a publish to a bad channel name is error 107', /api_requests.*code="107"/, async () => {
      for (const channel of ['', 'c'.repeat(256), 'a\u0001b']) {
        assert.equal((await api('publish', { channel, data: 1 })).answer.error?.code, 107, channel);
      }
    });
    counted('an over-long payload is 413', /http_body_too_large/, async () =>
      assert.equal((await api('publish', { channel: 'x', data: 'x'.repeat(2 * MIB) })).status, 413));
    test('the API does not take GET', async () => {
      assert.equal((await fetch(`${daemon.http}/api/publish`)).status, 405);
    });

    // --- What it costs

    test('a thousand bad clients leave no memory, no connection and no descriptor behind', async () => {
      const round = async () => {
        const kinds = [
          () => asClient(text('hello')),
          () => asClient(text('', { announce: MIB })),
          () => http('nonsense\r\n\r\n'),
          () => RawSocket.upgrade(daemon.port).then((raw) => raw.destroy()),
          () => RawSocket.client(daemon.port).then((raw) => (raw.write(text('{"id"', { fin: false })), raw.destroy())),
        ];
        for (let n = 0; n < 500; n += 25) {
          await Promise.all(Array.from({ length: 25 }, (_, at) => kinds[(n + at) % kinds.length]()));
        }
      };
      const clients = async () => (await daemon.api('info')).nodes[0].num_clients;
      const rss = async () => (await daemon.api('info')).nodes[0].process.rss;
      await round();
      await until(async () => (await clients()) === 1, 'only the bystander is left');
      const settled = await rss();
      await round();
      await until(async () => (await clients()) === 1, 'only the bystander is left again');
      assert.ok((await rss()) - settled < 16 * MIB, `${((await rss()) - settled) / MIB} MiB more after the same again`);
      await undisturbed();
    });
  });
}
