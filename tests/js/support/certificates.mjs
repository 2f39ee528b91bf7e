// Certificates of an authority of the tests' own, made by openssl.

import { execFileSync } from 'node:child_process';
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

/** An authority with a folder of its own; `close` removes it. */
export class Authority {
  #directory = mkdtempSync(path.join(tmpdir(), 'trunkline-tls-'));

  constructor() {
    this.#openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '30',
      '-keyout', this.#path('ca.key'), '-out', this.file, '-subj', '/CN=authority of the tests');
  }

  #path(name) {
    return path.join(this.#directory, name);
  }

  #openssl(...words) {
    execFileSync('openssl', words, { stdio: 'ignore' });
  }

  get file() {
    return this.#path('ca.pem');
  }

  get pem() {
    return readFileSync(this.file);
  }

  /** Files and texts of a certificate for `name`. */
  sign(name) {
    const [cert, key, request, names] = ['pem', 'key', 'csr', 'ext'].map((end) => this.#path(`${name}.${end}`));
    this.#openssl('req', '-new', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-keyout', key,
      '-out', request, '-subj', `/CN=${name}`);
    writeFileSync(names, `subjectAltName=DNS:${name},IP:127.0.0.1\n`);
    this.#openssl('x509', '-req', '-in', request, '-CA', this.file, '-CAkey', this.#path('ca.key'), '-CAcreateserial',
      '-days', '30', '-out', cert, '-extfile', names);
    chmodSync(key, 0o600);
    return { cert, key, pem: readFileSync(cert), keyPem: readFileSync(key) };
  }

  close() {
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
