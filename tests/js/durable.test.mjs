// A durable store, as clients see it: the node is killed, and what was acknowledged is recovered.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/edge.mjs';
import { sdk, subscribed } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const ROUNDS = 4;

for (const driver of drivers) {
  describe(`a durable store on ${driver}`, { concurrency: true }, () => {
    test('kill -9: every acknowledged publication comes once, in order, and each return recovers', async () => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-store-'));
      const port = await freePort();
      const config = configuration({
        store: { path: path.join(folder, 'store') },
        channel: { durable: 'sync', history_size: 100000, force_recovery: true, allow_recovery: true },
        client: { recovery_max_publication_limit: 100000 },
      });
      const start = () => Daemon.start({ driver, config, listen: `127.0.0.1:${port}` });
      let daemon = await start();
      const client = sdk(daemon.ws, { minReconnectDelay: 20, maxReconnectDelay: 100 });
      const subscription = await subscribed(client, 'log');
      const kept = new Map();
      for (let round = 0; round < ROUNDS; round += 1) {
        let over = false;
        const { http } = daemon;
        const publisher = async (number) => {
          for (let count = 0; !over; count += 1) {
            const data = `${round}-${number}-${count}`;
            try {
              const response = await fetch(`${http}/api/publish`, {
                method: 'POST', headers: { 'X-API-Key': API_KEY }, body: JSON.stringify({ channel: 'log', data }),
              });
              const { result } = await response.json();
              assert(!kept.has(result.offset), `offset ${result.offset} twice`);
              kept.set(result.offset, data);
            } catch (error) {
              // The process is gone: this one was not acknowledged.
              if (error instanceof assert.AssertionError) throw error;
              return;
            }
          }
        };
        const publishers = Array.from({ length: 8 }, (_, number) => publisher(number));
        const before = kept.size;
        await until(() => kept.size > before + 40, 'publications of this round');
        const away = once(client, 'connecting');
        process.kill(daemon.pid, 'SIGKILL');
        await Promise.all(publishers);
        over = true;
        await away;
        const returned = subscription.seen.subscribed.length + 1;
        daemon = await start();
        await until(() => subscription.seen.subscribed.length >= returned, 'it is subscribed again');
        assert.equal(subscription.seen.subscribed.at(-1).recovered, true);
      }
      const last = Math.max(...kept.keys());
      await until(() => subscription.seen.publications.at(-1)?.offset >= last, 'the last publication');
      const seen = subscription.seen.publications;
      seen.forEach((publication, at) => at && assert.equal(publication.offset, seen[at - 1].offset + 1));
      const found = new Map(seen.map((publication) => [publication.offset, publication.data]));
      for (const [offset, data] of kept) assert.equal(found.get(offset), data);
      assert.equal(new Set(seen.map((publication) => publication.data)).size, seen.length);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
      rmSync(folder, { recursive: true });
    });
  });
}
