// Debian's nginx and HAProxy in front of the daemon: the backend learns whom a client is of.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, it } from 'node:test';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { until } from './support/wait.mjs';

const nginx = (directory, port, daemon) => `
  user root; worker_processes 1; daemon off; pid ${directory}/pid; error_log stderr warn;
  events { worker_connections 1024; }
  http {
    access_log off;
    ${['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((name) => `${name}_temp_path ${directory}/${name};`).join('\n')}
    server {
      listen 127.0.0.1:${port};
      location / {
        proxy_pass http://127.0.0.1:${daemon};
        proxy_http_version 1.1;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        proxy_buffering off;
      }
    }
  }`;

const haproxy = (version) => (directory, port, daemon) => `
global
  maxconn 200
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
frontend clients
  bind 127.0.0.1:${port}
  default_backend trunkline
backend trunkline
  server one 127.0.0.1:${daemon} ${version}
`;

const proxies = {
  nginx: { command: (file, directory) => ['nginx', '-p', directory, '-c', file], configuration: nginx, listener: 'ordinary' },
  'HAProxy, version 1': { command: (file) => ['haproxy', '-db', '-f', file], configuration: haproxy('send-proxy'), listener: 'proxied' },
  'HAProxy, version 2': { command: (file) => ['haproxy', '-db', '-f', file], configuration: haproxy('send-proxy-v2'), listener: 'proxied' },
};

/** Opens a stream from `localAddress`; gives it once its head is there. */
async function stream(port, localAddress, headers = {}) {
  const request = http.get({ host: '127.0.0.1', port, path: '/sse?channel=news', localAddress, headers, agent: false });
  const [response] = await once(request, 'response');
  assert.equal(response.statusCode, 200);
  response.resume();
  return request;
}

for (const driver of drivers) {
  for (const [name, { command, configuration: written, listener }] of Object.entries(proxies)) {
    describe(`behind ${name} on ${driver}`, () => {
      let daemon;
      let proxy;
      let port;
      let directory;
      let output = '';

      before(async () => {
        const ports = { ordinary: await freePort(), proxied: await freePort() };
        daemon = await Daemon.start({
          driver,
          listen: `127.0.0.1:${ports.ordinary}`,
          config: configuration({
            trusted_networks: ['127.0.0.1'],
            events: { types: ['connected'] },
            listener: [{ address: `127.0.0.1:${ports.proxied}`, proxy_protocol: true }],
          }),
        });
        port = await freePort();
        directory = mkdtempSync(path.join(tmpdir(), 'trunkline-edge-'));
        const file = path.join(directory, 'proxy.conf');
        writeFileSync(file, written(directory, port, ports[listener]));
        const [program, ...args] = command(file, directory);
        proxy = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
        for (const from of [proxy.stdout, proxy.stderr]) from.setEncoding('utf8').on('data', (said) => (output += said));
        await until(async () => {
          if (proxy.exitCode !== null) throw new Error(`${name} ended:\n${output}`);
          try {
            return (await fetch(`http://127.0.0.1:${port}/health`)).status === 200;
          } catch {
            return false;
          }
        }, () => `${name} serves; it said:\n${output}`);
      });

      after(async () => {
        if (proxy && proxy.exitCode === null) {
          proxy.kill('SIGTERM');
          await once(proxy, 'close');
        }
        await daemon?.stop();
        if (directory) rmSync(directory, { recursive: true, force: true });
      });

      it('tells the address of each client, whatever the client claims', async () => {
        const addresses = async () => {
          const answer = await fetch(`${daemon.http}/api/events`, { headers: { 'X-API-Key': API_KEY } });
          return (await answer.json()).events.map((event) => event.address);
        };
        const open = [
          await stream(port, '127.0.0.5'),
          await stream(port, '127.0.0.6', { 'X-Forwarded-For': '192.0.2.1', Forwarded: 'for=192.0.2.1' }),
        ];
        await until(async () => (await addresses()).length === 2, 'both clients');
        assert.deepEqual((await addresses()).sort(), ['127.0.0.5', '127.0.0.6']);
        for (const request of open) request.destroy();
      });
    });
  }
}
