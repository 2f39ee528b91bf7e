// Certificates of the tests' own authority, made by openssl, and the daemon that serves them.

import { execFileSync, spawn } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import WebSocket from 'ws';

import { Daemon, configuration } from './daemon.mjs';
import { until } from './wait.mjs';

const openssl = (...words) => execFileSync('openssl', words, { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' });
const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

export class Authority {
  #directory = mkdtempSync(path.join(tmpdir(), 'trunkline-tls-'));

  constructor(name = 'tests') {
    openssl('req', '-x509', ...newKey, '-keyout', this.path('ca.key'), '-out', this.path('ca.pem'), '-days', '30',
      '-subj', `/CN=${name}`);
  }

  path(name) {
    return path.join(this.#directory, name);
  }

  /** The file that clients trust. */
  get file() {
    return this.path('ca.pem');
  }

  get pem() {
    return readFileSync(this.file);
  }

  /** A certificate for these names and 127.0.0.1, in files called `file`. Negative days: it has expired. */
  sign(file, names = ['localhost'], days = 30) {
    const [cert, key, request] = ['.pem', '.key', '.csr'].map((end) => this.path(file + end));
    const all = [...names.map((name) => `DNS:${name}`), 'IP:127.0.0.1'].join();
    openssl('req', '-new', ...newKey, '-keyout', key, '-out', request, '-subj', `/CN=${names[0]}`,
      '-addext', `subjectAltName=${all}`);
    openssl('x509', '-req', '-in', request, '-CA', this.file, '-CAkey', this.path('ca.key'), '-copy_extensions', 'copy',
      '-days', String(days), '-out', cert);
    return { cert, key };
  }

  /** The files of one certificate get what another has. */
  replace(old, next) {
    copyFileSync(next.key, old.key);
    copyFileSync(next.cert, old.cert);
  }

  write(name, text) {
    writeFileSync(this.path(name), text);
    return this.path(name);
  }

  remove() {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** SHA-256 of a certificate, as `X509Certificate.fingerprint256` writes it. */
export const fingerprint = (cert) => openssl('x509', '-in', cert, '-noout', '-fingerprint', '-sha256').trim().split('=')[1];

/** A daemon with a plain port and one with TLS: `daemon.secure` is "127.0.0.1:PORT" of the second. */
export async function startSecure({ signed, tls = {}, ...options }) {
  const { listen_tls, ...more } = options.config ?? {};
  const config = { listen_tls: listen_tls ?? '127.0.0.1:0', ...configuration({ ...more, tls: { ...signed, ...tls } }) };
  const daemon = await Daemon.start({ ...options, config });
  daemon.secure = await until(() => daemon.output.match(/listening on ([\d.]+:\d+) \(TLS\)/)?.[1], 'the port of TLS');
  daemon.securePort = Number(daemon.secure.split(':')[1]);
  return daemon;
}

/** npm `ws` for the SDK, with an authority. */
export const trusting = (authority) => class extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { ca: authority.pem });
  }
};

/** `openssl s_client` on a connection of its own: what it said, and a way to type. */
export class Client {
  #child;
  output = '';
  ended = false;

  constructor(port, authority, ...words) {
    this.#child = spawn('openssl', ['s_client', '-connect', `127.0.0.1:${port}`, '-servername', 'localhost',
      '-CAfile', authority.file, '-verify_return_error', '-alpn', 'http/1.1', ...words]);
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (this.output += text));
    }
    // A daemon that refuses ends the connection while the test still types.
    this.#child.stdin.on('error', () => {});
    this.#child.on('close', () => { this.ended = true; });
  }

  type(text) {
    this.#child.stdin.write(text);
  }

  /** Until its output has as many matches of a global expression. */
  async said(expression, times = 1) {
    await until(
      () => [...this.output.matchAll(expression)].length >= times,
      () => `${times} of ${expression}; openssl said:\n${this.output}`,
    );
  }

  async close() {
    this.#child.stdin.end();
    this.#child.kill();
    await until(() => this.ended, 'openssl ends');
  }
}
