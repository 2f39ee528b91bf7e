// Debian's HAProxy in front of the daemon: its health checks, and connections that it keeps.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';

import { Daemon, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { until } from './support/wait.mjs';

/** A backend for each way to check; `port` is the daemon's. */
const checks = {
  byDefault: 'option httpchk',
  ofPath: 'option httpchk OPTIONS /health',
  asterisk: 'option httpchk OPTIONS * HTTP/1.1\n http-check send hdr Host a',
  get: 'option httpchk GET /health',
  head: 'option httpchk HEAD /health',
};

const configuration = (ports, port) => `
global
 maxconn 200
defaults
 mode http
 timeout connect 5s
 timeout check 5s
 timeout client 30s
 timeout server 30s
${Object.entries(checks).map(([name, check], at) => `
frontend f_${name}
 bind 127.0.0.1:${ports[at]}
 default_backend b_${name}
backend b_${name}
 ${check}
 server one 127.0.0.1:${port} check inter 100ms fall 1 rise 2`).join('\n')}
`;

for (const driver of drivers) {
  describe(`behind HAProxy on ${driver}`, () => {
    let daemon;
    let proxy;
    let ports;
    let directory;
    let output = '';

    before(async () => {
      daemon = await Daemon.start({ driver });
      ports = await Promise.all(Object.keys(checks).map(freePort));
      directory = mkdtempSync(path.join(tmpdir(), 'trunkline-haproxy-'));
      const file = path.join(directory, 'haproxy.cfg');
      writeFileSync(file, configuration(ports, daemon.port));
      proxy = spawn('haproxy', ['-db', '-f', file], { stdio: ['ignore', 'pipe', 'pipe'] });
      for (const stream of [proxy.stdout, proxy.stderr]) {
        stream.setEncoding('utf8').on('data', (text) => (output += text));
      }
    });

    after(async () => {
      if (proxy && proxy.exitCode === null) {
        proxy.kill('SIGTERM');
        await once(proxy, 'close');
      }
      await daemon?.stop();
      if (directory) rmSync(directory, { recursive: true, force: true });
    });

    it('is up by every check', async () => {
      for (const [at, name] of Object.keys(checks).entries()) {
        // Checks go on all the time: one that fails takes the server away, and a request meets 503.
        for (let round = 0; round < 10; round += 1) {
          await until(async () => {
            if (proxy.exitCode !== null) throw new Error(`haproxy ended:\n${output}`);
            try {
              return (await fetch(`http://127.0.0.1:${ports[at]}/health`)).status === 200;
            } catch {
              return false;
            }
          }, () => `${name} is up; haproxy said:\n${output}`);
          await new Promise((done) => setTimeout(done, 60));
        }
      }
      assert.doesNotMatch(output, /DOWN/);
    });
  });
}
