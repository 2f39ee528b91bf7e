// Three nodes on Redis while the network between them fails: one is cut off for 5 s, one is slow, one stands still, and Redis
// fails over, under 500 publishes a second and with clients that go from node to node.
//
// TRUNKLINE_PARTITION_CLIENTS=1000 is the long form.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const script = path.join(path.dirname(fileURLToPath(import.meta.url)), 'support/partitions.mjs');

test('nodes in network namespaces, cut off, slow, paused, and with a Redis that fails over: nothing is lost or repeated untold', async (t) => {
  // Who is not root is so in a namespace of users. Nothing outside can be reached from there.
  const user = process.getuid() === 0 ? [] : ['--user', '--map-root-user'];
  const child = spawn('unshare', [...user, '--net', '--mount', '--pid', '--fork', '--kill-child', '--mount-proc', process.execPath, script], {
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let said = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => { said += text; });
  const code = await new Promise((resolve) => child.on('close', resolve));
  assert.equal(code, 0, said);
  const report = JSON.parse(said.match(/^REPORT (.*)$/m)[1]);
  t.diagnostic(JSON.stringify(report));
  assert.ok(report.published > 500 && report.hops > 20 && report.recovered > 20, said);
  assert.ok(report.connect_ms >= 40, 'one was slow');
});
