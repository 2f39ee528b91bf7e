// The guides for those who come from something else: the example of each page is run as it stands there, but for its ports.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, test } from 'node:test';

import { Daemon, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { until } from './support/wait.mjs';

const here = path.dirname(fileURLToPath(import.meta.url));

/** The blocks of code of a page's example, by their language. */
function example(page) {
  const text = readFileSync(path.join(here, '../../docs', page), 'utf8');
  const blocks = text.slice(text.indexOf('## An example')).matchAll(/^```(\w+)\n([\s\S]*?)^```$/gm);
  return Object.fromEntries([...blocks].map(([, language, code]) => [language, code]));
}

/** A folder of the example's own, with the packages of these tests. */
function folder(t) {
  const made = mkdtempSync(path.join(tmpdir(), 'trunkline-guide-'));
  t.after(() => rmSync(made, { recursive: true, force: true }));
  symlinkSync(path.join(here, 'node_modules'), path.join(made, 'node_modules'));
  return made;
}

/** Starts a program and gathers what it prints; it is ended with the test. */
function run(t, program, words, cwd) {
  const child = spawn(program, words, { cwd, stdio: ['ignore', 'pipe', 'pipe'] });
  const said = { out: '', err: '' };
  child.stdout.setEncoding('utf8').on('data', (text) => (said.out += text));
  child.stderr.setEncoding('utf8').on('data', (text) => (said.err += text));
  t.after(() => child.kill('SIGKILL'));
  return said;
}

const pages = [
  {
    page: 'socketio.md',
    prints: ['ann hears good night', 'ann hears news for all but bob', 'bob hears good night', 'bob hears hello', 'saved 6'],
  },
  { page: 'nchan.md', prints: ['"data":"one"', '"data":"three"', '"data":"two"'] },
  {
    page: 'own-server.md',
    prints: ['a storm comes up', 'left after 2 turns', 'turn 1: north', 'turn 2: east', 'welcome ann'],
  },
  {
    page: 'values.md',
    prints: ['a change: ACME 102, INIT 7', 'at first: ACME 101, INIT 7', 'back again: ACME 102, NEWS 12'],
  },
  { page: 'centrifugo.md', prints: ['1: hello', 'recoverable: true'] },
];

for (const driver of drivers) {
  describe(`the guides, on ${driver}`, () => {
    for (const { page, prints } of pages) {
      test(`the example of ${page} does what the page says`, async (t) => {
        const blocks = example(page);
        const [port, backend] = [await freePort(), await freePort()];
        const placed = (code) => code.replaceAll('8000', port).replaceAll('3000', backend);
        const cwd = folder(t);
        const [name, flag] = blocks.json ? ['config.json', '--centrifugo'] : ['trunkline.toml', '--config'];
        writeFileSync(path.join(cwd, name), placed(blocks.json ?? blocks.toml));
        const args = [flag, path.join(cwd, name)];
        const daemon = await Daemon.start({ driver, config: null, listen: null, args });
        t.after(() => daemon.stop());
        const lines = (said) => said.out.split('\n').filter(Boolean).sort();
        let said;
        if (blocks.js) {
          writeFileSync(path.join(cwd, 'app.mjs'), placed(blocks.js));
          said = run(t, process.execPath, ['app.mjs'], cwd);
        } else {
          said = run(t, 'bash', ['-euc', placed(blocks.sh)], cwd);
        }
        await until(() => lines(said).length >= prints.length, () => `${page} prints; it said:\n${said.out}${said.err}`);
        assert.deepEqual(lines(said), prints, said.err);
      });
    }
  });
}
