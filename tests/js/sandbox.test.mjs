// A node in its sandbox: what it cannot do, and that it can do all that it must, reloads and upgrades included.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { Daemon, binary, configuration, drivers, toml } from './support/daemon.mjs';
import { sdk, subscribed } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const status = (pid) => readFileSync(`/proc/${pid}/status`, 'utf8');
const running = new Set();
const killAll = () => running.forEach((pid) => { try { process.kill(pid, 'SIGKILL'); } catch { /* it has ended */ } });
process.on('exit', killAll);

/** `trunkline upgrade`: what it printed, its exit code, and the process that serves then. */
function upgrade(pid, ...args) {
  const { status: code, stdout, stderr } = spawnSync(binary, ['upgrade', '--pid', String(pid), ...args], { encoding: 'utf8' });
  const next = Number(stdout.match(/process (\d+) \(trunkline/)?.[1] ?? pid);
  running.add(next);
  return { code, text: stdout + stderr, pid: next };
}

for (const driver of drivers) {
  describe(`sandbox on ${driver}`, () => {
    test('reloads and upgrades within it, again and again; what is out of reach is named and changes nothing', async (t) => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-sandbox-'));
      const elsewhere = mkdtempSync(path.join(tmpdir(), 'trunkline-elsewhere-'));
      // One that goes on holds this process by its output.
      t.after(killAll);
      t.after(() => [folder, elsewhere].forEach((made) => rmSync(made, { recursive: true, force: true })));
      const secret = path.join(folder, 'secrets');
      writeFileSync(secret, 'the first secret of this test\n');
      const socket = `unix:${folder}/client.sock`;
      const config = (changes = {}) => configuration({
        driver,
        shards: 2,
        listen: ['127.0.0.1:0', socket],
        sandbox: { seccomp: true },
        client: { token: { hmac_secret: undefined, hmac_secret_file: secret } },
        ...changes,
      });
      // The file that the node reads: another one takes its place, as editors and package managers do it.
      const file = path.join(folder, 'trunkline.toml');
      const replace = (text) => {
        writeFileSync(`${file}.new`, text);
        renameSync(`${file}.new`, file);
      };
      replace(toml(config()));
      const daemon = await Daemon.start({ config: null, listen: null, args: ['--config', file] });
      assert.match(daemon.output, /sandbox: files by Landlock: /);
      assert.match(daemon.output, /sandbox: system calls that no node makes are refused/);
      assert.match(status(daemon.pid), /^NoNewPrivs:\s+1$/m);
      assert.match(status(daemon.pid), /^Seccomp:\s+2$/m);

      const client = sdk(daemon.ws);
      const room = await subscribed(client, 'news');
      await daemon.publish('news', 1);

      // Secrets and configuration that were replaced are read.
      writeFileSync(`${secret}.new`, 'another secret of this test\n');
      renameSync(`${secret}.new`, secret);
      replace(toml(config({ observe: { closed_kept: 7 } })));
      assert.deepEqual((await daemon.reload()).status, 200);
      // One that names a file elsewhere changes nothing, and says why.
      const far = path.join(elsewhere, 'secret');
      writeFileSync(far, 'a secret in another folder\n');
      replace(toml(config({ client: { token: { hmac_secret: undefined, hmac_secret_file: far } } })));
      const refused = await daemon.reload();
      assert.equal(refused.status, 422, JSON.stringify(refused));
      assert.match(JSON.stringify(refused), /Permission denied/);
      replace(toml(config({ observe: { closed_kept: 7 } })));

      // A program elsewhere cannot be started.
      const program = path.join(elsewhere, 'trunkline');
      copyFileSync(binary, program);
      const failed = upgrade(daemon.pid, '--binary', program);
      assert.equal(failed.code, 1, failed.text);
      assert.match(failed.text, /sandbox\.read/);

      // The kernel keeps sixteen sandboxes one in the other: the node goes on behind that.
      let { pid } = daemon;
      for (let round = 1; round <= 18; round += 1) {
        const done = upgrade(pid);
        assert.equal(done.code, 0, done.text + daemon.output);
        pid = done.pid;
        assert.match(status(pid), /^Seccomp:\s+2$/m);
      }
      await daemon.publish('news', 2);
      await until(() => room.seen.publications.length === 2, 'the client has both');
      client.disconnect();
      process.kill(pid, 'SIGTERM');
      await until(() => { try { process.kill(pid, 0); return false; } catch { return true; } }, 'it ends');
    });
  });
}
