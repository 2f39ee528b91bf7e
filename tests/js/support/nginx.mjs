// Debian's nginx in front of the daemon, as docs/transports.md configures it.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { freePort } from './ports.mjs';
import { until } from './wait.mjs';

const docs = new URL('../../../docs/transports.md', import.meta.url);

/** The configuration blocks of the docs: the location; outside of the server the map, and the upstream of a unix socket. */
function documented() {
  const blocks = [...readFileSync(docs, 'utf8').matchAll(/```nginx\n([^]*?)```/g)].map(([, text]) => text);
  return { location: blocks[0], map: blocks[1], upstream: blocks[2] };
}

export class Nginx {
  #child;
  #directory;
  #output = '';
  port;

  /**
   * @param {number | string} daemon its port, or the path of its unix socket
   * @param {string} readTimeout replaces the docs' `proxy_read_timeout`, so that a test can wait for it
   */
  static async before(daemon, { readTimeout = '75s' } = {}) {
    const nginx = new Nginx();
    nginx.port = await freePort();
    const directory = (nginx.#directory = mkdtempSync(path.join(tmpdir(), 'trunkline-nginx-')));
    const { location, map, upstream } = documented();
    const byPort = typeof daemon === 'number';
    const to = byPort ? `127.0.0.1:${daemon}` : 'trunkline';
    const file = path.join(directory, 'nginx.conf');
    const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
      .map((name) => `${name}_temp_path ${directory}/${name};`).join('\n');
    writeFileSync(file, `
      user root; worker_processes 1; daemon off; pid ${directory}/pid; error_log stderr warn;
      events { worker_connections 1024; }
      http {
        access_log off; ${temporary}
        ${map}
        ${byPort ? '' : upstream.replace('/run/trunkline/client.sock', daemon)}
        server {
          listen 127.0.0.1:${nginx.port};
          ${location.replace('127.0.0.1:8000', to).replace('75s', readTimeout)}
        }
      }`);
    nginx.#child = spawn('nginx', ['-p', directory, '-c', file], { stdio: ['ignore', 'pipe', 'pipe'] });
    nginx.#child.stderr.setEncoding('utf8').on('data', (text) => (nginx.#output += text));
    await until(() => new Promise((done) => {
      if (nginx.#child.exitCode !== null) throw new Error(`nginx ended:\n${nginx.#output}`);
      const socket = net.connect(nginx.port, '127.0.0.1', () => { socket.destroy(); done(true); });
      socket.on('error', () => done(false));
    }), () => `nginx listens; it said:\n${nginx.#output}`);
    return nginx;
  }

  get http() {
    return `http://127.0.0.1:${this.port}`;
  }

  async close() {
    this.#child.kill('SIGTERM');
    if (this.#child.exitCode === null) await once(this.#child, 'close');
    rmSync(this.#directory, { recursive: true, force: true });
  }
}
