// Inboxes of users: what a device lacks comes by itself, to SDKs that know nothing of it, and after a kill; and how many devices of
// a class a user may have.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { forms, sdk, token } from './support/sdk.mjs';
import { file, folder as files, upgrade } from './support/upgrade.mjs';
import { until } from './support/wait.mjs';

const inbox = {
  name: 'inbox', cursors: true, history_size: 20, history_ttl: '10m', force_recovery: true, allow_history_for_subscriber: true,
};

/** A device that has just been started, with all that its inbox gives it. */
async function start(daemon, user, device, { query = '', ...options } = {}) {
  const client = sdk(`${daemon.ws}${query}`, { token: token(user, device && { device }), ...options });
  const got = { data: [], subscribed: [], offset: 0 };
  client.on('subscribed', (event) => got.subscribed.push(event));
  client.on('connected', (event) => { got.id = event.client; });
  client.on('publication', ({ channel, data, offset }) => {
    assert.equal(channel, `inbox:#${user}`);
    got.data.push(data);
    got.offset = offset;
  });
  client.connect();
  await until(() => client.state === 'connected' || client.state === 'disconnected', 'an answer');
  return Object.assign(client, { got });
}

const ack = async (client, channel, offset, device) => {
  const { data } = await client.rpc('trunkline.ack', { acks: [{ channel, offset, kind: 'received' }], device });
  return data.acks[0];
};

const has = (client, data) => until(() => client.got.data.length >= data.length, () => `${data}; there is ${client.got.data}`)
  .then(() => assert.deepEqual(client.got.data, data));

/** What a stream of events says in its first messages, up to `count` publications. */
async function events(daemon, user, device, count) {
  const abort = new AbortController();
  const response = await fetch(`${daemon.http}/sse?token=${token(user, { device })}`, { signal: abort.signal });
  let text = '';
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    text += part;
    if ([...text.matchAll(/^data:.*"data":/gm)].length >= count) break;
  }
  abort.abort();
  return text;
}

describe('inboxes of users', { concurrency: true }, () => {
  for (const driver of drivers) {
    test(`on ${driver}: each device gets what it lacks, with any form, and after kill -9`, async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-inbox-'));
      const port = await freePort();
      const config = configuration({
        client: { inbox_namespace: 'inbox' },
        store: { path: path.join(folder, 'store') },
        namespace: [{ ...inbox, durable: 'sync' }],
      });
      const begin = () => Daemon.start({ driver, config, listen: `127.0.0.1:${port}`, args: ['--shards', '3'] });
      let daemon = await begin();
      const post = (users, data, more = {}) => daemon.api('inbox', { users, data, ...more });

      // Nobody is connected. One answer for each user, and one entry for one that is named twice.
      const first = await post(['ann', 'bob', 'ann'], 1, { idempotency_key: 'k', tags: { kind: 'mention' } });
      assert.deepEqual(first.responses.map(({ result }) => result.offset), [1, 1, 1]);
      const repeat = await post(['ann', 'carl'], 1, { idempotency_key: 'k' });
      assert.deepEqual(repeat.responses.map(({ result }) => result.offset), [1, 1], 'of each user by itself');
      await post(['ann'], 2);

      // A device of which nothing is known gets all that is kept, whatever the form.
      for (const form of forms) {
        const phone = await start(daemon, 'ann', 'phone:1', { form });
        await has(phone, [1, 2]);
        assert.equal(phone.got.subscribed[0].recovered, true);
        phone.disconnect();
      }
      const phone = await start(daemon, 'ann', 'phone:1');
      await has(phone, [1, 2]);
      assert.deepEqual(await ack(phone, 'inbox:#ann', 2), { received: 2, read: 0 }, 'the device is the token\'s');
      await assert.rejects(ack(phone, 'inbox:#ann', 2, 'desktop'), { code: 103 });
      await post(['ann'], 3);
      await has(phone, [1, 2, 3]);
      phone.disconnect();

      // Started again without a position: behind what it has acknowledged. Another device has it all.
      await post(['ann'], 4);
      const again = await start(daemon, 'ann', 'phone:1');
      await has(again, [3, 4]);
      assert.deepEqual([again.got.subscribed[0].wasRecovering, again.got.subscribed[0].recovered], [true, true]);
      await ack(again, 'inbox:#ann', 4);
      const desktop = await start(daemon, 'ann', 'desktop');
      await has(desktop, [1, 2, 3, 4]);
      await ack(desktop, 'inbox:#ann', 1);
      const { cursors } = await daemon.api('cursors', { channel: 'inbox:#ann' });
      assert.deepEqual(cursors.map(({ device, received }) => `${device} ${received}`).sort(), ['desktop 1', 'phone:1 4']);

      // One that names no device begins behind what any of them has.
      const unnamed = await start(daemon, 'ann');
      assert.deepEqual([unnamed.got.data, unnamed.got.subscribed[0].recovered], [[], true]);

      // While it lives, a client goes on by its own position.
      await daemon.kill();
      daemon = await begin();
      await until(() => desktop.got.subscribed.length === 2, 'the desktop is back');
      await post(['ann'], 5);
      for (const client of [again, desktop]) await has(client, client === again ? [3, 4, 5] : [1, 2, 3, 4, 5]);
      await has(unnamed, [5]);
      for (const client of [again, desktop, unnamed]) client.disconnect();

      // The cursors have outlived the kill.
      const later = await start(daemon, 'ann', 'desktop');
      await has(later, [2, 3, 4, 5]);
      const said = await events(daemon, 'ann', 'phone:1', 1);
      assert.deepEqual([...said.matchAll(/"data":(\d)/g)].map(([, data]) => data), ['5'], said);

      // What is gone is said; the history has the rest.
      for (let number = 6; number <= 30; number += 1) await post(['ann'], number);
      later.disconnect();
      const lost = await start(daemon, 'ann', 'desktop');
      const [event] = lost.got.subscribed;
      assert.deepEqual([event.wasRecovering, event.recovered, lost.got.data], [true, false, []]);
      const { publications } = await lost.history('inbox:#ann', { limit: 100 });
      assert.deepEqual([publications.length, publications.at(-1).data], [20, 30]);
      await ack(lost, 'inbox:#ann', event.streamPosition.offset);
      lost.disconnect();
      const caught = await start(daemon, 'ann', 'desktop');
      assert.deepEqual([caught.got.data, caught.got.subscribed[0].recovered], [[], true]);
      caught.disconnect();
      assert.equal(await daemon.stop(), 0);
      rmSync(folder, { recursive: true });
    });

    test(`on ${driver}: what cannot be asked for has its code`, async () => {
      const config = configuration({ client: { inbox_namespace: 'inbox' }, namespace: [inbox] });
      const daemon = await Daemon.start({ driver, config });
      const code = async (body) => (await daemon.apiRaw('inbox', body)).answer.error?.code ?? 'ok';
      const users = (count) => Array.from({ length: count }, (_, number) => `u${number}`);
      assert.equal(await code({ users: users(1000), data: 1 }), 'ok');
      for (const body of [
        { data: 1 }, { users: [], data: 1 }, { users: users(1001), data: 1 }, { users: ['ann', ''], data: 1 },
        { users: ['a'.repeat(257)], data: 1 }, { users: ['ann'] }, { users: ['ann'], b64data: '%' },
        { users: ['ann', 'bob'], data: 1, except: { user: 'ann' } }, { users: ['ann'], data: 1, except: { client: 'nobody' } },
        { users: ['ann'], data: 1, spread_ms: 3600001 }, { users: ['ann'], data: 1, class: 'fast' },
      ]) assert.equal(await code(body), 107, JSON.stringify(body).slice(0, 60));
      // One that has no inbox, for its name is too long for a channel, does not keep it from others.
      const { responses } = await daemon.api('inbox', { users: ['ann', 'b'.repeat(250)], data: 1 });
      assert.deepEqual([responses[0].result.offset, responses[1].error.code], [1, 107]);
      const { replies } = await daemon.api('batch', { commands: [{ inbox: { users: ['ann'], data: 2 } }] });
      assert.equal(replies[0].inbox.responses[0].result.offset, 2);

      // A version is of each inbox by itself: what is not above it is not appended, and is answered with where the inbox stands.
      const offsets = async (body) => (await daemon.api('inbox', body)).responses.map(({ result }) => result.offset);
      assert.deepEqual(await offsets({ users: ['dan', 'eve'], data: 1, version: 5, version_epoch: 'a' }), [1, 1]);
      assert.deepEqual(await offsets({ users: ['dan', 'fay'], data: 2, version: 5, version_epoch: 'a' }), [1, 1]);
      assert.deepEqual(await offsets({ users: ['dan', 'eve'], data: 3, version: 6, version_epoch: 'a' }), [2, 2]);
      assert.deepEqual(await offsets({ users: ['dan'], data: 4, version: 1, version_epoch: 'b' }), [3]);
      const dan = await start(daemon, 'dan', 'd');
      await has(dan, [1, 3, 4]);

      // What is kept from a connection, or from those of a tag, they do not get when they come back either. Other devices get it.
      const tab = () => start(daemon, 'eve', 'tab', { query: '?origin=tab' });
      let eve = await tab();
      await has(eve, [1, 3]);
      await offsets({ users: ['dan', 'eve'], data: 5, except: { origin: 'tab' } });
      await offsets({ users: ['dan', 'eve'], data: 6, except: { client: eve.got.id } });
      await offsets({ users: ['dan', 'eve'], data: 7 });
      await has(dan, [1, 3, 4, 5, 6, 7]);
      await has(eve, [1, 3, 7]);
      eve.disconnect();
      eve = await tab();
      await has(eve, [1, 3, 6, 7]);
      const phone = await start(daemon, 'eve', 'phone');
      await has(phone, [1, 3, 5, 6, 7]);
      phone.disconnect();

      // Spread over the users, or of low priority: it comes, and what comes after it comes behind it.
      await offsets({ users: ['dan', 'eve', 'dan'], data: 'slow', spread_ms: 200 });
      await offsets({ users: ['eve', 'dan'], data: 'low', class: 'bulk' });
      await offsets({ users: ['dan', 'eve'], data: 'last' });
      await has(dan, [1, 3, 4, 5, 6, 7, 'slow', 'low', 'last']);
      await has(eve, [1, 3, 6, 7, 'slow', 'low', 'last']);
      dan.disconnect();
      eve.disconnect();
      // Nobody reads another one's, and a device's name has its bound.
      const bob = await start(daemon, 'bob', 'd');
      const sub = bob.newSubscription('inbox:#ann');
      const refused = new Promise((resolve) => sub.on('unsubscribed', resolve));
      sub.subscribe();
      assert.equal((await refused).code, 103);
      bob.disconnect();
      const long = await start(daemon, 'bob', 'd'.repeat(65));
      assert.equal(long.log.disconnected[0].code, 3500);
      assert.equal(await daemon.stop(), 0);

      const none = await Daemon.start({ driver });
      assert.equal((await none.apiRaw('inbox', { users: ['ann'], data: 1 })).answer.error.code, 108);
      assert.equal(await none.stop(), 0);
    });

    test(`on ${driver}: one phone and one desktop`, async () => {
      const limits = { device_connections_max: ['phone=1', 'desktop=1'] };
      const daemon = await Daemon.start({
        driver, config: configuration({ client: { ...limits, user_connections_policy: 'replace' } }), args: ['--shards', '3'],
      });
      const here = () => daemon.api('info').then(({ nodes }) => nodes[0].num_clients);
      const old = await start(daemon, 'ann', 'phone:old');
      const desktop = await start(daemon, 'ann', 'desktop');
      const other = await start(daemon, 'bob', 'phone');
      const watches = [await start(daemon, 'ann', 'watch'), await start(daemon, 'ann', 'watch'), await start(daemon, 'ann')];
      const fresh = await start(daemon, 'ann', 'phone:new');
      assert.equal(fresh.state, 'connected');
      await until(() => old.state === 'disconnected', 'the phone before it is closed');
      assert.deepEqual(old.log.disconnected.map(({ code }) => code), [3510]);
      assert.equal(old.log.connecting.length, 1, 'it does not come back by itself');
      for (const client of [desktop, other, ...watches]) assert.equal(client.state, 'connected');
      await until(async () => (await here()) === 6, 'one for another');

      // A stream without an SDK is of its class as well.
      const stream = await fetch(`${daemon.http}/sse?channel=a&token=${token('ann', { device: 'desktop' })}`);
      await until(() => desktop.state === 'disconnected', 'the desktop before it is closed');
      assert.equal(desktop.log.disconnected[0].code, 3510);
      await stream.body.cancel();
      for (const client of [fresh, other, ...watches]) client.disconnect();
      assert.equal(await daemon.stop(), 0);

      const rejecting = await Daemon.start({ driver, config: configuration({ client: limits }) });
      const kept = await start(rejecting, 'ann', 'phone:1');
      const late = await start(rejecting, 'ann', 'phone:2');
      assert.deepEqual([kept.state, late.state, late.log.disconnected[0]?.code], ['connected', 'disconnected', 3504]);
      kept.disconnect();
      assert.equal(await rejecting.stop(), 0);
    });
  }

  test('another process has the cursors of devices and the places of their classes', async () => {
    const settings = (driver, shards) => configuration({
      driver, shards, sandbox: { read: [files] },
      client: { inbox_namespace: 'inbox', device_connections_max: ['phone=1'], user_connections_policy: 'replace' },
      namespace: [inbox],
    });
    const daemon = await Daemon.start({ config: settings(drivers[0], 2), listen: `127.0.0.1:${await freePort()}` });
    const post = (data) => daemon.api('inbox', { users: ['ann'], data });
    await post(1);
    await post(2);
    const phone = await start(daemon, 'ann', 'phone:1');
    await has(phone, [1, 2]);
    await ack(phone, 'inbox:#ann', 1);
    const desktop = await start(daemon, 'ann', 'desktop');
    const said = await upgrade(daemon.pid, '--config', file('inbox.toml', settings(drivers[1], 3)));
    assert.equal(said.code, 0, said.out + said.error + daemon.output);
    await post(3);
    for (const client of [phone, desktop]) await has(client, [1, 2, 3]);
    assert.equal(phone.log.disconnected.length, 0);
    // The device is still known for what it is: it acknowledges for itself, and it is the one phone.
    await assert.rejects(ack(phone, 'inbox:#ann', 3, 'desktop'), { code: 103 });
    const other = await start(daemon, 'ann', 'phone:2');
    await has(other, [1, 2, 3]);
    await until(() => phone.state === 'disconnected', 'the phone before it is closed');
    assert.equal(phone.log.disconnected[0].code, 3510);
    other.disconnect();
    const back = await start(daemon, 'ann', 'phone:1');
    await has(back, [2, 3]);
    for (const client of [desktop, back]) client.disconnect();
    process.kill(said.pid, 'SIGTERM');
    assert.equal(await daemon.ended(), 0);
  });
});
