// The Protobuf form beside the JSON form: one crowd, payloads of every size, how it is chosen, and bad input of its own.
// What both forms do alike, the other files run in both.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Centrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

import { Backend } from './support/backend.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { encode } from './support/protobuf.mjs';
import { Proxy } from './support/proxy.mjs';
import { connected, forms, received, sdk, subscribed, token, unixNow, watch } from './support/sdk.mjs';
import { BINARY, RawSocket, TEXT, frame } from './support/socket.mjs';
import { next, until, within } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
/** A JSON text of exactly this many bytes. */
const ofBytes = (count) => (count === 1 ? 7 : 'x'.repeat(count - 2));
/** On both sides of where a varint grows by a byte, and near the bound of a message. */
const SIZES = [1, 127, 128, 16_383, 16_384, 60_000];

for (const driver of drivers) {
  describe(`Protobuf on ${driver}`, () => {
    let daemon;
    let backend;
    let proxy;
    const clients = [];
    const client = (form, options = {}) => {
      const made = sdk(daemon.ws, { form, ...options });
      clients.push(made);
      return made;
    };

    before(async () => {
      backend = await Backend.start({
        rpc: ({ method, data }) => ({ result: { data: { method, data } } }),
        events: {},
      });
      const events = { types: ['message'], endpoint: `http://127.0.0.1:${backend.port}/events`, secret: 'shared' };
      const own = { rpc_hook: 'rpc' };
      const tell = {
        name: 'tell', gap: 'tell', history_size: 20, history_ttl: '10m', allow_subscribe_for_client: true,
      };
      daemon = await Daemon.start({
        driver,
        config: configuration({ client: own, hook: backend.hooks(['rpc']), events, namespace: [tell] }),
        args: ['--shards', '2'],
      });
      proxy = await Proxy.to(daemon.port);
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      await proxy.close();
      assert.equal(await daemon.stop(), 0);
      await backend.stop();
    });

    test('a mixed crowd gets the same, in the same order, with the same offsets', async () => {
      const members = [];
      for (const form of [...forms, ...forms]) {
        const member = client(form, { token: token(`${form}-user`, { info: { form } }) });
        member.room = await subscribed(member, 'crowd', { positioned: true });
        members.push(member);
      }
      await Promise.all(range(1, 40).map((n) => (
        n % 2 ? daemon.publish('crowd', { n, from: 'HTTP' }, { tags: { n: `${n}`, 'ключ': '' } })
          : members[(n / 2) % members.length].room.publish({ n, from: 'a client' }))));
      await until(() => members.every(({ room }) => room.seen.publications.length === 40), 'all have all');
      const [first, ...others] = members.map(({ room }) => room.seen.publications.map(({ offset, data, info, tags }) => (
        { offset, data, info, tags: tags ?? {} })));
      assert.deepEqual(first.map(({ offset }) => offset), range(1, 40));
      for (const other of others) assert.deepEqual(other, first);
      for (const { data, info, tags } of first) {
        const ofClient = data.from === 'a client';
        assert.equal(info?.user, ofClient ? `${info.connInfo.form}-user` : undefined);
        assert.deepEqual(tags, ofClient ? {} : { n: `${data.n}`, 'ключ': '' });
      }
      const [position] = new Set(members.map(({ room }) => room.seen.subscribed[0].streamPosition.epoch));
      assert.ok(position.length > 0);
      for (const member of members) {
        const { epoch, publications } = await member.room.history({ limit: 100 });
        assert.equal(epoch, position);
        assert.deepEqual(publications.map(({ data }) => data), first.map(({ data }) => data));
      }
    });

    test('each form sees who joins in the other', async () => {
      for (const [watching, coming] of [forms, [...forms].reverse()]) {
        const channel = `joins-${watching}`;
        const room = await subscribed(client(watching), channel, { joinLeave: true });
        const guest = client(coming, { token: token('guest', { info: { seat: 1 } }) });
        const { client: id } = await connected(guest);
        await subscribed(guest, channel);
        const wanted = { client: id, user: 'guest', connInfo: { seat: 1 } };
        await until(() => room.seen.joins.some(({ info }) => info.client === id), 'the join');
        assert.deepEqual(room.seen.joins.find(({ info }) => info.client === id).info, wanted);
        guest.disconnect();
        await until(() => room.seen.leaves.some(({ info }) => info.client === id), 'the leave');
        assert.deepEqual(room.seen.leaves.find(({ info }) => info.client === id).info, wanted);
      }
    });

    test('payloads of every size, in both directions', async () => {
      const speaker = client('protobuf');
      const rooms = [await subscribed(speaker, 'sizes'), await subscribed(client('json'), 'sizes')];
      const documents = [];
      for (const size of SIZES) {
        const document = ofBytes(size);
        assert.equal(JSON.stringify(document).length, size);
        await daemon.publish('sizes', document);
        await rooms[0].publish(document);
        documents.push(document, document);
        assert.deepEqual((await speaker.rpc('echo', document)).data, { method: 'echo', data: document });
      }
      for (const room of rooms) await received(room, documents);
      const { publications } = await rooms[0].history({ limit: 100 });
      assert.deepEqual(publications.map(({ data }) => data), documents);
    });

    test('no bytes are no payload: rpc goes without, publish is a bad request as in JSON', async () => {
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      raw.command({ id: 2, rpc: { method: 'bare', data: new Uint8Array() } });
      assert.deepEqual((await raw.message()).rpc.data, { method: 'bare' });
      raw.command({ id: 3, publish: { channel: 'empty', data: new Uint8Array() } });
      const inJson = await RawSocket.client(daemon.port);
      inJson.command({ id: 2, publish: { channel: 'empty' } });
      assert.deepEqual(await raw.closed(), await inJson.closed());
    });

    test('a payload that is no JSON is error 107, and the connection lives', async () => {
      // The SDK as it is: payloads are bytes to it.
      const plain = new Centrifuge(daemon.ws, { websocket: WebSocket });
      clients.push(plain);
      await connected(plain);
      const text = (value) => new TextEncoder().encode(value);
      const wrong = [text('hello'), text('{"a":'), text('1 2'), Uint8Array.of(0xff), Uint8Array.of(0x22, 0xff, 0x22),
        text('['.repeat(30_000)), Uint8Array.of(0)];
      const before = await daemon.faults(/error_107/);
      for (const payload of wrong) {
        await assert.rejects(plain.publish('wrong', payload), { code: 107 });
        await assert.rejects(plain.rpc('wrong', payload), { code: 107 });
        // It has no answer; one without an id would read as a ping, and the pong to it would end the connection.
        await plain.send(payload);
      }
      const refused = plain.newSubscription('wrong', { data: wrong[0] });
      const end = next(refused, 'unsubscribed');
      refused.subscribe();
      assert.equal((await end).code, 107);
      const { data } = await plain.rpc('right', text(' {"a" : 1.0e2}\n'));
      assert.deepEqual(JSON.parse(new TextDecoder().decode(data)).data, { a: 100 });
      assert.equal(await daemon.faults(/error_107/), before + 3 * wrong.length + 1, 'each is counted');
      assert.equal((await daemon.api('history', { channel: 'wrong' })).offset, 0);
      assert.equal(plain.state, 'connected');
    });

    test('a connect whose data is no JSON does not get in', async () => {
      const plain = new Centrifuge(daemon.ws, { websocket: WebSocket, data: Uint8Array.of(1, 2, 3) });
      clients.push(plain);
      const end = next(plain, 'disconnected');
      plain.connect();
      assert.deepEqual(await end, { code: 3501, reason: 'bad request' });
    });

    test('a thousand commands in one frame are answered, in several frames at need', async () => {
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      raw.command(...range(2, 1001).map((id) => ({ id, publish: { channel: 'thousand', data: id } })));
      const replies = await raw.replies(1001, 2);
      assert.ok(Object.values(replies).every(({ publish }) => publish), 'all are published');
      const { publications, offset } = await daemon.api('history', { channel: 'thousand', limit: 300, reverse: true });
      assert.equal(offset, 1000);
      assert.deepEqual(publications.map(({ data }) => data), range(702, 1001).reverse());
      raw.destroy();
    });

    test('a message in fragments, and several messages across them', async () => {
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      const whole = encode([{ id: 2, presence_stats: { channel: 'pieces' } }, { id: 3, rpc: { method: 'x', data: 1 } }]);
      for (let cut = 0; cut <= whole.length; cut += 1) {
        raw.write(frame(BINARY, whole.subarray(0, cut), { fin: false }));
        raw.write(frame(0, whole.subarray(cut)));
        const replies = await raw.replies(3, 2);
        assert.ok(replies[2].presence_stats && replies[3].rpc, `cut at ${cut}`);
      }
      raw.destroy();
    });

    test('send becomes an event, as it was written', async () => {
      const sender = client('protobuf', { token: token('sender') });
      await connected(sender);
      for (const n of range(1, 50)) await sender.send({ n, text: 'grüße\n"' });
      const messages = () => backend.of('events').flatMap(({ events }) => events).filter(({ user }) => user === 'sender');
      await until(() => messages().length === 50, 'fifty events');
      assert.deepEqual(messages().map(({ data }) => data), range(1, 50).map((n) => ({ n, text: 'grüße\n"' })));
    });

    test('a push to users is a message of the SDK, in each form', async () => {
      const users = forms.map((form) => `pushed-${form}`);
      const told = [];
      for (const [at, form] of forms.entries()) {
        const member = client(form, { token: token(users[at]) });
        member.on('message', ({ data }) => told.push([users[at], data]));
        await connected(member);
      }
      assert.equal((await daemon.api('push', { users, data: { hello: [1] } })).connections, 2);
      await until(() => told.length === 2, 'both are told');
      assert.deepEqual(told.sort(), users.map((user) => [user, { hello: [1] }]).sort());
    });

    test('subscriptions of the token: told, delivered, and recovered after a cut', async () => {
      const subs = { 'mine-1': { override: { force_recovery: { value: true } } }, 'mine-2': { info: { seat: 2 } } };
      const member = sdk(proxy.ws, { form: 'protobuf', token: token('of-token', { subs }) });
      clients.push(member);
      const seen = { subscribed: [], publications: [] };
      member.on('subscribed', (event) => seen.subscribed.push(event));
      member.on('publication', ({ channel, data }) => seen.publications.push([channel, data]));
      const { client: id } = await connected(member);
      await until(() => seen.subscribed.length === 2, 'both subscriptions');
      assert.deepEqual(seen.subscribed.map(({ channel }) => channel).sort(), ['mine-1', 'mine-2']);
      assert.equal(seen.subscribed.find(({ channel }) => channel === 'mine-1').recoverable, true);
      const { presence } = await daemon.api('presence', { channel: 'mine-2' });
      assert.deepEqual(presence[id].chan_info, { seat: 2 });
      await daemon.publish('mine-1', 1);
      await until(() => seen.publications.length === 1, 'a publication');
      proxy.cut();
      await until(() => member.state === 'connecting', 'the cut is noticed');
      for (const n of [2, 3]) await daemon.publish('mine-1', n);
      proxy.allow();
      await until(() => seen.publications.length === 3, 'what was missed');
      assert.deepEqual(seen.publications, [1, 2, 3].map((n) => ['mine-1', n]));
      const again = seen.subscribed.filter(({ channel }) => channel === 'mine-1')[1];
      assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
    });

    test('a subscription is refreshed when its token ends', async () => {
      let asked = 0;
      const grant = (seconds) => token('renewed', { channel: 'granted', exp: unixNow() + seconds });
      const member = client('protobuf', { token: token('renewed') });
      const room = await subscribed(member, 'granted', {
        token: grant(2),
        getToken: async () => {
          asked += 1;
          return grant(3600);
        },
      });
      await until(() => asked === 1, 'the SDK refreshes in time');
      await member.rpc('barrier', 1);
      await daemon.publish('granted', 'still');
      await received(room, ['still']);
      assert.deepEqual([room.seen.subscribed.length, room.seen.unsubscribed.length, room.seen.errors.length], [1, 0, 0]);
    });

    test('a reader that fell off the log is unsubscribed with 2500, subscribes again, and is told what it lost', async () => {
      let socket;
      class Watched extends WebSocket {
        constructor(...args) {
          super(...args);
          socket = this;
        }
      }
      const sleeper = client('protobuf', { websocket: Watched });
      const room = await subscribed(sleeper, 'tell:sdk', { positioned: true, recoverable: true });
      await daemon.publish('tell:sdk', { n: 1 });
      await until(() => room.seen.publications.length === 1, 'the first');
      socket.pause();
      // Far more than the buffers of both kernels and the history hold.
      for (const n of range(2, 400)) await daemon.publish('tell:sdk', { n, fill: ofBytes(48 * 1024) });
      socket.resume();
      await until(() => room.seen.subscribed.length === 2, 'it is subscribed again');
      assert.equal(room.seen.subscribing.at(-1).code, 2500);
      assert.deepEqual([room.seen.subscribed[1].wasRecovering, room.seen.subscribed[1].recovered], [true, false]);
      const before = room.seen.publications.map(({ data }) => data.n);
      assert.deepEqual(before, range(1, before.length), 'no gap before it is told');
      await daemon.publish('tell:sdk', { n: 'live' });
      await until(() => room.seen.publications.at(-1).data.n === 'live', 'it is live again');
      assert.equal(sleeper.log.connecting.length, 1, 'never a second connection');
    });

    test('a wrong token is 3500, an old one makes the SDK ask for a new one', async () => {
      const wrong = client('protobuf', { token: token('eve', {}, 'another secret of the same length!!') });
      const end = next(wrong, 'disconnected');
      wrong.connect();
      assert.deepEqual(await end, { code: 3500, reason: 'invalid token' });
      const renewing = client('protobuf', {
        token: token('carol', { exp: unixNow() - 10 }),
        getToken: async () => token('carol', { exp: unixNow() + 3600 }),
      });
      await connected(renewing);
      const refused = watch(renewing, 'nowhere:x');
      refused.subscribe();
      await until(() => refused.seen.unsubscribed.length === 1, 'an unknown namespace is refused');
      assert.deepEqual(refused.seen.unsubscribed[0], { channel: 'nowhere:x', code: 102, reason: 'unknown channel' });
    });
  });

  describe(`choosing Protobuf on ${driver}`, () => {
    let daemon;
    before(async () => (daemon = await Daemon.start({ driver })));
    after(async () => assert.equal(await daemon.stop(), 0));

    const PROTOBUF = 'centrifuge-protobuf';
    const JSON_TOO = 'centrifuge-json';
    // The query, what is offered, what is answered, what is spoken.
    const cases = [
      ['', [], undefined, 'json'],
      ['', [PROTOBUF], PROTOBUF, 'protobuf'],
      ['', [JSON_TOO], JSON_TOO, 'json'],
      ['', ['graphql-ws', PROTOBUF, 'x'], PROTOBUF, 'protobuf'],
      ['', [`graphql-ws, ${PROTOBUF}`], PROTOBUF, 'protobuf'],
      ['', [`${PROTOBUF}, ${JSON_TOO}`], PROTOBUF, 'protobuf'],
      ['', [`${JSON_TOO}, ${PROTOBUF}`], JSON_TOO, 'json'],
      ['', ['graphql-ws'], undefined, 'json'],
      ['?cf_protocol=protobuf', [], undefined, 'protobuf'],
      ['?format=protobuf', [], undefined, 'protobuf'],
      ['?x=1&cf_protocol=protobuf&y=', [], undefined, 'protobuf'],
      ['?cf_protocol=json', [], undefined, 'json'],
      ['?format=json', [], undefined, 'json'],
      ['?cf_protocol=json', [PROTOBUF], PROTOBUF, 'protobuf'],
      ['?cf_protocol=protobuf', [PROTOBUF], PROTOBUF, 'protobuf'],
    ];
    for (const [query, offered, answered, spoken] of cases) {
      test(`'${query}' and [${offered.join('; ')}]: ${spoken}`, async () => {
        const raw = await RawSocket.upgrade(daemon.port, `/connection/websocket${query}`, offered);
        assert.equal(raw.subprotocol, answered);
        raw.form = spoken;
        raw.command({ id: 1, connect: {} });
        // Of the opcode that goes with the form.
        assert.ok((await raw.message()).connect.client);
        raw.destroy();
      });
    }
  });

  describe(`bad Protobuf on ${driver}`, () => {
    let daemon;
    const clients = [];
    const bystanders = [];
    let publications = 0;

    before(async () => {
      daemon = await Daemon.start({ driver, args: ['--shards', '2'] });
      for (const form of forms) {
        clients.push(sdk(daemon.ws, { form }));
        bystanders.push(await subscribed(clients.at(-1), 'bystanders'));
      }
    });
    after(async () => {
      for (const client of clients) {
        assert.equal(client.log.connecting.length, 1, 'a bystander never lost its connection');
        client.disconnect();
      }
      assert.equal(await daemon.stop(), 0);
    });

    const undisturbed = async () => {
      publications += 1;
      await daemon.publish('bystanders', publications);
      for (const room of bystanders) await received(room, range(1, publications));
    };

    const BAD_REQUEST = { code: 3501, reason: 'bad request' };
    const refused = (name, form, body) =>
      test(`${name} is closed with 3501`, async () => {
        const before = await daemon.faults(/disconnect_3501/);
        const raw = await RawSocket.speaking(form, daemon.port);
        assert.deepEqual(await within(body(raw), name), BAD_REQUEST);
        await until(async () => (await daemon.faults(/disconnect_3501/)) > before, 'it is counted');
        await undisturbed();
      });
    /** Sent behind a connect, in a frame of its own. */
    const afterConnect = (name, ...payload) =>
      refused(name, 'protobuf', async (raw) => {
        raw.command({ id: 1, connect: {} });
        assert.ok((await raw.message()).connect);
        raw.write(frame(BINARY, Buffer.concat(payload.map((part) => Buffer.from(part)))));
        return raw.closed();
      });

    const varint = (value) => {
      const out = [];
      for (let rest = BigInt(value); ; rest >>= 7n) {
        if (rest < 0x80n) return [...out, Number(rest)];
        out.push(Number(rest & 0x7fn) | 0x80);
      }
    };
    const tag = (number, type) => varint(number * 8 + type);
    const text = (value) => Buffer.from(value);
    const field = (number, content) => [...tag(number, 2), ...varint(content.length), ...content];
    const delimited = (...parts) => [...varint(parts.flat().length), ...parts.flat()];
    const id = (value) => [...tag(1, 0), ...varint(value)];
    const subscribe = (...parts) => field(5, parts.flat());
    const stats = (channel, ...more) => field(9, [...field(1, text(channel)), ...more.flat()]);

    afterConnect('a truncated length', [0x80]);
    afterConnect('a length without an end', Array(10).fill(0x80), [0x01]);
    afterConnect('a length beyond 64 bits', Array(9).fill(0xff), [0x7f]);
    afterConnect('the greatest length', Array(9).fill(0xff), [0x01], id(2));
    afterConnect('a length beyond the frame', [5], id(2));
    afterConnect('good before bad', delimited(id(2), stats('x')), [0x80]);
    afterConnect('a length within beyond its message', delimited(id(2), tag(9, 2), [9], field(1, text('x'))));
    afterConnect('a tag without an end', delimited(Array(11).fill(0x80)));
    afterConnect('a truncated fixed field', delimited(id(2), tag(90, 1), [1, 2, 3]));
    afterConnect('a field without a number', delimited([0, 0]));
    afterConnect('the start of a group', delimited(id(2), tag(90, 3), tag(90, 4)));
    afterConnect('the end of a group', delimited(id(2), tag(90, 4)));
    afterConnect('groups in groups, many', delimited(id(2), ...Array(10_000).fill(tag(90, 3))));
    afterConnect('wire type 6', delimited(id(2), tag(90, 6)));
    afterConnect('wire type 7', delimited(id(2), tag(90, 7)));
    afterConnect('an id that is bytes', delimited(field(1, text('2')), stats('x')));
    afterConnect('an id that is fixed', delimited(tag(1, 5), [2, 0, 0, 0], stats('x')));
    afterConnect('an id beyond 32 bits', delimited(id(2n ** 32n), stats('x')));
    afterConnect('a command that is a number', delimited(id(2), tag(9, 0), [1]));
    afterConnect('a channel that is a number', delimited(id(2), field(9, [...tag(1, 0), 1])));
    afterConnect('a flag that is bytes', delimited(id(2), subscribe(field(1, text('x')), field(3, [1]))));
    afterConnect('an id twice', delimited(id(2), id(2), stats('x')));
    afterConnect('a channel twice', delimited(id(2), stats('x', field(1, text('x')))));
    afterConnect('a command twice', delimited(id(2), stats('x'), stats('x')));
    afterConnect('two commands in one message', delimited(id(2), stats('x'), subscribe(field(1, text('x')))));
    afterConnect('a channel that is not UTF-8', delimited(id(2), stats(Buffer.from([0x61, 0xff]))));
    afterConnect('a channel that is half a character', delimited(id(2), stats(text('é').subarray(0, 1))));
    afterConnect('an empty frame');
    afterConnect('JSON', text('{"id":2,"presence_stats":{"channel":"x"}}'));
    afterConnect('connect twice', encode([{ id: 2, connect: {} }]));
    afterConnect('a pong to no ping', [0]);
    afterConnect('more commands than a frame may hold', encode(Array(1025).fill({ id: 2, rpc: { method: 'x' } })));
    refused('a first command that is no connect', 'protobuf', (raw) => {
      raw.command({ id: 1, subscribe: { channel: 'x' } });
      return raw.closed();
    });
    refused('a pong before connect', 'protobuf', (raw) => {
      raw.command({});
      return raw.closed();
    });
    refused('JSON from the start', 'protobuf', (raw) => {
      raw.write(frame(TEXT, '{"id":1,"connect":{}}'));
      return raw.closed();
    });
    refused('Protobuf on a connection of JSON, in a binary frame', 'json', (raw) => {
      raw.write(frame(BINARY, encode([{ id: 1, connect: {} }])));
      return raw.closed();
    });
    refused('Protobuf on a connection of JSON, in a text frame', 'json', (raw) => {
      raw.write(frame(TEXT, encode([{ id: 1, connect: {} }])));
      return raw.closed();
    });
    test('a text frame that is not UTF-8 is closed with 1007, whatever it holds', async () => {
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      raw.write(frame(TEXT, Buffer.from(delimited(id(200), stats('x')))));
      assert.equal((await raw.closed()).code, 1007);
      await undisturbed();
    });

    test('a text frame is read like a binary one, and answered in binary', async () => {
      const raw = await RawSocket.speaking('protobuf', daemon.port);
      raw.write(frame(TEXT, encode([{ id: 1, connect: {} }])));
      assert.ok((await raw.message()).connect);
      raw.destroy();
    });

    test('unknown fields of every type are skipped, at every depth', async () => {
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      const unknown = [tag(90, 0), varint(2n ** 64n - 1n), tag(91, 1), Array(8).fill(1), tag(92, 5), Array(4).fill(1),
        field(93, text('later')), field(93, text('again')), tag(536_870_911, 0), [1]].flat();
      raw.write(frame(BINARY, Buffer.from(delimited(unknown, id(2), field(9, [...unknown, ...field(1, text('x')), ...unknown]), unknown))));
      assert.deepEqual(await raw.message(), { id: 2, presence_stats: {} });
      raw.destroy();
    });

    test('an unknown command and a filter by tags are refused, and the connection lives', async () => {
      const raw = await RawSocket.client(daemon.port, 'protobuf');
      // A filter in filters in filters: nobody descends into it.
      let filter = Buffer.alloc(0);
      for (let depth = 0; depth < 5_000; depth += 1) {
        filter = Buffer.concat([Buffer.from([...tag(6, 2), ...varint(filter.length)]), filter]);
      }
      raw.write(frame(BINARY, Buffer.from(delimited(id(2), field(90, [])))));
      assert.equal((await raw.message()).error.code, 104);
      raw.write(frame(BINARY, Buffer.from(delimited(id(3), subscribe(field(1, text('x')), field(13, filter))))));
      assert.equal((await raw.message()).error.code, 107);
      raw.write(frame(BINARY, Buffer.from(delimited(id(4), stats('x')))));
      assert.deepEqual(await raw.message(), { id: 4, presence_stats: {} });
      raw.destroy();
    });

    test('noise of every length ends each connection by itself, and nothing else', async () => {
      // Seeded: a failure can be repeated.
      let state = 1;
      const noise = () => (state = (state * 48_271) % 2_147_483_647) & 0xff;
      await Promise.all(range(1, 100).map(async (length) => {
        const bytes = Buffer.from(Array.from({ length }, noise));
        const raw = await RawSocket.client(daemon.port, 'protobuf');
        raw.write(frame(BINARY, bytes));
        // In case it could be read as commands that are only refused.
        raw.write(frame(BINARY, Buffer.from([0x80])));
        assert.deepEqual(await raw.closed(), BAD_REQUEST, bytes.toString('hex'));
      }));
      await undisturbed();
    });
  });
}
