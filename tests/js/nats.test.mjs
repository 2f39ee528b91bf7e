// Channels through NATS: at most once, and nothing is kept.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { Nats } from './support/nats.mjs';
import { received, sdk, subscribed } from './support/sdk.mjs';
import { until } from './support/wait.mjs';

const config = (address, engine = {}, more = {}) => configuration({
  engine: { kind: 'nats', address, timeout: '1s', ...engine },
  channel: { history_size: 0, history_ttl: '0s', presence: false },
  ...more,
});

const ready = (daemon) => until(
  async () => (await fetch(`${daemon.http}/health/ready`)).status === 200,
  () => daemon.output,
);

describe('nodes on one NATS', () => {
  let nats;
  let nodes;
  const clients = [];
  const client = (node) => {
    clients.push(sdk(node.ws));
    return clients.at(-1);
  };

  before(async () => {
    nats = await Nats.start({ args: ['--user', 'ann', '--pass', 'right-password'] });
    const engine = { user: 'ann', password: 'right-password' };
    nodes = await Promise.all(drivers.map((driver) => Daemon.start({ driver, config: config(nats.url, engine) })));
    await Promise.all(nodes.map(ready));
  });

  after(async () => {
    clients.forEach((made) => made.disconnect());
    for (const node of nodes) assert.equal(await node.stop(), 0, node.output);
    await nats.stop();
  });

  test('what is published at one node reaches subscribers of the other, joins and leaves too', async () => {
    const rooms = await Promise.all(nodes.map((node) => subscribed(client(node), 'chat:no', {}).catch(() => null)));
    assert.deepEqual(rooms, [null, null], 'an unknown namespace is one here as well');
    const [here, there] = await Promise.all(nodes.map((node) => subscribed(client(node), 'news', { joinLeave: true })));
    for (let n = 1; n <= 20; n += 1) await nodes[n % 2].publish('news', n, { tags: { n: String(n) } });
    await until(() => here.seen.publications.length === 20 && there.seen.publications.length === 20, 'all of them');
    const odd = (room) => room.seen.publications.map((publication) => publication.data).filter((n) => n % 2);
    // Of one publisher in its order.
    assert.deepEqual(odd(here), odd(there));
    assert.deepEqual(odd(here), Array.from({ length: 10 }, (_, at) => at * 2 + 1));
    await until(() => here.seen.joins.length + there.seen.joins.length >= 2, 'joins');
    there.unsubscribe();
    await until(() => here.seen.leaves.length === 1, 'a leave');
  });

  test('what cannot be is refused', async () => {
    const { answer } = await nodes[0].apiRaw('publish', { channel: 'a.*', data: 1 });
    assert.equal(answer.error.code, 107);
    const keyed = await nodes[0].apiRaw('publish', { channel: 'a', data: 1, idempotency_key: 'k' });
    assert.equal(keyed.answer.error.code, 108);
    const history = await nodes[0].apiRaw('history', { channel: 'a', limit: 1 });
    assert.equal(history.answer.error.code, 108);
    const refused = Daemon.spawn({ config: configuration({ engine: { kind: 'nats', address: nats.url } }) });
    assert.equal(await refused.ended(), 2);
    assert.match(refused.output, /channel\.history_size.*nats/);
    const wrong = Daemon.spawn({ config: config(nats.url, { user: 'ann', password: 'wrong-password' }) });
    assert.equal(await wrong.ended(), 1);
    assert.match(wrong.output, /does not let this node in.*authorization violation/);
  });

  test('an outage: clients stay, publishes are 503, and all goes on when it is back', async () => {
    const room = await subscribed(client(nodes[1]), 'outage');
    await nodes[0].publish('outage', 1);
    await received(room, [1]);
    await nats.stop();
    await until(async () => (await nodes[0].apiRaw('publish', { channel: 'outage', data: 0 })).status === 503, 'a 503');
    assert.equal(clients.at(-1).state, 'connected');
    await nats.run();
    await Promise.all(nodes.map(ready));
    await until(async () => {
      await nodes[0].publish('outage', 2);
      return room.seen.publications.length > 1;
    }, 'it is subscribed again');
    assert.equal(clients.at(-1).log.disconnected.length, 0);
  });
});
