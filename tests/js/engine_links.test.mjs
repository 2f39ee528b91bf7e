// The way to an engine: TLS, users, passwords, tokens and credentials, against the servers themselves.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Daemon, configuration, drivers } from './support/daemon.mjs';
import { Nats, operator } from './support/nats.mjs';
import { Redis, cluster, failOver, replicate, sentinel } from './support/redis.mjs';
import { received, sdk, subscribed } from './support/sdk.mjs';
import { Authority } from './support/tls.mjs';
import { until } from './support/wait.mjs';

const bare = { history_size: 0, history_ttl: '0s', presence: false };
const config = (engine) => configuration({
  engine: { timeout: '2s', connect_timeout: '2s', ...engine }, ...(engine.kind === 'nats' ? { channel: bare } : {}),
});

const ready = (daemon) => until(
  async () => (await fetch(`${daemon.http}/health/ready`)).status === 200,
  () => daemon.output,
);

/** The node ends by itself. What it said. */
async function refused(engine) {
  const daemon = Daemon.spawn({ config: config(engine), driver: 'mio' });
  assert.equal(await daemon.ended(), 1, daemon.output);
  return daemon.output;
}

/** Nodes with these engines share a channel. */
async function share(...engines) {
  const nodes = await Promise.all(engines.map((engine, at) => Daemon.start({ config: config(engine), driver: drivers[at % 2] })));
  await Promise.all(nodes.map(ready));
  const client = sdk(nodes[0].ws);
  const room = await subscribed(client, 'shared');
  for (const [at, node] of nodes.entries()) await node.publish('shared', at);
  // Of one channel, but of several publishers: without a log there is no order between them.
  await until(() => room.seen.publications.length === nodes.length, 'what each has published');
  client.disconnect();
  for (const node of nodes) assert.equal(await node.stop(), 0, node.output);
  return nodes;
}

// As docs/scaling.md names them.
const GRANTED = `+evalsha +eval +script|load +publish +subscribe +unsubscribe +ping +del +hget +hset +hmget +hincrby +hdel +hgetall
  +expire +xadd +xrange +xrevrange +zadd +zrem +zrangebyscore +zremrangebyscore +role ~centrifugo.* &centrifugo.*`.split(/\s+/);

describe('the way to an engine', { concurrency: true }, () => {
  let [authority, stranger] = [];
  before(() => {
    authority = new Authority('of the engines');
    stranger = new Authority('somebody else');
  });
  after(() => [authority, stranger].forEach((made) => made.remove()));

  test('Redis by TLS, with the certificate of the node and a user of an ACL', async () => {
    const server = authority.sign('redis');
    const own = authority.sign('node', ['node']);
    const redis = await Redis.start({ tls: { ...server, ca: authority.file }, password: 'of-the-default-user' });
    await redis.cli('ACL', 'SETUSER', 'ann', 'on', '>right: p@ss', ...GRANTED);
    const at = (login = '') => `rediss://${login}127.0.0.1:${redis.port}`;
    const tls = { kind: 'redis', ca_file: authority.file, cert_file: own.cert, key_file: own.key };
    const inUrl = { ...tls, address: at('ann:right%3A%20p%40ss@') };
    const inFile = { ...tls, address: at(), user: 'ann', password_file: authority.write('password', 'right: p@ss\n') };
    await share(inUrl, inFile, { ...tls, address: at(':of-the-default-user@').replace('127.0.0.1', 'localhost') });
    assert.match(await redis.cli('ACL', 'LOG'), /^$/, 'nothing was asked that the user may not');

    let said = await refused({ ...inFile, password_file: undefined, password: 'wrong-password' });
    assert.match(said, new RegExp(`does not let this node in: rediss://127.0.0.1:${redis.port}: .*([Aa]uth|WRONGPASS)`));
    assert.ok(!said.includes('wrong-password'), said);
    // Without the node's certificate the server ends the handshake: it is away, which is said.
    const daemon = await Daemon.start({ config: config({ ...inUrl, cert_file: undefined, key_file: undefined }), driver: 'mio' });
    await until(() => /engine: rediss:.*ertificate/.test(daemon.output), () => daemon.output);
    assert.equal((await fetch(`${daemon.http}/health/ready`)).status, 503);
    assert.equal(await daemon.stop(), 0);
    said = await refused({ ...inUrl, ca_file: stranger.file });
    assert.match(said, new RegExp(`does not trust the engine's server: rediss://127.0.0.1:${redis.port}: invalid peer certificate`));
    assert.ok(!said.includes('p@ss') && !said.includes('p%40ss'), said);
    await redis.end();

    // The certificate is of another name than the URL's.
    const elsewhere = await Redis.start({ tls: { ...authority.sign('elsewhere', ['elsewhere']), ca: authority.file } });
    said = await refused({ ...tls, address: elsewhere.url.replace('127.0.0.1', 'localhost') });
    assert.match(said, /does not trust the engine's server: rediss:\/\/localhost:\d+: invalid peer certificate.*localhost/);
    await elsewhere.end();
  });

  test('Sentinel and its servers by TLS, with the certificate of the node: another master is followed', async () => {
    const tls = { ...authority.sign('sentinel'), ca: authority.file };
    const own = authority.sign('node3', ['node']);
    const [master, replica] = await Promise.all([Redis.start({ tls }), Redis.start({ tls })]);
    await replicate(master, replica);
    const watching = await sentinel(master, replica);
    const engine = {
      kind: 'redis', ca_file: authority.file, cert_file: own.cert, key_file: own.key,
      address: `rediss+sentinel://localhost:${watching.port}?sentinel_master_name=main`,
    };
    const said = await refused({ ...engine, ca_file: stranger.file });
    assert.match(said, /does not trust the engine's server: rediss\+sentinel:.*invalid peer certificate/);
    const node = await Daemon.start({ config: config(engine), driver: drivers[0] });
    await ready(node);
    const client = sdk(node.ws);
    const room = await subscribed(client, 'failover', { recoverable: true, positioned: true });
    await failOver(node, room, master, replica);
    client.disconnect();
    assert.equal(await node.stop(), 0, node.output);
    watching.end();
    for (const server of [master, replica]) await server.end();
  });

  test('a cluster by TLS, with the certificate of the node: its nodes share channels of all masters, also behind moved slots', async () => {
    const tls = { ...authority.sign('cluster'), ca: authority.file };
    const own = authority.sign('node4', ['node']);
    const { masters, places, manage } = await cluster(3, { tls });
    const engine = {
      kind: 'redis', ca_file: authority.file, cert_file: own.cert, key_file: own.key,
      address: `rediss+cluster://${places[0]}?addr=${places[1]}&addr=${places[2]}`,
    };
    const said = await refused({ ...engine, ca_file: stranger.file });
    assert.match(said, /does not trust the engine's server: rediss\+cluster:.*invalid peer certificate/);
    const nodes = await Promise.all(drivers.map((driver) => Daemon.start({ config: config(engine), driver })));
    await Promise.all(nodes.map(ready));
    const client = sdk(nodes[0].ws);
    const names = Array.from({ length: 20 }, (_, at) => `slot${at}`);
    const rooms = await Promise.all(names.map((name) => subscribed(client, name, { recoverable: true, positioned: true })));
    await Promise.all(names.map((name) => nodes[1].publish(name, 1)));
    await Promise.all(rooms.map((room) => received(room, [1])));
    const keys = await Promise.all(masters.map((redis) => redis.cli('KEYS', 'centrifugo.stream.{slot*')));
    assert.ok(keys.every((of) => of.length > 0), JSON.stringify(keys));
    const ids = await Promise.all(masters.map((redis) => redis.cli('CLUSTER', 'MYID')));
    await manage('reshard', places[0], '--cluster-from', ids[0], '--cluster-to', ids[1], '--cluster-slots', 1000, '--cluster-yes');
    await Promise.all(names.map((name) => until(
      async () => (await nodes[1].apiRaw('publish', { channel: name, data: 2 })).status === 200, name,
    )));
    await Promise.all(rooms.map((room) => until(() => room.seen.publications.at(-1).data === 2, 'all go on')));
    client.disconnect();
    for (const node of nodes) assert.equal(await node.stop(), 0, node.output);
    for (const redis of masters) await redis.end();
  });

  test('NATS by TLS, with a user and a password, a token, and a file of credentials', async () => {
    const server = authority.sign('nats');
    const own = authority.sign('node2', ['node']);
    const secured = ['--tls', '--tlscert', server.cert, '--tlskey', server.key, '--tlscacert', authority.file, '--tlsverify'];
    const tls = { kind: 'nats', ca_file: authority.file, cert_file: own.cert, key_file: own.key };

    const users = await Nats.start({ args: [...secured, '--user', 'ann', '--pass', 'right: p@ss'] });
    const at = (login = '') => `tls://${login}localhost:${users.port}`;
    await share(
      { ...tls, address: at('ann:right%3A%20p%40ss@') },
      { ...tls, address: at(), user: 'ann', password_file: authority.write('nats-password', 'right: p@ss') },
    );
    let said = await refused({ ...tls, address: at('ann:wrong-password@') });
    assert.match(said, /does not let this node in: NATS: authorization violation/);
    assert.ok(!said.includes('wrong-password'), said);
    said = await refused({ ...tls, address: at('ann:right%3A%20p%40ss@'), ca_file: stranger.file });
    assert.match(said, /does not trust the engine's server: NATS: .*invalid peer certificate: UnknownIssuer/);
    assert.ok(!said.includes('p@ss') && !said.includes('p%40ss'), said);
    await users.stop();

    const token = await Nats.start({ args: ['--auth', 'a-right-token'] });
    const tokens = { kind: 'nats', address: token.url.replace('//', '//a-right-token@') };
    await share(tokens, { kind: 'nats', address: token.url, password: 'a-right-token' });
    said = await refused({ kind: 'nats', address: token.url, password: 'a-wrong-token' });
    assert.match(said, /does not let this node in.*authorization violation/);
    assert.ok(!said.includes('a-wrong-token'), said);
    await token.stop();

    const of = operator();
    const keys = await Nats.start({ args: ['-c', authority.write('nats.conf', of.configuration)] });
    const file = (name, text) => ({ kind: 'nats', address: keys.url, credentials_file: authority.write(name, text) });
    await share(file('one.creds', of.credentials()), file('two.creds', of.credentials()));
    said = await refused(file('stranger.creds', of.credentials(of.stranger())));
    assert.match(said, /does not let this node in.*authorization violation/);
    said = await refused(file('empty.creds', ''));
    assert.match(said, /does not let this node in: .*empty\.creds/);
    await keys.stop();
  });
});
