// A NATS server as a child process, and the files of users that it knows by their keys.

import { spawn } from 'node:child_process';
import { generateKeyPairSync, sign } from 'node:crypto';
import { connect } from 'node:net';

import { freePort } from './ports.mjs';
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

const base32 = (bytes) => {
  const letters = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
  const bits = [...bytes].map((byte) => byte.toString(2).padStart(8, '0')).join('');
  return bits.match(/.{1,5}/g).map((five) => letters[parseInt(five.padEnd(5, '0'), 2)]).join('');
};

/** CRC-16 of XMODEM, which ends each key. */
const crc16 = (bytes) => bytes.reduce((crc, byte) => {
  let next = crc ^ (byte << 8);
  for (let bit = 0; bit < 8; bit += 1) next = next & 0x8000 ? ((next << 1) ^ 0x1021) & 0xffff : (next << 1) & 0xffff;
  return next;
}, 0);

const written = (bytes) => {
  const sum = crc16([...bytes]);
  return base32([...bytes, sum & 0xff, sum >> 8]);
};

const KINDS = { operator: 14 << 3, account: 0, user: 20 << 3 };

/** An Ed25519 pair as NATS writes it: the first letter says of what kind it is. */
class Key {
  constructor(kind) {
    this.kind = kind;
    const pair = generateKeyPairSync('ed25519');
    this.private = pair.privateKey;
    this.id = written([KINDS[kind], ...pair.publicKey.export({ type: 'spki', format: 'der' }).subarray(-32)]);
    const seed = pair.privateKey.export({ type: 'pkcs8', format: 'der' }).subarray(-32);
    this.seed = written([(18 << 3) | (KINDS[kind] >> 5), (KINDS[kind] & 31) << 3, ...seed]);
  }

  /** A token that says what `subject` may. */
  says(subject, nats) {
    const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const claims = {
      jti: 'T', iat: Math.floor(Date.now() / 1000), iss: this.id, sub: subject.id, name: subject.kind,
      nats: { ...nats, type: subject.kind, version: 2 },
    };
    const body = `${part({ typ: 'JWT', alg: 'ed25519-nkey' })}.${part(claims)}`;
    return `${body}.${sign(null, Buffer.from(body), this.private).toString('base64url')}`;
  }
}

/** What a server is configured with that knows one account, and a way to make credentials of its users. */
export function operator() {
  const [own, account] = [new Key('operator'), new Key('account')];
  const all = { subs: -1, data: -1, payload: -1, imports: -1, exports: -1, wildcards: true, conn: -1, leaf: -1 };
  const accountToken = own.says(account, { limits: all, default_permissions: { pub: {}, sub: {} } });
  return {
    configuration: [
      `operator: ${own.says(own, {})}`, 'resolver: MEMORY', `resolver_preload: { ${account.id}: ${accountToken} }`, '',
    ].join('\n'),
    /** A credentials file's text. Signed by `by`: the account, or one that the server does not know. */
    credentials(by = account) {
      const user = new Key('user');
      const token = by.says(user, { pub: {}, sub: {}, subs: -1, data: -1, payload: -1 });
      const frame = (name, text) => `-----BEGIN ${name}-----\n${text}\n------END ${name}------\n\n`;
      return frame('NATS USER JWT', token) + frame('USER NKEY SEED', user.seed);
    },
    stranger: () => new Key('account'),
  };
}
