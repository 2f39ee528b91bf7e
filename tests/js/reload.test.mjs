// A changed configuration for a running node: what it takes, what it refuses, and what clients notice of it: nothing.

import assert from 'node:assert/strict';
import http from 'node:http';
import { once } from 'node:events';
import { describe, test } from 'node:test';

import { API_KEY, Daemon, TOKEN_SECRET, configuration, drivers } from './support/daemon.mjs';
import { connected, received, sdk, subscribed, token } from './support/sdk.mjs';
import { Backend, Client } from './support/tunnel.mjs';
import { next, until } from './support/wait.mjs';

const open = { allow_subscribe_for_client: true, history_size: 100, history_ttl: '10m' };
const tomorrow = () => new Date(Date.now() + 86_400_000).toISOString().replace(/\.\d+Z/, 'Z');
const yesterday = () => new Date(Date.now() - 86_400_000).toISOString().replace(/\.\d+Z/, 'Z');

/** An HTTP server that records the JSON it is sent and answers with what `answer` makes of it. */
async function server(answer) {
  const asked = [];
  const own = http.createServer(async (request, response) => {
    const parts = [];
    for await (const part of request) parts.push(part);
    const body = JSON.parse(Buffer.concat(parts));
    asked.push(body);
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify(answer(body)));
  });
  own.listen(0, '127.0.0.1');
  await once(own, 'listening');
  return { asked, url: `http://127.0.0.1:${own.address().port}/`, stop: () => { own.closeAllConnections(); own.close(); } };
}

/** Whether a client with this token gets in. */
async function getsIn(daemon, shown) {
  const client = sdk(daemon.ws, { token: shown });
  const outcome = await new Promise((resolve) => {
    client.on('connected', () => resolve(true));
    client.on('disconnected', () => resolve(false));
    client.connect();
  });
  client.disconnect();
  return outcome;
}

for (const driver of drivers) {
  describe(`reload on ${driver}`, () => {
    test('namespaces come, go and change under subscribers who notice nothing', async () => {
      const namespace = [{ name: 'chat', ...open }, { name: 'old', ...open }];
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'], config: configuration({ namespace }) });
      const clients = [];
      const rooms = [];
      for (let n = 0; n < 20; n += 1) {
        const client = sdk(daemon.ws);
        clients.push(client);
        rooms.push(await subscribed(client, n % 2 ? 'chat:1' : 'old:1'));
      }
      for (let n = 1; n <= 10; n += 1) await daemon.api('broadcast', { channels: ['chat:1', 'old:1'], data: n });
      const before = await daemon.api('history', { channel: 'chat:1', limit: 100 });
      const changed = [{ name: 'chat', ...open, history_size: 4 }, { name: 'new', ...open }];
      daemon.configure(configuration({ namespace: changed }));
      assert.deepEqual(await daemon.reload(), {
        status: 200,
        changed: ['namespace "chat": history_size: 100 -> 4', 'namespace "new": added', 'namespace "old": removed'],
      });
      // The log is as it was, until it grows: then the new bound holds.
      const after = await daemon.api('history', { channel: 'chat:1', limit: 100 });
      assert.deepEqual(after, before);
      await daemon.api('broadcast', { channels: ['chat:1', 'old:1'], data: 11 });
      const kept = await daemon.api('history', { channel: 'chat:1', limit: 100 });
      assert.deepEqual(kept.publications.map(({ data }) => data), [8, 9, 10, 11]);
      assert.deepEqual([kept.epoch, kept.offset], [before.epoch, 11]);
      for (const room of rooms) await received(room, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
      const late = sdk(daemon.ws);
      await subscribed(late, 'new:1');
      await assert.rejects(subscribed(late, 'old:2'), /102/);
      for (const client of clients) {
        assert.equal(client.log.connecting.length, 1, 'it never connected again');
        client.disconnect();
      }
      late.disconnect();
      assert.deepEqual(await daemon.reload(), { status: 200, changed: [] });
      assert.equal(await daemon.stop(), 0);
    });

    test('what shaped threads and listeners is refused by name, and so is all that came with it', async () => {
      const daemon = await Daemon.start({ driver });
      const client = sdk(daemon.ws);
      await connected(client);
      const changed = configuration({ client: { connections_max: 100, channels_max: 7 }, limits: { inbox_messages: 99 } });
      daemon.configure({ shards: 3, ...changed, namespace: [{ name: 'new', ...open }] });
      const { status, detail, faults } = await daemon.reload();
      assert.deepEqual([status, detail], [422, 'nothing was changed']);
      const named = faults.map((fault) => fault.split(':')[0]);
      assert.deepEqual(named, ['shards', 'client.connections_max', 'limits.inbox_messages']);
      faults.forEach((fault) => assert.match(fault, /upgrade or restart/));
      await assert.rejects(subscribed(client, 'new:1'), /102/);

      // A file with faults, each of them named.
      daemon.configure('[client]\nchannels_max = "many"\n[channel]\nforce_recovery = 3\n');
      const wrong = await daemon.reload();
      assert.equal(wrong.status, 422);
      assert.ok(wrong.faults.some((fault) => fault.includes('client.channels_max')), wrong.faults.join('\n'));
      assert.ok(wrong.faults.some((fault) => fault.includes('channel.force_recovery')), wrong.faults.join('\n'));
      daemon.configure('[client\n');
      assert.equal((await daemon.reload()).status, 422);
      daemon.signal('SIGHUP');
      await until(() => daemon.output.includes('the configuration stays as it was'), () => daemon.output);
      assert.equal((await daemon.reload('another key')).status, 401);
      await subscribed(client, 'room');
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    test('keys and secrets change, and the ones before hold until their time', async () => {
      const daemon = await Daemon.start({ driver });
      const secret = 'the secret that comes after, 0123456789';
      const [old, fresh] = [token('ann'), token('ann', {}, secret)];
      assert.deepEqual([await getsIn(daemon, old), await getsIn(daemon, fresh)], [true, false]);
      const after = (until) => configuration({
        api: { key: 'the key that comes after', previous_keys: [API_KEY], previous_until: until },
        client: { token: { hmac_secret: secret, previous_hmac_secret: TOKEN_SECRET, previous_until: until } },
      });
      daemon.configure(after(tomorrow()));
      const { status, changed } = await daemon.reload();
      assert.equal(status, 200, JSON.stringify(changed));
      assert.ok(!JSON.stringify(changed).includes(secret) && !JSON.stringify(changed).includes('comes after'), changed.join());
      assert.deepEqual([await getsIn(daemon, old), await getsIn(daemon, fresh)], [true, true]);
      await daemon.api('info');
      await daemon.api('info', {}, 'the key that comes after');
      // An expired token of the secret before is expired, so that its client fetches another.
      const expired = sdk(daemon.ws, { token: token('ann', { exp: 1_000_000_000 }), getToken: async () => fresh });
      await connected(expired);
      expired.disconnect();
      // The time has come.
      daemon.configure(after(yesterday()));
      assert.equal((await daemon.reload()).status, 200);
      assert.deepEqual([await getsIn(daemon, old), await getsIn(daemon, fresh)], [false, true]);
      assert.equal((await daemon.apiRaw('info', {})).status, 401);
      await daemon.api('info', {}, 'the key that comes after');
      assert.equal(await daemon.stop(), 0);
    });

    test('the numbers of admission and of pages change for those who come', async () => {
      const admitting = (admission, client = {}) => configuration({ admission, client, channel: { ...open, history_size: 20, history_ttl: '60s' } });
      const daemon = await Daemon.start({ driver, config: admitting({ connects_per_second: 1000 }) });
      const upgraded = async () => {
        const headers = { upgrade: 'websocket', connection: 'upgrade', 'sec-websocket-version': '13', 'sec-websocket-key': 'AAAAAAAAAAAAAAAAAAAAAA==' };
        const request = http.get(`${daemon.http}/connection/websocket`, { headers, agent: false });
        const status = await new Promise((resolve, reject) => {
          request.on('upgrade', () => resolve(101)).on('response', (response) => resolve(response.statusCode)).on('error', reject);
        });
        request.destroy();
        return status;
      };
      const client = sdk(daemon.ws);
      const subscription = await subscribed(client, 'room');
      for (let number = 1; number <= 8; number += 1) await daemon.publish('room', number);
      assert.equal((await subscription.history({ limit: 8 })).publications.length, 8);
      daemon.configure(admitting({ connects_per_second: 1, connects_burst: 2, retry_after_max: '5s' }, { history_max_publication_limit: 3 }));
      const { status, changed } = await daemon.reload();
      assert.deepEqual([status, changed.map((change) => change.split(':')[0]).sort()], [200, [
        'admission.connects_burst', 'admission.connects_per_second', 'admission.retry_after_max', 'client.history_max_publication_limit',
      ]]);
      assert.equal((await subscription.history({ limit: 8 })).publications.length, 3);
      const statuses = [];
      for (let number = 0; number < 6; number += 1) statuses.push(await upgraded());
      assert.ok(statuses.slice(3).includes(503), statuses.join());
      // What it takes more than numbers for is refused, and the old numbers hold.
      for (const admission of [{}, { connects_per_second: 1, network_connections_max: 5 }]) {
        daemon.configure(admitting(admission, { history_max_publication_limit: 3 }));
        const { status, faults } = await daemon.reload();
        assert.equal(status, 422);
        assert.match(faults.join(), /^admission: .*upgrade or restart$/);
      }
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
    });

    test('hooks, tunnels, events, origins and the log change at once', async () => {
      const hook = await server(() => ({ result: { user: 'asked' } }));
      const events = await server(() => ({}));
      const game = await Backend.start();
      const first = { tunnel: [{ name: 'game', endpoint: game.url }] };
      const daemon = await Daemon.start({ driver, args: ['--shards', '2'], config: configuration(first) });
      const player = await Client.connect(`ws://${daemon.address}/tunnel/game`);
      player.ws.send('one');
      await player.got(1);
      const more = configuration({
        client: { allow_anonymous: false, connect_hook: 'backend', allowed_origins: ['https://page.example'] },
        hook: [{ name: 'backend', endpoint: hook.url, timeout: '5s' }],
        tunnel: [{ name: 'other', endpoint: game.url }],
        events: { types: ['connected'], endpoint: events.url },
        log: { level: 'debug' },
      });
      daemon.configure(more);
      const { status, changed } = await daemon.reload();
      assert.equal(status, 200, JSON.stringify(changed));
      for (const part of ['hook "backend": added', 'tunnel "other": added', 'tunnel "game": removed', 'log.level: "info" -> "debug"']) {
        assert.ok(changed.includes(part), `${part} in\n${changed.join('\n')}`);
      }
      const client = sdk(daemon.ws);
      await connected(client);
      assert.equal(hook.asked.length, 1);
      await until(() => events.asked.length > 0, 'an event is sent');
      assert.equal(events.asked[0].events[0].user, 'asked');
      const page = await fetch(`${daemon.http}/sse?channel=c`, { headers: { Origin: 'https://page.example' } });
      assert.notEqual(page.status, 403);
      await page.body.cancel();
      // The tunnel that is gone serves those who have it, and lets nobody in.
      player.ws.send('two');
      assert.deepEqual(await player.got(2), ['one', 'two']);
      assert.equal((await fetch(`${daemon.http}/tunnel/game`)).status, 404);
      const another = await Client.connect(`ws://${daemon.address}/tunnel/other`);
      another.ws.send('x');
      await another.got(1);

      // Where batches of events go changes too; a hook that is gone is asked no more.
      const asked = hook.asked.length;
      const elsewhere = await server(() => ({}));
      more.events.endpoint = elsewhere.url;
      delete more.client.connect_hook;
      delete more.hook;
      daemon.configure(more);
      assert.equal((await daemon.reload()).status, 200);
      const known = sdk(daemon.ws, { token: token('ann') });
      await connected(known);
      await until(() => elsewhere.asked.length > 0, 'an event is sent elsewhere');
      assert.equal(hook.asked.length, asked);
      const stranger = sdk(daemon.ws);
      const out = next(stranger, 'disconnected');
      stranger.connect();
      assert.equal((await out).code, 3501);
      assert.equal(hook.asked.length, asked);
      [client, known].forEach((one) => one.disconnect());
      [player, another].forEach((one) => one.ws.close());
      assert.equal(await daemon.stop(), 0);
      [hook, events, elsewhere].forEach((one) => one.stop());
      await game.stop();
    });
  });
}
