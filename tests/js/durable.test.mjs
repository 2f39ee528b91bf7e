// A durable store, as clients see it: the node is killed again and again, and what was acknowledged is recovered.
// TRUNKLINE_KILLS says how often (default 300, over both drivers).

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, test } from 'node:test';

import { API_KEY, Daemon, configuration, drivers } from './support/daemon.mjs';
import { freePort } from './support/ports.mjs';
import { sdk, subscribed } from './support/sdk.mjs';
import { sleep, until } from './support/wait.mjs';

const KILLS = Math.ceil(Number(process.env.TRUNKLINE_KILLS ?? 300) / drivers.length);
/** Callers of the API, each of which waits for its answer before it asks again. */
const CALLERS = 40;
/** What all of them ask for in a second, if the node keeps up. */
const PUBLISHES_PER_SECOND = 2_000;
/** Acknowledged in a round before its kill is near. */
const ROUND = 80;

/** One connection that publishes one thing at a time; ends with the node. */
class Caller {
  #answer = '';
  #asked;

  constructor(port, acknowledged) {
    this.socket = connect(port, '127.0.0.1').setNoDelay(true).setEncoding('latin1');
    this.closed = once(this.socket, 'close').catch(() => {});
    this.socket.on('error', () => {});
    this.socket.on('data', (text) => {
      this.#answer += text;
      const whole = this.#answer.match(/^HTTP\/1\.1 (\d+) [^]*?\r\ncontent-length: (\d+)\r\n(?:[^]*?\r\n)?\r\n([^]*)$/i);
      if (!whole || whole[3].length < Number(whole[2])) return;
      const [, status, , body] = whole;
      this.#answer = '';
      acknowledged(this.#asked, Number(status), body);
      this.#asked = undefined;
    });
  }

  publish(data) {
    if (this.#asked !== undefined || this.socket.connecting || this.socket.destroyed) return false;
    this.#asked = data;
    const body = JSON.stringify({ channel: 'log', data });
    this.socket.write(`POST /api/publish HTTP/1.1\r\nHost: localhost\r\nX-API-Key: ${API_KEY}\r\nContent-Length: ${body.length}\r\n\r\n${body}`);
    return true;
  }
}

describe('a durable store', { concurrency: true }, () => {
  for (const driver of drivers) {
    test(`kill -9, on ${driver}: every acknowledged publication comes once, in order, and each return recovers`, async (t) => {
      const folder = mkdtempSync(path.join(tmpdir(), 'trunkline-store-'));
      const port = await freePort();
      const config = configuration({
        store: { path: path.join(folder, 'store') },
        channel: { durable: 'sync', history_size: 1000000, force_recovery: true, allow_recovery: true },
        client: { recovery_max_publication_limit: 100000 },
      });
      const start = (round) => Daemon.start({
        driver, config, listen: `127.0.0.1:${port}`, args: ['--shards', String([2, 1, 3][round % 3])],
      });
      let daemon = await start(0);
      const client = sdk(daemon.ws, { minReconnectDelay: 10, maxReconnectDelay: 40 });
      const subscription = await subscribed(client, 'log');
      const kept = new Map();
      const refused = [];
      let publishing = 0;
      const acknowledged = (data, status, body) => {
        const { offset } = status === 200 ? JSON.parse(body).result ?? {} : {};
        if (offset === undefined || kept.has(offset)) refused.push(`${data}: ${status} ${body}`);
        kept.set(offset, data);
      };
      for (let round = 1; round <= KILLS; round += 1) {
        const callers = Array.from({ length: CALLERS }, () => new Caller(port, acknowledged));
        let [count, began] = [0, performance.now()];
        const ticking = setInterval(() => {
          const due = Math.floor((performance.now() - began) / 1000 * PUBLISHES_PER_SECOND);
          for (const caller of callers) if (count < due && caller.publish(`${round}-${count}`)) count += 1;
          // What it could not take is not asked for later.
          if (count < due) began = performance.now() - count / PUBLISHES_PER_SECOND * 1000;
        }, 2);
        const [before, since] = [kept.size, performance.now()];
        await until(() => kept.size >= before + ROUND, 'publications of this round');
        // Somewhere between two syncs.
        await sleep(Math.random() * 20);
        const returned = subscription.seen.subscribed.length + 1;
        publishing += performance.now() - since;
        await daemon.kill();
        clearInterval(ticking);
        await Promise.all(callers.map((caller) => caller.closed));
        daemon = await start(round);
        await until(() => subscription.seen.subscribed.length >= returned, 'it is subscribed again');
        assert.equal(subscription.seen.subscribed.at(-1).recovered, true);
        assert.deepEqual(refused, []);
      }
      const last = Math.max(...kept.keys());
      await until(() => subscription.seen.publications.at(-1)?.offset >= last, 'the last publication');
      const seen = subscription.seen.publications;
      seen.forEach((publication, at) => at && assert.equal(publication.offset, seen[at - 1].offset + 1));
      const found = new Map(seen.map((publication) => [publication.offset, publication.data]));
      for (const [offset, data] of kept) assert.equal(found.get(offset), data);
      assert.equal(new Set(found.values()).size, seen.length, 'none twice');
      assert.equal(client.log.connecting.length, KILLS + 1);
      t.diagnostic(`${KILLS} kills, ${kept.size} acknowledged, ${Math.round(kept.size / publishing * 1000)} a second between them`);
      client.disconnect();
      assert.equal(await daemon.stop(), 0);
      rmSync(folder, { recursive: true });
    });
  }
});
