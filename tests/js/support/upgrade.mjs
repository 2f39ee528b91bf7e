// `trunkline upgrade`, as a test runs it, and the files that it names.

import { spawn } from 'node:child_process';
import { chmodSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { binary, toml } from './daemon.mjs';

export const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-upgrade-'));
export const running = new Set();
process.on('exit', () => running.forEach((pid) => { try { process.kill(pid, 'SIGKILL'); } catch { /* it has ended */ } }));

/** A configuration file. */
export function file(name, config) {
  const at = path.join(folder, name);
  writeFileSync(at, typeof config === 'string' ? config : toml(config));
  return at;
}

/** A program that does what the lines say. */
export function script(name, lines) {
  const at = path.join(folder, name);
  writeFileSync(at, `#!/bin/sh\n${lines}\n`);
  chmodSync(at, 0o755);
  return at;
}

/** Runs `trunkline upgrade`: its exit code, what it printed, and the process that serves behind it. */
export async function upgrade(pid, ...args) {
  const child = spawn(binary, ['upgrade', '--pid', String(pid), ...args]);
  const said = { out: '', error: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => (said.out += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (said.error += text));
  said.code = await new Promise((resolve) => child.on('close', resolve));
  const next = said.out.match(/process (\d+) \(trunkline \S+\) serves/)?.[1];
  said.pid = next ? Number(next) : pid;
  running.add(said.pid);
  return said;
}
