// The blocks of docs/edge.md, and the programs in front that they configure.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import http from 'node:http';
import net from 'node:net';
import { mkdirSync } from 'node:fs';

import { API_KEY, Daemon, TOKEN_SECRET } from './daemon.mjs';
import { until } from './wait.mjs';

export { freePort } from './ports.mjs';

const docs = readFileSync(new URL('../../../docs/edge.md', import.meta.url), 'utf8');

/** The blocks of one language below a heading, up to the next heading; a comment of a script has one # only. */
export function blocks(heading, language) {
  const section = docs.split(/^##+ /m).find((text) => text.startsWith(`${heading}\n`));
  if (!section) throw new Error(`docs/edge.md has no section "${heading}"`);
  const found = [...section.matchAll(/^```(\w+)\n([^]*?)^```$/gm)].filter(([, name]) => name === language);
  if (found.length === 0) throw new Error(`"${heading}" has no block of ${language}`);
  return found.map(([, , text]) => text);
}

/** Names and paths of this test in a text; each must stand in it. */
export function replaced(text, changes) {
  for (const [old, next] of Object.entries(changes)) {
    if (!text.includes(old)) throw new Error(`${JSON.stringify(old)} is not in:\n${text}`);
    text = text.replaceAll(old, next);
  }
  return text;
}

/**
 * A daemon of a block. Its secrets are files of `authority`'s folder, and its clients may subscribe.
 * @param {object} changes further names and paths of the block
 */
export async function daemonOf(block, { driver, authority, changes = {}, more = '' }) {
  const file = authority.write('trunkline.toml', `${replaced(block, {
    '/etc/trunkline/api.key': authority.write('api.key', API_KEY),
    '/etc/trunkline/token.key': authority.write('token.key', TOKEN_SECRET),
    ...changes,
  })}\n[channel]\nallow_subscribe_for_client = true\nhistory_size = 10\nhistory_ttl = "1m"\n${more}`);
  return Daemon.start({ driver, config: null, listen: null, args: ['--config', file, '--shards', '2'] });
}

/** A program in front, until `stop`. */
export class Front {
  #child;
  output = '';

  /** nginx with a text inside of its `http`. */
  static nginx(authority, inside, port) {
    const directory = authority.path(`nginx-${port}`);
    mkdirSync(directory);
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
      .map((name) => `${name}_temp_path ${directory}/${name};`).join('\n');
    const file = authority.write(`nginx-${port}.conf`, `
      user root; worker_processes 1; daemon off; pid ${directory}/pid; error_log stderr warn;
      events { worker_connections 1024; }
      http { access_log off; ${temporary}\n${inside} }`);
    return Front.start(['nginx', '-p', directory, '-c', file], port);
  }

  static haproxy(authority, text, port) {
    return Front.start(['haproxy', '-db', '-f', authority.write(`haproxy-${port}.cfg`, text)], port);
  }

  static async start([program, ...words], port) {
    const front = new Front();
    front.port = port;
    const child = (front.#child = spawn(program, words, { stdio: ['ignore', 'pipe', 'pipe'] }));
    process.on('exit', () => child.kill('SIGKILL'));
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (said) => (front.output += said));
    }
    await until(() => new Promise((done) => {
      if (child.exitCode !== null) throw new Error(`${program} ended:\n${front.output}`);
      const socket = net.connect(port, '127.0.0.1', () => { socket.destroy(); done(true); });
      socket.on('error', () => done(false));
    }), () => `${program} listens; it said:\n${front.output}`);
    return front;
  }

  async stop() {
    this.#child.kill('SIGTERM');
    if (this.#child.exitCode === null) await once(this.#child, 'close');
  }
}

/** A backend that lets everybody in as `user`, and keeps the header fields that it was asked with. */
export async function admitting(user) {
  const asked = [];
  const server = http.createServer(async (request, response) => {
    for await (const chunk of request) void chunk;
    asked.push(request.headers);
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ result: { user } }));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    asked,
    endpoint: `http://127.0.0.1:${server.address().port}/`,
    stop: () => new Promise((done) => { server.closeAllConnections(); server.close(done); }),
  };
}
