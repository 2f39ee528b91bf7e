// Publishes by the clock through several nodes, on a thread of its own: what its clients read does not hold it up.
//
// As a thread it is given { nodes, channels, rate, key } and publishes numbers, each to the next node and channel, until it is told
// 'stop'; then it says { published, refused }.

import { parentPort, workerData, isMainThread, Worker } from 'node:worker_threads';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';

import { sleep } from './wait.mjs';

/** Publishes that wait for an answer. */
const WAITING_MAX = 1000;

/** Begins. Gives what ends it and says how many were published and refused. */
export function publishing(what) {
  const worker = new Worker(fileURLToPath(import.meta.url), { workerData: what });
  const said = once(worker, 'message');
  return async () => {
    worker.postMessage('stop');
    return (await said)[0];
  };
}

if (!isMainThread) {
  const { nodes, channels, rate, key } = workerData;
  const report = { published: 0, refused: 0 };
  let stopped = false;
  parentPort.once('message', () => { stopped = true; });
  const publish = (n) => fetch(`${nodes[n % nodes.length]}/api/publish`, {
    method: 'POST', signal: AbortSignal.timeout(1500), headers: { 'X-API-Key': key },
    body: JSON.stringify({ channel: channels[n % channels.length], data: n }),
  }).then(async (response) => {
    await response.arrayBuffer();
    report[response.status === 200 ? 'published' : 'refused'] += 1;
  }, () => { report.refused += 1; });
  const began = performance.now();
  const waiting = new Set();
  // Whether others were answered or not: a node that does not answer holds up nobody.
  for (let n = 0; !stopped; n += 1) {
    const ahead = began + (1000 * n) / rate - performance.now();
    // Answers are read in between, also when this is behind.
    if (ahead > 0 || n % 10 === 0) await sleep(Math.max(0, ahead));
    if (waiting.size >= WAITING_MAX) await Promise.race(waiting);
    const call = publish(n).finally(() => waiting.delete(call));
    waiting.add(call);
  }
  await Promise.all(waiting);
  parentPort.postMessage(report);
}
