// The backends of tests/backends as processes, with a daemon in front of them.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { Daemon } from './daemon.mjs';
import { freePort } from './ports.mjs';
import { until, within } from './wait.mjs';

const folder = fileURLToPath(new URL('../../backends/', import.meta.url));

/** How each is started. */
export const languages = {
  python: ['python3', '-B', path.join(folder, 'python/backend.py')],
  node: [process.execPath, path.join(folder, 'node/backend.mjs')],
};

/** The key of the API in trunkline.toml. */
export const EXAMPLE_KEY = 'key-of-the-example';

export class Application {
  #child;
  #directory;
  #launch;
  output = '';

  /** A backend alone, that takes trunkline to be at `trunkline`. */
  static async start(language, trunkline) {
    const application = new Application();
    const [command, ...args] = languages[language];
    const env = { ...process.env, PORT: '0', TRUNKLINE: trunkline };
    application.#child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [application.#child.stdout, application.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (application.output += text));
    }
    running.add(application.#child);
    application.#child.on('close', () => running.delete(application.#child));
    await until(() => application.address || application.#child.exitCode !== null, () => `it listens: ${application.output}`);
    if (!application.address) throw new Error(`the backend ended:\n${application.output}`);
    return application;
  }

  /** A backend and, in `daemon`, a daemon in front of it, configured by trunkline.toml. */
  static async behind(language, driver) {
    // Each wants to know the other's port: one of them is chosen before its process is there.
    const port = await freePort();
    const application = await Application.start(language, `127.0.0.1:${port}`);
    application.#directory = mkdtempSync(path.join(tmpdir(), 'trunkline-test-'));
    const file = path.join(application.#directory, 'trunkline.toml');
    const text = readFileSync(path.join(folder, 'trunkline.toml'), 'utf8');
    writeFileSync(file, text.replaceAll('127.0.0.1:3000', application.address));
    application.#launch = () => Daemon.start({
      driver, config: null, listen: `127.0.0.1:${port}`, args: ['--config', file, '--shards', '2'],
    });
    application.daemon = await application.#launch();
    return application;
  }

  /** Ends the daemon and starts another at the same port. */
  async restart() {
    const code = await this.daemon.stop();
    if (code !== 0) throw new Error(`the daemon ended with ${code}:\n${this.daemon.output}`);
    this.daemon = await this.#launch();
    return this.daemon;
  }

  get address() {
    return this.output.match(/listening on (\S+)\n/)?.[1];
  }

  /** What it keeps. */
  async state() {
    return (await fetch(`http://${this.address}/`)).json();
  }

  /** A request of the application's own: status and, of JSON, the answer. */
  async post(where, body, headers = {}) {
    const text = typeof body === 'string' ? body : JSON.stringify(body);
    const response = await fetch(`http://${this.address}${where}`, { method: 'POST', headers, body: text });
    const answer = await response.text();
    return { status: response.status, answer: response.status === 200 ? JSON.parse(answer) : answer };
  }

  /** SIGTERM to both; resolves with the daemon's exit code. */
  async stop() {
    const code = await this.daemon?.stop();
    const ended = once(this.#child, 'close');
    this.#child.kill();
    await within(ended, `the backend ends; it said:\n${this.output}`);
    if (this.#directory) rmSync(this.#directory, { recursive: true, force: true });
    return code;
  }
}

// A failed test must not leave its backend behind.
const running = new Set();
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));
