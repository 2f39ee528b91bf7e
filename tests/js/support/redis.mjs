// A Redis server as a child process, and what a test does to it.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

import { freePort } from './ports.mjs';
import { received } from './sdk.mjs';
import { until } from './wait.mjs';

const run = promisify(execFile);
const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** What redis-cli says. */
async function cli(tls, timeout, ...words) {
  const trust = tls ? ['--tls', '--cert', tls.cert, '--key', tls.key, '--cacert', tls.ca] : [];
  const { stdout } = await run('redis-cli', [...trust, ...words.map(String)], { timeout, maxBuffer: 64 << 20 });
  return stdout.trim();
}

export class Redis {
  #child;
  #directory;
  #args;

  /**
   * Starts a server that keeps nothing on disk, and waits until it answers.
   * With `tls` ({ cert, key, ca }: files) it speaks TLS alone, with clients that show a certificate of `ca`.
   */
  static async start({ port, args = [], password, tls } = {}) {
    const redis = new Redis();
    redis.port = port ?? (await freePort());
    redis.password = password;
    redis.tls = tls;
    redis.#args = [...args, ...(password ? ['--requirepass', password] : [])];
    await redis.run();
    return redis;
  }

  async run() {
    this.#directory ??= mkdtempSync(path.join(tmpdir(), 'trunkline-redis-'));
    const { cert, key, ca } = this.tls ?? {};
    const ports = this.tls
      ? ['--port', '0', '--tls-port', String(this.port), '--tls-cert-file', cert, '--tls-key-file', key, '--tls-ca-cert-file', ca,
        '--tls-replication', 'yes', '--tls-cluster', 'yes']
      : ['--port', String(this.port)];
    this.#child = spawn('redis-server', [
      ...ports, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no',
      '--dir', this.#directory, '--enable-debug-command', 'yes', ...this.#args,
    ], { stdio: 'ignore' });
    this.#child.once('close', () => running.delete(this.#child));
    running.add(this.#child);
    await until(async () => (await this.cli('PING').catch(() => '')).includes('PONG'), `redis on ${this.port}`);
  }

  get url() {
    return `redis${this.tls ? 's' : ''}://127.0.0.1:${this.port}`;
  }

  /** What redis-cli says. */
  async cli(...words) {
    const password = this.password ? ['-a', this.password, '--no-auth-warning'] : [];
    return cli(this.tls, 10_000, '-p', this.port, ...password, ...words);
  }

  signal(name) {
    this.#child.kill(name);
  }

  /** It is gone, with all that it kept. */
  async stop() {
    const child = this.#child;
    if (child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once('close', resolve));
    child.kill('SIGCONT');
    child.kill('SIGKILL');
    await ended;
  }

  async end() {
    await this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** A Sentinel that watches `master`, which is called "main", and names `replica` when it is gone. With TLS if they have it. */
export async function sentinel(master, replica) {
  const { tls } = master;
  const [port, directory] = [await freePort(), mkdtempSync(path.join(tmpdir(), 'trunkline-sentinel-'))];
  const file = path.join(directory, 'sentinel.conf');
  writeFileSync(file, [
    ...(tls
      ? ['port 0', `tls-port ${port}`, `tls-cert-file ${tls.cert}`, `tls-key-file ${tls.key}`, `tls-ca-cert-file ${tls.ca}`,
        'tls-replication yes']
      : [`port ${port}`]),
    'bind 127.0.0.1', `dir ${directory}`, `sentinel monitor main 127.0.0.1 ${master.port} 1`,
    'sentinel down-after-milliseconds main 500', 'sentinel failover-timeout main 3000', '',
  ].join('\n'));
  const child = spawn('redis-server', [file, '--sentinel'], { stdio: 'ignore' });
  running.add(child);
  await until(
    async () => (await cli(tls, 10_000, '-p', port, 'SENTINEL', 'replicas', 'main').catch(() => '')).includes(String(replica.port)),
    'a Sentinel that knows the replica',
  );
  return {
    port,
    end: () => {
      running.delete(child);
      child.kill('SIGKILL');
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A replica of the master, which has all that this has. */
export async function replicate(master, replica) {
  await replica.cli('REPLICAOF', '127.0.0.1', master.port);
  await until(async () => (await replica.cli('INFO', 'replication')).includes('master_link_status:up'), 'a replica');
}

/** Masters that share the slots, and how `redis-cli --cluster` is said to them. */
export async function cluster(count, { tls } = {}) {
  const masters = await Promise.all(Array.from({ length: count }, () => Redis.start({ tls, args: ['--cluster-enabled', 'yes'] })));
  const places = masters.map((redis) => `127.0.0.1:${redis.port}`);
  const manage = (...words) => cli(tls, 60_000, '--cluster', ...words);
  await manage('create', ...places, '--cluster-replicas', '0', '--cluster-yes');
  await until(async () => {
    const states = await Promise.all(masters.map((redis) => redis.cli('CLUSTER', 'INFO')));
    return states.every((state) => state.includes('cluster_state:ok'));
  }, 'the cluster is whole');
  return { masters, places, manage };
}

/** The master goes away between two publications into `failover`: 503 until the replica is the master, and nothing is missing then. */
export async function failOver(node, room, master, replica) {
  await node.publish('failover', 1);
  await received(room, [1]);
  await until(async () => (await replica.cli('EXISTS', 'centrifugo.stream.failover')) === '1', 'it is replicated');
  await master.stop();
  await until(async () => (await node.apiRaw('publish', { channel: 'failover', data: 2 })).status === 503, 'a 503');
  await until(async () => (await node.apiRaw('publish', { channel: 'failover', data: 3 })).status === 200, () => node.output);
  await received(room, [1, 3]);
  assert.deepEqual(room.seen.publications.map((publication) => publication.offset), [1, 2]);
}
