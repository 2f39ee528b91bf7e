// A Redis server as a child process, and what a test does to it.

import { execFile, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

import { until } from './wait.mjs';

const run = promisify(execFile);
const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

/** A port that nobody has now. */
export function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.on('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
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
      ? ['--port', '0', '--tls-port', String(this.port), '--tls-cert-file', cert, '--tls-key-file', key, '--tls-ca-cert-file', ca]
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
    const { cert, key, ca } = this.tls ?? {};
    const tls = this.tls ? ['--tls', '--cert', cert, '--key', key, '--cacert', ca] : [];
    const { stdout } = await run('redis-cli', ['-p', String(this.port), ...tls, ...password, ...words.map(String)], {
      timeout: 10_000,
    });
    return stdout.trim();
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
