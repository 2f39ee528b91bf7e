// A NATS server as a child process.

import { spawn } from 'node:child_process';
import { connect } from 'node:net';

import { freePort } from './redis.mjs';
import { until } from './wait.mjs';

const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));

export class Nats {
  #child;
  #args;

  static async start({ args = [] } = {}) {
    const nats = new Nats();
    nats.port = await freePort();
    nats.#args = args;
    await nats.run();
    return nats;
  }

  async run() {
    this.#child = spawn('nats-server', ['-a', '127.0.0.1', '-p', String(this.port), ...this.#args], { stdio: 'ignore' });
    running.add(this.#child);
    this.#child.once('close', () => running.delete(this.#child));
    await until(() => this.#answers(), `nats on ${this.port}`);
  }

  #answers() {
    return new Promise((resolve) => {
      const socket = connect(this.port, '127.0.0.1');
      socket.once('data', () => { socket.destroy(); resolve(true); });
      socket.once('error', () => resolve(false));
    });
  }

  get url() {
    return `nats://127.0.0.1:${this.port}`;
  }

  async stop() {
    const ended = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.kill('SIGKILL');
    await ended;
  }
}
