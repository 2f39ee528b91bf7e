// The daemon as a child process.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { until, within } from './wait.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
export const binary = process.env.TRUNKLINE_TEST_BINARY ?? path.join(root, 'target/debug/trunkline');

export const API_KEY = 'key-of-the-tests';
export const TOKEN_SECRET = 'secret-of-the-tests-0123456789abcdef';

/** io_uring by name and not `auto`: a machine without it must fail the tests, not pass them on mio. */
export const drivers = ['io-uring', 'mio'];

/** Every channel may do everything: what the tests start from. */
export const open = {
  history_size: 1000,
  history_ttl: '10m',
  presence: true,
  join_leave: true,
  allow_subscribe_for_client: true,
  allow_publish_for_client: true,
  allow_history_for_client: true,
  allow_presence_for_client: true,
};

/** A configuration for tests with `changes` merged in, section by section. */
export function configuration(changes = {}) {
  const base = {
    api: { key: API_KEY },
    client: { allow_anonymous: true, token: { hmac_secret: TOKEN_SECRET } },
    channel: open,
  };
  const merge = (under, over) => {
    const merged = { ...under };
    for (const [key, value] of Object.entries(over)) {
      const both = isTable(value) && isTable(under[key]);
      merged[key] = both ? merge(under[key], value) : value;
    }
    return merged;
  };
  return merge(base, changes);
}

const isTable = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);

/** TOML of nested tables, arrays of tables, and scalars. */
export function toml(table, prefix = '') {
  const scalars = [];
  const tables = [];
  for (const [key, value] of Object.entries(table)) {
    if (value === undefined) continue;
    if (isTable(value)) {
      tables.push(`\n[${prefix}${key}]\n${toml(value, `${prefix}${key}.`)}`);
    } else if (Array.isArray(value) && value.some(isTable)) {
      for (const item of value) tables.push(`\n[[${prefix}${key}]]\n${toml(item, `${prefix}${key}.`)}`);
    } else {
      scalars.push(`${key} = ${JSON.stringify(value)}\n`);
    }
  }
  return scalars.join('') + tables.join('');
}

/** The process' environment without settings that would leak into the daemon. */
function environment(extra) {
  const kept = Object.entries(process.env).filter(([name]) => !name.startsWith('TRUNKLINE_'));
  // Tests that are about a drain say over which time.
  return { ...Object.fromEntries(kept), TRUNKLINE_SHUTDOWN_DRAIN: '0s', ...extra };
}

export class Daemon {
  #child;
  #directory;
  #output = '';
  #ended;

  /**
   * Starts the daemon and waits until it listens.
   * @param {object} options
   * @param {string} [options.driver]
   * @param {object|null} [options.config] the configuration file's tables; null: no file, the development mode
   * @param {string[]} [options.args] further arguments
   * @param {object} [options.env] further environment
   * @param {string[]} [options.under] a program with its arguments that starts it
   */
  static async start(options = {}) {
    const daemon = Daemon.spawn(options);
    await until(
      () => daemon.address || daemon.exitCode !== undefined,
      () => `the daemon listens; it said:\n${daemon.output}`,
    );
    if (!daemon.address) throw new Error(`the daemon ended with ${daemon.exitCode}:\n${daemon.output}`);
    return daemon;
  }

  /** Starts the process and waits for nothing. */
  static spawn({ driver, config = configuration(), args = [], env = {}, listen = '127.0.0.1:0', under = [] } = {}) {
    const daemon = new Daemon();
    daemon.#directory = mkdtempSync(path.join(tmpdir(), 'trunkline-test-'));
    const given = [];
    if (config) {
      const file = path.join(daemon.#directory, 'trunkline.toml');
      writeFileSync(file, toml(config));
      given.push('--config', file);
    }
    if (listen) given.push('--listen', listen);
    if (driver) given.push('--driver', driver);
    const [program, ...words] = [...under, binary, ...given, ...args];
    daemon.#child = spawn(program, words, {
      cwd: daemon.#directory,
      env: environment(env),
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    for (const stream of [daemon.#child.stdout, daemon.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (daemon.#output += text));
    }
    daemon.#ended = new Promise((resolve, reject) => {
      daemon.#child.on('error', reject);
      // 'close' and not 'exit': everything that was written has been read by then.
      daemon.#child.on('close', (code, signal) => {
        daemon.exitCode = code ?? signal;
        rmSync(daemon.#directory, { recursive: true, force: true });
        resolve(daemon.exitCode);
      });
    });
    running.add(daemon);
    daemon.#ended.finally(() => running.delete(daemon)).catch(() => {});
    return daemon;
  }

  /** Another configuration file in the place of its own. It is read when it is told to. */
  configure(config) {
    const text = typeof config === 'string' ? config : toml(config);
    writeFileSync(path.join(this.#directory, 'trunkline.toml'), text);
  }

  /** `POST /api/reload`: the status and what is said. */
  async reload(key = API_KEY) {
    const response = await fetch(`${this.http}/api/reload`, { method: 'POST', headers: { 'X-API-Key': key } });
    return { status: response.status, ...(await response.json()) };
  }

  /** Everything it has written to stdout and stderr. */
  get output() {
    return this.#output;
  }

  get pid() {
    return this.#child.pid;
  }

  /** Where clients connect, once it has said so in a whole line. */
  get address() {
    return this.#output.match(/(?<!api )listening on ([\d.]+:\d+)[^\n]*\n/i)?.[1];
  }

  get port() {
    return Number(this.address.split(':')[1]);
  }

  get http() {
    return `http://${this.address}`;
  }

  get ws() {
    return `ws://${this.address}/connection/websocket`;
  }

  /** One call of the server API: its `result`. Rejects on an error of the API or of HTTP. */
  async api(method, body = {}, key = API_KEY) {
    const { status, answer } = await this.apiRaw(method, body, { 'X-API-Key': key });
    if (status !== 200 || answer.error) {
      throw new Error(`${method}: ${status} ${JSON.stringify(answer)}`);
    }
    return answer.result ?? answer;
  }

  /** The status and the JSON of a call, whatever they are. */
  async apiRaw(method, body, headers = { 'X-API-Key': API_KEY }) {
    const response = await fetch(`${this.http}/api/${method}`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', ...headers },
      body: typeof body === 'string' ? body : JSON.stringify(body),
    });
    const text = await response.text();
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      answer = text;
    }
    return { status: response.status, answer };
  }

  publish(channel, data, more = {}) {
    return this.api('publish', { channel, data, ...more });
  }

  /** Every sample of /metrics by its name with labels. */
  async metrics() {
    const response = await fetch(`${this.http}/metrics`, { headers: { 'X-API-Key': API_KEY } });
    if (response.status !== 200) throw new Error(`/metrics: ${response.status}`);
    const samples = new Map();
    for (const line of (await response.text()).split('\n')) {
      const sample = line.match(/^([a-zA-Z_:][\w:]*(?:\{.*\})?) (\S+)/);
      if (sample) samples.set(sample[1], Number(sample[2]));
    }
    return samples;
  }

  /** What was refused, closed or dropped so far under the causes that match, at the wires and by the API. */
  async faults(cause) {
    const samples = [...(await this.metrics())].filter(
      ([name]) => /^trunkline_(faults|api)/.test(name) && cause.test(name),
    );
    return samples.reduce((sum, [, value]) => sum + value, 0);
  }

  /** SIGTERM as an operator sends it; resolves with the exit code. */
  stop() {
    this.#child.kill('SIGTERM');
    return this.ended();
  }

  /** Resolves with the exit code when the process is gone. */
  ended() {
    return within(this.#ended, `the process ends; it said:\n${this.#output}`);
  }

  /** Resolves with the exit code when this process is gone, whatever has its output now. */
  async exited() {
    const gone = () => this.#child.exitCode !== null || this.#child.signalCode !== null;
    await until(gone, () => `the process ends; it said:\n${this.#output}`);
    return this.#child.exitCode ?? this.#child.signalCode;
  }

  signal(name) {
    this.#child.kill(name);
  }

  kill() {
    this.#child.kill('SIGKILL');
    return this.#ended;
  }
}

// A failed test must not leave its daemon behind.
const running = new Set();
process.on('exit', () => running.forEach((daemon) => daemon.kill().catch(() => {})));
