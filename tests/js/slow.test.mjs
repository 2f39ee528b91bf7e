// A client that stops reading: it costs a bounded amount, the gap policy of its channel decides, others go on.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { forms } from './support/sdk.mjs';
import { RawSocket } from './support/socket.mjs';
import { until } from './support/wait.mjs';

const MIB = 1 << 20;
// More than both kernels' buffers of a loopback connection hold (tcp_wmem and tcp_rmem allow some 10 MiB).
const PAYLOAD = 'x'.repeat(48 * 1024);
const COUNT = 500;

// Long intervals: a client that reads nothing answers no pings, which is another test's matter.
const slowly = { ping_interval: '10m', pong_timeout: '5m' };

for (const driver of drivers) {
  describe(`clients that stop reading, on ${driver}`, () => {
    let daemon;

    before(async () => {
      const may = { allow_subscribe_for_client: true, history_ttl: '10m' };
      const namespace = [
        { name: 'tell', gap: 'tell', history_size: 20, ...may },
        { name: 'latest', gap: 'latest', history_size: 20, ...may },
        { name: 'close', gap: 'close', history_size: 20, ...may },
      ];
      daemon = await Daemon.start({ driver, config: configuration({ namespace, client: slowly }), args: ['--shards', '2'] });
    });
    after(async () => assert.equal(await daemon.stop(), 0));

    const subscriber = async (channel, form) => {
      const raw = await RawSocket.client(daemon.port, form);
      raw.command({ id: 2, subscribe: { channel } });
      assert.ok((await raw.message()).subscribe);
      return raw;
    };

    /**
     * Publishes to the channel while one subscriber sleeps and another reads everything. That one keeps up whatever else the
     * machine does: a publication is answered before it is delivered, so the next one waits for the reader.
     */
    const flood = async (channel, form) => {
      const sleeper = await subscriber(channel, form);
      const reader = await subscriber(channel, form);
      sleeper.pause();
      for (let n = 1; n <= COUNT; n += 1) {
        await daemon.publish(channel, { n, fill: PAYLOAD });
        assert.equal((await reader.message()).push.pub.data.n, n);
      }
      reader.destroy();
      return sleeper;
    };

    for (const form of forms) {
      test(`tell, in ${form}: what it got is whole and in order, then 2500, and it can subscribe again`, async () => {
        const channel = `tell:${form}`;
        const sleeper = await flood(channel, form);
        sleeper.resume();
        let got = 0;
        for (;;) {
          const { push } = await sleeper.message();
          if (push.unsubscribe) {
            assert.deepEqual(push.unsubscribe, { code: 2500, reason: 'insufficient state' });
            break;
          }
          got += 1;
          assert.equal(push.pub.data.n, got, 'no gap before it is told');
        }
        assert.ok(got < COUNT, 'it did miss some');
        sleeper.command({ id: 3, subscribe: { channel } });
        assert.equal((await sleeper.message()).id, 3);
        await daemon.publish(channel, { n: 'again' });
        assert.equal((await sleeper.message()).push.pub.data.n, 'again');
        sleeper.destroy();
      });
    }

    test('latest: it skips to the newest', async () => {
      const sleeper = await flood('latest:x');
      sleeper.resume();
      let last = 0;
      let skipped = 0;
      while (last < COUNT) {
        const { n } = (await sleeper.message()).push.pub.data;
        assert.ok(n > last, `${n} after ${last}`);
        skipped += n - last - 1;
        last = n;
      }
      assert.ok(skipped > 0, 'it did skip some');
      await daemon.publish('latest:x', { n: 'live' });
      assert.equal((await sleeper.message()).push.pub.data.n, 'live');
      sleeper.destroy();
    });

    test('close: it is closed as slow', async () => {
      const sleeper = await flood('close:x');
      sleeper.resume();
      const { code } = await sleeper.closed();
      // A client that reads nothing may find the stream ended: its Close could not be sent.
      assert.ok(code === 3008 || code === null, `${code}`);
      await until(async () => (await daemon.api('info')).nodes[0].num_clients === 0, 'it is gone');
    });

    test('a laggard within what a client may owe catches up: nothing is missing', async () => {
      const deep = { name: 'tell', gap: 'tell', allow_subscribe_for_client: true };
      const client = { ...slowly, outbox_bytes_max: '64MiB' };
      const shallow = daemon;
      daemon = await Daemon.start({ driver, config: configuration({ namespace: [deep], client }) });
      try {
        const sleeper = await flood('tell:deep');
        sleeper.resume();
        for (let n = 1; n <= COUNT; n += 1) assert.equal((await sleeper.message()).push.pub.data.n, n);
        await daemon.publish('tell:deep', { n: 'live' });
        assert.equal((await sleeper.message()).push.pub.data.n, 'live');
        sleeper.destroy();
        assert.equal(await daemon.stop(), 0);
      } finally {
        daemon = shallow;
      }
    });

    test('sleepers cost no queue: memory stays near what the history holds', async () => {
      const rss = async () => (await daemon.api('info')).nodes[0].process.rss;
      const before = await rss();
      const sleepers = [];
      for (let n = 0; n < 8; n += 1) sleepers.push(await subscriber('tell:crowd'));
      sleepers.forEach((sleeper) => sleeper.pause());
      // 24 MiB for each of eight: 192 MiB if they were queued.
      for (let n = 1; n <= COUNT; n += 1) await daemon.publish('tell:crowd', { n, fill: PAYLOAD });
      const grown = (await rss()) - before;
      assert.ok(grown < 64 * MIB, `${grown / MIB} MiB`);
      sleepers.forEach((sleeper) => sleeper.destroy());
    });
  });
}
