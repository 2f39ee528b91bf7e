// Commands of the terminal without any configuration: the node in development mode gives them its key.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { test } from 'node:test';

import { Daemon, binary, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';

/** Runs a command with nothing but a path in its environment. */
const run = (...words) => new Promise((resolve) => {
  execFile(binary, words, { env: { PATH: process.env.PATH } }, (error, stdout, stderr) => {
    resolve({ code: error ? error.code : 0, stdout, stderr });
  });
});

for (const driver of drivers) {
  test(`the key of a node in development mode is found on ${driver}`, async (t) => {
    const args = ['--api-listen', `127.0.0.1:${await freePort()}`];
    const daemon = await Daemon.start({ driver, config: null, args });
    t.after(() => daemon.kill());
    const status = await run('status', '--json', '--listen', daemon.address);
    assert.equal(status.code, 0, status.stderr);
    assert.equal(JSON.parse(status.stdout).ready, true);
    const listener = run('subscribe', 'demo', '--json', '--count', '1', '--listen', daemon.address);
    let published;
    do {
      // Until the listener is there.
      published = await run('publish', 'demo', '{"n":1}', '--listen', daemon.address);
      assert.equal(published.code, 0, published.stderr);
    } while (await Promise.race([listener.then(() => false), new Promise((resolve) => { setTimeout(resolve, 100, true); })]));
    const heard = await listener;
    assert.equal(heard.code, 0, heard.stderr);
    assert.match(heard.stdout, /"n":1/);
    const drained = await run('drain', '--status', '--listen', daemon.address);
    assert.equal(drained.code, 0, drained.stderr);

    const nobody = await run('status', '--listen', `127.0.0.1:${await freePort()}`);
    assert.equal(nobody.code, 2);
    assert.match(nobody.stderr, /no node in development mode is at |several nodes run here in development mode/);
  });
}
