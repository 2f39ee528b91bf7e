// Who has received and read what: acknowledgements by the unmodified SDK, asked of the API, and right after a kill.

import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { Backend } from './support/backend.mjs';
import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { connected, sdk, subscribed, token } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const MEMBERS = 1000;
const GROUPS = Array.from({ length: 10 }, (_, number) => `group:${number}`);

const received = (channel, offset) => ({ channel, offset, kind: 'received' });
const read = (channel, offset) => ({ channel, offset, kind: 'read' });

const ack = async (client, acks, device) => (await client.rpc('trunkline.ack', { acks, device })).data.acks;
const errors = (answers) => answers.map((answer) => answer.error?.code ?? 'ok');

// Both drivers side by side.
describe('cursors of members', { concurrency: true }, () => {
  for (const driver of drivers) {
    test(`a group on ${driver}: acknowledged in one call, counted, and the same after kill -9`, async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-cursors-'));
      const port = await freePort();
      const group = { name: 'group', durable: 'sync', cursors: true, history_size: 100, history_ttl: '10m', force_recovery: true };
      const config = configuration({
        store: { path: path.join(folder, 'store') },
        namespace: [{ ...group, allow_subscribe_for_client: true, allow_history_for_client: true }],
      });
      const start = () => Daemon.start({ driver, config, listen: `127.0.0.1:${port}`, args: ['--shards', '3'] });
      let daemon = await start();
      const clients = [];
      const device = (user) => {
        const client = sdk(daemon.ws, { token: token(user) });
        clients.push(client);
        return client;
      };
      const unread = async (user, channels = GROUPS) => (await daemon.api('unread', { user, channels })).unread;
      const message = (channel, data) => daemon.api('publish', { channel, data });

      // A group of a thousand: each message is kept once.
      const users = Array.from({ length: MEMBERS }, (_, number) => `u${String(number).padStart(4, '0')}`);
      assert.deepEqual(await daemon.api('members', { channel: 'group:0', add: users }), { added: MEMBERS, removed: 0 });
      for (const channel of GROUPS) for (let count = 1; count <= 5; count += 1) await message(channel, count);
      const page = await daemon.api('members', { channel: 'group:0', limit: 3, cursor: 'u0001' });
      assert.deepEqual(page, { users: ['u0002', 'u0003', 'u0004'], total: MEMBERS, cursor: 'u0004' });
      assert.equal((await unread('u0500'))['group:0'].unread, 5);

      // Two devices of one user. Ten groups in one call.
      const phone = device('u0001');
      const seen = await Promise.all(GROUPS.map((channel) => subscribed(phone, channel)));
      const desktop = device('u0001');
      const onDesktop = await subscribed(desktop, 'group:0');
      const answers = await ack(phone, GROUPS.map((channel) => read(channel, 3)), 'phone');
      assert.deepEqual(answers, GROUPS.map(() => ({ received: 3, read: 3 })));
      assert.deepEqual(await ack(desktop, [received('group:0', 4)], 'desktop'), [{ received: 4, read: 3 }]);
      assert.deepEqual(await ack(phone, [read('group:0', 1)], 'phone'), [{ received: 3, read: 3 }], 'a late one does nothing');

      // What is wrong has its code, in its place.
      const { epoch } = await daemon.api('cursors', { channel: 'group:0' });
      const wrong = [
        read('group:0', 6), { ...read('group:0', 1), epoch: 'other' }, { ...read('group:0', 1), epoch }, read('group:77', 1), read('plain', 0),
        read('none:1', 0),
      ];
      assert.deepEqual(errors(await ack(phone, wrong, 'phone')), [107, 112, 'ok', 103, 108, 102]);
      await assert.rejects(phone.rpc('trunkline.ack', { acks: Array(101).fill(read('group:0', 1)) }), { code: 106 });
      await assert.rejects(phone.rpc('trunkline.ack', { acks: 'all' }), { code: 107 });
      await assert.rejects(phone.rpc('trunkline.nothing', {}), { code: 104 });
      assert.ok((await daemon.metrics()).get('trunkline_acks_refused_total') >= 2, 'what owners refuse is counted');

      // Killed right after the answer: what was acknowledged is acknowledged.
      await ack(phone, GROUPS.map((channel) => read(channel, 4)), 'phone');
      desktop.disconnect();
      process.kill(daemon.pid, 'SIGKILL');
      daemon = await start();
      const after = await unread('u0001');
      assert.deepEqual(GROUPS.map((channel) => after[channel]), GROUPS.map(() => ({ unread: 1, read: 4, offset: 5 })));
      assert.equal((await unread('u0500'))['group:0'].unread, 5);
      assert.equal((await daemon.api('members', { channel: 'group:0', limit: 1 })).total, MEMBERS);
      const { cursors } = await daemon.api('cursors', { channel: 'group:0', user: 'u0001' });
      assert.deepEqual(cursors.sort((a, b) => b.received - a.received || (a.device < b.device ? -1 : 1)), [
        { user: 'u0001', device: 'desktop', received: 4, read: 0 },
        { user: 'u0001', device: 'phone', received: 4, read: 4 },
      ]);
      assert.deepEqual(await daemon.api('read_by', { channel: 'group:0', offset: 4 }), { users: ['u0001'], total: 1, cursor: null });
      assert.equal((await daemon.api('read_by', { channel: 'group:0', offset: 4, kind: 'received' })).total, 1);

      // The device that was away gets what it lacks, the other one nothing twice.
      await message('group:0', 6);
      await until(() => seen[0].seen.publications.some(({ offset }) => offset === 6), 'the phone gets it');
      desktop.connect();
      await until(() => onDesktop.seen.publications.length > 0, 'the desktop gets it');
      assert.deepEqual(onDesktop.seen.publications.map(({ offset }) => offset), [6]);
      assert.deepEqual(seen[0].seen.publications.map(({ offset }) => offset), [6]);

      // Who is taken out is no member any more, also after the next kill.
      assert.deepEqual(await daemon.api('members', { channel: 'group:0', remove: users.slice(10) }), { added: 0, removed: MEMBERS - 10 });
      process.kill(daemon.pid, 'SIGKILL');
      daemon = await start();
      assert.equal((await daemon.api('members', { channel: 'group:0' })).total, 10);
      clients.forEach((client) => client.disconnect());
      assert.equal(await daemon.stop(), 0);
      rmSync(folder, { recursive: true });
    });
  }

  test('who subscribes gets where its user stands, beside what the backend says', async () => {
    const group = { cursors: true, cursors_in_data: true, history_size: 100, history_ttl: '10m', allow_subscribe_for_client: true };
    const daemon = await Daemon.start({
      driver: drivers[0],
      config: configuration({ namespace: [{ name: 'group', ...group }, { name: 'plain' }] }),
      args: ['--shards', '2'],
    });
    const [own, asked] = ['group:own', 'group:asked'];
    for (const channel of [own, asked]) for (let count = 1; count <= 3; count += 1) await daemon.api('publish', { channel, data: count });
    const subs = { [own]: { data: { theirs: 1 } }, 'plain:1': {} };
    const join = async (user, device) => {
      const client = sdk(daemon.ws, { token: token(user, { subs }) });
      const { data } = await connected(client);
      const subscription = await subscribed(client, asked);
      if (device) await ack(client, [read(own, 2), received(asked, 3)], device);
      client.disconnect();
      return [data.cursors, subscription.seen.subscribed[0].data.cursors];
    };
    const { epoch } = await daemon.api('cursors', { channel: own });
    const [nothing, other] = await join('ann', 'phone');
    assert.deepEqual(nothing, { [own]: { offset: 3, epoch, read: 0, unread: 3, devices: {} } });
    assert.deepEqual({ ...other, epoch: '' }, { offset: 3, epoch: '', read: 0, unread: 3, devices: {} });
    await join('ann', 'desktop');
    const devices = { desktop: { received: 2, read: 2 }, phone: { received: 2, read: 2 } };
    const [mine, its] = await join('ann');
    assert.deepEqual(mine, { [own]: { offset: 3, epoch, read: 2, unread: 1, devices } });
    assert.deepEqual(its.devices, { desktop: { received: 3, read: 0 }, phone: { received: 3, read: 0 } });
    const [[stranger]] = [await join('bob')];
    assert.equal(stranger[own].unread, 3);
    assert.equal(await daemon.stop(), 0);
  });

  test('who lacks a message is named to the backend once, also after a kill, and who sent it hears who has it', async () => {
    const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-unacked-'));
    const said = [];
    // A batch that was under way when the process was killed comes again, with the numbers that it had.
    const fresh = (event) => !said.some(({ seq }) => seq === event.seq);
    const backend = await Backend.start({ events: ({ events }) => (said.push(...events.filter(fresh)), {}) });
    const group = {
      durable: 'sync', cursors: true, ack_timeout: '3s', receipts: true, history_size: 100, history_ttl: '10m', force_recovery: true,
      allow_subscribe_for_client: true, allow_publish_for_client: true,
    };
    const port = await freePort();
    const config = configuration({
      store: { path: path.join(folder, 'store') },
      events: { types: ['acked', 'unacked'], endpoint: `http://127.0.0.1:${backend.port}/events` },
      namespace: [{ name: 'group', ...group }],
    });
    const start = () => Daemon.start({ driver: drivers[0], config, listen: `127.0.0.1:${port}`, args: ['--shards', '2'] });
    let daemon = await start();
    const [team, crowd] = ['group:team', 'group:crowd'];
    const message = (channel, data) => daemon.api('publish', { channel, data });
    const device = async (user) => {
      const client = sdk(daemon.ws, { token: token(user) });
      client.heard = [];
      client.on('message', ({ data }) => client.heard.push(...data.receipts));
      return { client, ...(await subscribed(client, team)) };
    };
    /** Who was named for the message, by each event that is about it. */
    const named = (channel, offset) => said
      .filter((event) => event.type === 'unacked' && event.channel === channel && event.from <= offset && offset <= event.to)
      .map((event) => event.users);

    // A crowd: one message in its log, one event.
    const users = Array.from({ length: MEMBERS }, (_, number) => `u${String(number).padStart(4, '0')}`);
    await daemon.api('members', { channel: crowd, add: users });
    await message(crowd, 'x'.repeat(1000));
    await until(() => named(crowd, 1).length > 0, 'the crowd is named');
    assert.deepEqual(named(crowd, 1).map((all) => all.map(({ user }) => user).sort()), [users]);
    const size = (await daemon.api('channels', { limit: 10 })).channels[crowd];
    assert.ok(size.history === 1 && size.history_bytes < 2000, `kept once: ${JSON.stringify(size)}`);

    // Two devices of a user, one of which goes away.
    await daemon.api('members', { channel: team, add: ['ann', 'bob', 'carol'] });
    const [phone, desktop, bob] = [await device('ann'), await device('ann'), await device('bob')];
    await message(team, 1);
    await ack(phone.client, [received(team, 1)], 'phone');
    await ack(desktop.client, [received(team, 1)], 'desktop');
    await ack(bob.client, [read(team, 1)]);
    const carol = { user: 'carol', received: 0, devices: [], elsewhere: false };
    await until(() => named(team, 1).length > 0, 'the first is judged');
    assert.deepEqual(named(team, 1), [[carol]]);
    desktop.client.disconnect();
    for (const data of [2, 3]) await message(team, data);
    await ack(phone.client, [read(team, 3)], 'phone');
    await ack(bob.client, [received(team, 3)]);
    await until(() => named(team, 3).length > 0, 'the others are judged');
    const ann = { user: 'ann', received: 1, devices: ['desktop'], elsewhere: true };
    const byName = (a, b) => (a.user < b.user ? -1 : 1);
    for (const offset of [2, 3]) {
      assert.deepEqual(named(team, offset).map((all) => all.map((one) => ({ ...one })).sort(byName)), [[ann, carol]], 'each once');
    }
    const acked = () => said.filter((event) => event.type === 'acked' && event.channel === team).flatMap((event) => event.acks);
    const ofPhone = () => acked().filter((one) => one.device === 'phone').at(-1);
    await until(() => ofPhone()?.read === 3, 'the backend hears what was acknowledged');
    assert.deepEqual(ofPhone(), { user: 'ann', device: 'phone', received: 3, read: 3 });
    const before = desktop.seen.publications.length;
    desktop.client.connect();
    await until(() => desktop.seen.publications.length >= before + 2, 'the desktop gets what it lacks');
    assert.deepEqual(desktop.seen.publications.slice(before).map(({ offset }) => offset), [2, 3]);

    // Who sends hears how many besides its user have got it.
    await phone.client.publish(team, 'mine');
    await ack(bob.client, [received(team, 4)]);
    await ack(phone.client, [read(team, 4)], 'phone');
    const counts = (client) => client.heard.filter(({ offset }) => offset === 4).map(({ channel, offset, ...rest }) => rest);
    await until(() => counts(phone.client).length > 0 && counts(desktop.client).length > 0, 'both devices hear of it');
    assert.deepEqual(counts(phone.client)[0], { received: 1, read: 0, members: 2 });
    await ack(bob.client, [read(team, 4)]);
    await until(() => counts(phone.client).some((count) => count.read === 1), 'it was read');
    assert.deepEqual(bob.client.heard, [], 'bob has sent nothing');

    // Killed before the time is over: the next process says it.
    await until(() => named(team, 4).length > 0, 'it is judged');
    await message(team, 5);
    process.kill(daemon.pid, 'SIGKILL');
    daemon = await start();
    await until(() => named(team, 5).length > 0, 'the last is judged after the kill');
    assert.deepEqual(named(team, 5).flat().map(({ user }) => user).sort(), ['ann', 'bob', 'carol']);
    for (const offset of [1, 2, 3, 4]) assert.equal(named(team, offset).length, 1, 'nothing is said twice');
    for (const { client } of [phone, desktop, bob]) client.disconnect();
    assert.equal(await daemon.stop(), 0);
    await backend.stop();
    rmSync(folder, { recursive: true });
  });
});
