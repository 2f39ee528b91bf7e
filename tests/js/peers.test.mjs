// The servers that the measurement has beside the daemon, driven by the load generator as there.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { freePort } from './support/ports.mjs';
import { until } from './support/wait.mjs';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

const isOpen = (port) => new Promise((resolve) => {
  const socket = connect(port, '127.0.0.1');
  socket.on('connect', () => { socket.destroy(); resolve(true); }).on('error', () => resolve(false));
});

for (const [peer, says] of [
  ['ws', ['--profile', 'websocket', '--subscribe', '{"subscribe":"{channel}"}', '--ready-on', '"subscribed":true']],
  ['socketio', ['--profile', 'socketio']],
]) {
  test(`${peer}: every publication reaches its subscribers`, async (t) => {
    const port = await freePort();
    const server = spawn('node', [path.join(root, `tuning/peers/${peer}.mjs`), port], { stdio: ['ignore', 'ignore', 'inherit'] });
    t.after(() => server.kill());
    await until(() => isOpen(port), () => `${peer} does not listen`);
    const folder = mkdtempSync(path.join(tmpdir(), 'peers-'));
    t.after(() => rmSync(folder, { recursive: true }));
    const report = path.join(folder, 'report.json');
    const publish = ['--publish-url', `http://127.0.0.1:${port}/publish`, '--publish-body', '{"channel":"{channel}","data":{data}}'];
    const url = `ws://127.0.0.1:${port}/${peer === 'socketio' ? 'socket.io/' : ''}`;
    const load = ['fanout', '-n', '20', '-c', '10', '--per-connection', '5', '--rate', '50', '--seconds', '2s', '--warm-up', '0s'];
    const run = execFile(path.join(root, 'target/debug/trunkline-loadgen'), [...load, '--url', url, ...says, ...publish, '--quiet', '--json', report]);
    let output = '';
    run.stdout.on('data', (text) => { output += text; });
    run.stderr.on('data', (text) => { output += text; });
    const [code] = await once(run, 'close');
    // 3: the generator was late on a busy machine; what it counted holds.
    assert.ok(code === 0 || code === 3, output);
    // Ten subscribers for each publication; the clock decides on one more or less.
    const deliveries = Number(output.match(/delivery +(\d+) /)?.[1]);
    assert.ok(deliveries >= 900 && deliveries % 10 === 0, output);
    for (const phase of JSON.parse(readFileSync(report)).target.phases) assert.equal(phase.lost, 0, output);
  });
}
