// Three nodes in network namespaces of their own, on one Redis with a replica and Sentinel: run by partitions.test.mjs in a
// namespace that reaches nothing else. Prints what it saw as one line of JSON.
//
// TRUNKLINE_PARTITION_CLIENTS: clients of each node (12). With 1,000 it is the long form, which waits for presence as well.

import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { API_KEY, Daemon, configuration, drivers } from './daemon.mjs';
import { publishing } from './publishing.mjs';
import { Redis } from './redis.mjs';
import { forms, sdk, watch } from './sdk.mjs';
import { sleep, until } from './wait.mjs';

const each = Number(process.env.TRUNKLINE_PARTITION_CLIENTS ?? 12);
const isLong = each > 100;
/** Publishes a second, through all nodes. */
const RATE = 500;
/** Nine subscribers each, or what 500 publishes a second come to would be more than one process of clients can read. */
const channels = Array.from({ length: Math.max(4, Math.round(each / 3)) }, (_, at) => `room${at}`);
/** Where Redis and Sentinel are: an address of the outer namespace that all nodes reach. */
const SERVERS = '198.18.0.1';

const sh = (...words) => execFileSync(words[0], words.slice(1).map(String), { stdio: ['ignore', 'pipe', 'pipe'] }).toString();
const faults = [];
const report = { clients: 3 * each, received: 0, hops: 0, recovered: 0, told: 0, connect_ms: 0 };

/** A namespace with one wire to this one. */
function place(number) {
  const holder = spawn('unshare', ['--net', 'sleep', '600'], { stdio: 'ignore' });
  process.on('exit', () => holder.kill('SIGKILL'));
  const [here, there] = [`tkh${number}`, `tkn${number}`];
  const [gateway, address] = [`198.18.${number}.1`, `198.18.${number}.2`];
  return { holder, here, there, gateway, address, inside: ['nsenter', '-t', String(holder.pid), '-n'] };
}

async function wire({ holder, here, there, gateway, address, inside }) {
  // It has its own namespace when it has become `sleep`.
  const own = sh('readlink', '/proc/self/ns/net');
  await until(() => { try { return sh('readlink', `/proc/${holder.pid}/ns/net`) !== own; } catch { return false; } }, 'a namespace');
  sh('ip', 'link', 'add', here, 'type', 'veth', 'peer', 'name', there);
  sh('ip', 'link', 'set', there, 'netns', holder.pid);
  sh('ip', 'addr', 'add', `${gateway}/30`, 'dev', here);
  sh('ip', 'link', 'set', here, 'up');
  sh(...inside, 'ip', 'link', 'set', 'lo', 'up');
  sh(...inside, 'ip', 'addr', 'add', `${address}/30`, 'dev', there);
  sh(...inside, 'ip', 'link', 'set', there, 'up');
  sh(...inside, 'ip', 'route', 'add', 'default', 'via', gateway);
}

/** By the kernel, or where it has no netem by a device of ours that is on the way there. Gives what ends it. */
async function slow({ here, address }) {
  try {
    sh('tc', 'qdisc', 'add', 'dev', here, 'root', 'netem', 'delay', '50ms', '10ms');
    return () => sh('tc', 'qdisc', 'del', 'dev', here, 'root');
  } catch {
    const device = spawn('python3', ['-B', path.join(path.dirname(fileURLToPath(import.meta.url)), 'slow.py'), 'slow0', 50, 10].map(String), { stdio: ['ignore', 'pipe', 'inherit'] });
    process.on('exit', () => device.kill('SIGKILL'));
    await once(device.stdout, 'data');
    sh('ip', 'link', 'set', 'slow0', 'up');
    // It gives back what comes from here.
    for (const [of, name, value] of [['all', 'rp_filter', 0], ['slow0', 'rp_filter', 0], ['slow0', 'accept_local', 1]]) {
      writeFileSync(`/proc/sys/net/ipv4/conf/${of}/${name}`, String(value));
    }
    sh('ip', 'rule', 'add', 'iif', 'slow0', 'lookup', 100);
    sh('ip', 'route', 'add', `${address}/32`, 'dev', here, 'table', 100);
    sh('ip', 'route', 'add', `${address}/32`, 'dev', 'slow0');
    return async () => {
      sh('ip', 'route', 'del', `${address}/32`, 'dev', 'slow0');
      // What it still holds goes out first.
      await sleep(200);
      device.kill('SIGKILL');
    };
  }
}

/** How long it takes to connect, in ms. */
async function connecting({ address }) {
  const began = performance.now();
  const socket = net.connect(8000, address);
  await once(socket, 'connect');
  socket.destroy();
  return performance.now() - began;
}

/** Everything that a subscription says, in its order: a loss that it was not told, a repeat or another order is a fault. */
function follow(client, channel) {
  const subscription = watch(client, channel, { recoverable: true, positioned: true });
  const log = { last: undefined, epoch: undefined, newest: undefined, state: () => subscription.state };
  subscription.on('subscribed', ({ streamPosition: { offset, epoch }, wasRecovering, recovered }) => {
    if (!(wasRecovering && recovered)) {
      report.told += Number(wasRecovering);
      log.last = offset;
    } else {
      report.recovered += 1;
      if (epoch !== log.epoch) faults.push(`${channel}: recovered in another epoch`);
    }
    log.epoch = epoch;
  });
  subscription.on('publication', ({ offset, data }) => {
    if (log.last !== undefined && offset !== log.last + 1) faults.push(`${channel}: ${offset} after ${log.last}`);
    log.last = offset;
    log.newest = data;
    report.received += 1;
  });
  subscription.on('unsubscribed', (event) => faults.push(`${channel}: ${JSON.stringify(event)}`));
  subscription.subscribe();
  client.connect();
  return log;
}

sh('ip', 'link', 'set', 'lo', 'up');
sh('ip', 'addr', 'add', `${SERVERS}/32`, 'dev', 'lo');
writeFileSync('/proc/sys/net/ipv4/ip_forward', '1');
const places = [1, 2, 3].map(place);
for (const at of places) await wire(at);

const open = ['--bind', '127.0.0.1', SERVERS, '--protected-mode', 'no'];
const master = await Redis.start({ args: open });
const replica = await Redis.start({ args: [...open, '--replicaof', SERVERS, String(master.port)] });
await until(async () => (await replica.cli('INFO', 'replication')).includes('master_link_status:up'), 'a replica');
const directory = mkdtempSync(path.join(tmpdir(), 'trunkline-sentinel-'));
writeFileSync(path.join(directory, 'sentinel.conf'), `port 26379\nbind 127.0.0.1 ${SERVERS}\nprotected-mode no\ndir ${directory}\n`
  + `sentinel monitor main ${SERVERS} ${master.port} 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n`);
const sentinel = spawn('redis-server', [path.join(directory, 'sentinel.conf'), '--sentinel'], { stdio: 'ignore' });
process.on('exit', () => sentinel.kill('SIGKILL'));
const known = () => { try { return sh('redis-cli', '-p', 26379, 'SENTINEL', 'replicas', 'main'); } catch { return ''; } };
await until(() => known().includes(String(replica.port)), 'sentinel');

const nodes = await Promise.all(places.map(({ inside, address }, at) => Daemon.start({
  driver: drivers[at % 2],
  under: inside,
  listen: `${address}:8000`,
  args: ['--shards', '2'],
  config: configuration({
    engine: { kind: 'redis', address: `redis+sentinel://${SERVERS}:26379?sentinel_master_name=main`, timeout: '1s' },
    client: { allowed_origins: ['*'] },
  }),
})));
const ready = (node) => until(async () => {
  const { status } = await fetch(`${node.http}/health/ready`, { signal: AbortSignal.timeout(2000) }).catch(() => ({}));
  return status === 200;
}, () => node.output);
await Promise.all(nodes.map(ready));

const clients = nodes.flatMap((node, at) => Array.from({ length: each }, (_, number) => {
  const client = sdk(node.ws, { form: forms[number % 2], minReconnectDelay: 50, maxReconnectDelay: 500, timeout: 2000 });
  const channel = channels[number % channels.length];
  return { at, client, channel, log: follow(client, channel) };
}));
await until(() => clients.every(({ log }) => log.last !== undefined), 'all are subscribed');

let stopped = false;
/** One after the other goes to the next node, as behind a load balancer. */
const hopping = async () => {
  for (let number = 0; !stopped; number += 1) {
    const hops = clients[(number * 7) % clients.length];
    hops.at = (hops.at + 1) % 3;
    hops.client.disconnect();
    hops.client._endpoint = nodes[hops.at].ws;
    hops.client.connect();
    report.hops += 1;
    await sleep(isLong ? 20 : 150);
  }
};
const began = performance.now();
const hops = hopping();
const published = publishing({ nodes: nodes.map((node) => node.http), channels, rate: RATE, key: API_KEY });
await sleep(1500);

// Cut off, from Redis and from its clients.
sh('ip', 'link', 'set', places[2].here, 'down');
await sleep(5000);
sh('ip', 'link', 'set', places[2].here, 'up');
await ready(nodes[2]);
await sleep(500);

// Slow: what goes to one node comes there 50 ms later.
const hasten = await slow(places[0]);
await sleep(2000);
report.connect_ms = await connecting(places[0]);
await hasten();

// Stands still, longer than Redis and clients wait for an answer.
nodes[1].signal('SIGSTOP');
await sleep(2500);
nodes[1].signal('SIGCONT');
await ready(nodes[1]);
await sleep(500);

// The master is gone, with a replica that has everything: what it had not was never there for who asks Redis.
await master.cli('CLIENT', 'PAUSE', 60000, 'WRITE');
const position = async (redis, name) => (await redis.cli('INFO', 'replication')).match(new RegExp(`${name}:(\\d+)`))?.[1];
await until(async () => (await position(master, 'master_repl_offset')) === (await position(replica, 'slave_repl_offset')), 'replicated');
await master.stop();
// Sentinel closes everybody's connection when it makes it one.
await until(async () => (await replica.cli('ROLE').catch(() => '')).startsWith('master'), 'a new master');
await Promise.all(nodes.map(ready));
await sleep(1000);

stopped = true;
await hops;
Object.assign(report, await published());
report.seconds = Math.round((performance.now() - began) / 1000);
// Who asked while Redis was away asks again later and later. Told of a loss then, it is behind what was published before.
await until(() => clients.every(({ log }) => log.state() === 'subscribed'), 'all are subscribed again');
for (const channel of channels) {
  await until(async () => (await nodes[0].apiRaw('publish', { channel, data: 'end' })).status === 200, 'the last one');
}
await until(
  () => clients.every(({ log }) => log.newest === 'end'),
  () => JSON.stringify(clients.filter(({ log }) => log.newest !== 'end').map(({ at, channel, log, client }) => [at, channel, log, client.state])),
);
assert.deepEqual(faults, []);

/** Everybody is present; who left while Redis could not hear it is so for its 60 s at most. */
const present = async (channel) => (await nodes[1].api('presence_stats', { channel })).num_clients;
const members = (channel) => clients.filter((known) => known.channel === channel).length;
for (const channel of channels) {
  await until(async () => (await present(channel)) >= members(channel), async () => `presence of ${channel}: ${await present(channel)}`);
  if (!isLong) continue;
  const end = Date.now() + 75_000;
  while ((await present(channel)) !== members(channel) && Date.now() < end) await sleep(500);
  assert.equal(await present(channel), members(channel), `presence of ${channel} behind its time`);
}
clients.forEach(({ client }) => client.disconnect());
for (const node of nodes) assert.equal(await node.stop(), 0, node.output);
await replica.end();
await master.end();
console.log(`REPORT ${JSON.stringify(report)}`);
process.exit(0);
