// Nodes on a Redis that fails: a node dies, one is paused, the server starts again, a master changes, a cluster moves slots.

import assert from 'node:assert/strict';
import { after, describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { Redis, cluster, failOver, replicate, sentinel } from './support/redis.mjs';
import { received, sdk, subscribed, watch } from './support/sdk.mjs';
import { sleep, until } from './support/wait.mjs';

const range = (from, to) => Array.from({ length: to - from + 1 }, (_, at) => from + at);
const recoverable = { recoverable: true, positioned: true };

const start = (address, driver = drivers[0]) => Daemon.start({
  driver, config: configuration({ engine: { kind: 'redis', address, timeout: '1s' } }), args: ['--shards', '2'],
});
const ready = (daemon) => until(
  async () => (await fetch(`${daemon.http}/health/ready`)).status === 200,
  () => daemon.output,
);

/** Everything that a subscription says, in its order: a loss that it was not told, a repeat or another order is a fault. */
function checked(client, channel) {
  const subscription = watch(client, channel, recoverable);
  const log = { faults: [], last: undefined, got: 0, newest: undefined };
  subscription.on('subscribed', (event) => {
    const { offset, epoch } = event.streamPosition;
    if (!(event.wasRecovering && event.recovered)) log.last = offset;
    else if (epoch !== log.epoch) log.faults.push(`recovered in another epoch: ${epoch}, ${log.epoch}`);
    log.epoch = epoch;
  });
  subscription.on('publication', ({ offset, data }) => {
    if (log.last !== undefined && offset !== log.last + 1) log.faults.push(`${offset} after ${log.last}`);
    log.last = offset;
    log.got += 1;
    log.newest = data;
  });
  subscription.subscribe();
  client.connect();
  return log;
}

describe('a fleet', () => {
  const clients = [];
  const nodes = [];
  const servers = [];

  after(async () => {
    clients.forEach((client) => client.disconnect());
    for (const node of nodes) if (node.exitCode === undefined) assert.equal(await node.stop(), 0, node.output);
    for (const server of servers) await server.end();
  });

  test('one node killed, one paused, Redis started again: nothing is lost or repeated untold, and order holds', async () => {
    const redis = await Redis.start();
    servers.push(redis);
    const fleet = await Promise.all([0, 1, 2].map((at) => start(redis.url, drivers[at % 2])));
    nodes.push(...fleet);
    await Promise.all(fleet.map(ready));
    const channels = ['alpha', 'beta'];
    const watched = fleet.flatMap((node, at) => range(1, 6).map((n) => {
      const client = sdk(node.ws);
      clients.push(client);
      return { at, client, channel: channels[n % 2], log: checked(client, channels[n % 2]) };
    }));
    await until(() => watched.every(({ log }) => log.last !== undefined), 'all are subscribed');

    let stopped = false;
    let published = 0;
    const publisher = async (worker) => {
      for (let n = worker; !stopped; n += 4) {
        const node = fleet[n % 3];
        const abort = AbortSignal.timeout(1500);
        await fetch(`${node.http}/api/publish`, {
          method: 'POST', signal: abort, headers: { 'X-API-Key': 'key-of-the-tests' },
          body: JSON.stringify({ channel: channels[n % 2], data: n }),
        }).then((response) => { published += response.status === 200 ? 1 : 0; }, () => {});
        await sleep(5);
      }
    };
    const publishers = range(0, 3).map(publisher);
    await sleep(500);
    fleet[2].kill();
    for (const { at, client } of watched) if (at === 2) client._endpoint = fleet[0].ws;
    await sleep(500);
    fleet[1].signal('SIGSTOP');
    await sleep(3000);
    fleet[1].signal('SIGCONT');
    await sleep(500);
    await redis.stop();
    await sleep(700);
    await redis.run();
    await Promise.all([ready(fleet[0]), ready(fleet[1])]);
    await sleep(500);
    stopped = true;
    await Promise.all(publishers);
    for (const channel of channels) await fleet[0].publish(channel, 'end');
    await until(
      () => watched.every(({ log }) => log.newest === 'end'),
      () => JSON.stringify(watched.map(({ at, log }) => [at, log.newest, log.faults])),
    );
    assert.deepEqual(watched.flatMap(({ log }) => log.faults), []);
    assert.ok(published > 30, String(published));
    // Those of the killed node are present at another one; what is left of it goes with its time.
    await until(async () => {
      const { num_clients: present } = await fleet[0].api('presence_stats', { channel: 'alpha' });
      return present >= 9;
    }, 'presence');
  });

  test('Sentinel names another master: nodes follow it', async () => {
    const [master, replica] = [await Redis.start(), await Redis.start()];
    servers.push(master, replica);
    await replicate(master, replica);
    const watching = await sentinel(master, replica);
    servers.push(watching);
    const node = await start(`redis+sentinel://127.0.0.1:${watching.port}?sentinel_master_name=main`);
    nodes.push(node);
    await ready(node);
    const client = sdk(node.ws);
    clients.push(client);
    const room = await subscribed(client, 'failover', recoverable);
    await failOver(node, room, master, replica);
    assert.equal(await replica.cli('HGET', 'centrifugo.stream.meta.failover', 's'), '2');
  });

  test('a cluster of three masters: channels are spread, and slots may move', async () => {
    const { masters, places, manage } = await cluster(3);
    servers.push(...masters);
    const node = await start(`redis+cluster://${places[0]}?addr=${places[1]}&addr=${places[2]}`);
    nodes.push(node);
    await ready(node);
    const client = sdk(node.ws);
    clients.push(client);
    const names = range(1, 20).map((n) => `slot${n}`);
    const rooms = await Promise.all(names.map((name) => subscribed(client, name, recoverable)));
    await Promise.all(names.map((name) => node.publish(name, 1)));
    await Promise.all(rooms.map((room) => received(room, [1])));
    const counts = await Promise.all(masters.map((redis) => redis.cli('KEYS', 'centrifugo.stream.{slot*')));
    assert.ok(counts.every((keys) => keys.length > 0), JSON.stringify(counts));
    await masters[1].cli('SCRIPT', 'FLUSH');
    const ids = await Promise.all(masters.map((redis) => redis.cli('CLUSTER', 'MYID')));
    await manage('reshard', places[0], '--cluster-from', ids[0], '--cluster-to', ids[1], '--cluster-slots', 4000, '--cluster-yes');
    await Promise.all(names.map(async (name) => {
      await until(async () => (await node.apiRaw('publish', { channel: name, data: 2 })).status === 200, name);
    }));
    await Promise.all(rooms.map((room) => until(() => room.seen.publications.at(-1).data === 2, 'all go on')));
    const { publications } = await node.api('history', { channel: names[0], limit: 10 });
    assert.equal(publications[0].data, 1);
    assert.equal(Object.keys((await node.api('presence', { channel: names[3] })).presence).length, 1);
  });
});
