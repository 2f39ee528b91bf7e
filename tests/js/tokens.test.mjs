// Tokens as identity providers sign them: every algorithm, key sets that are fetched, rotate and fail, and every way to
// show a token. npm jose signs, npm centrifuge and plain HTTP show.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import WebSocket from 'ws';

import { Daemon, TOKEN_SECRET, binary, configuration, drivers, toml } from './support/daemon.mjs';
import { Issuer, signer } from './support/issuer.mjs';
import { connected, sdk, subscribed, token, unixNow, watch } from './support/sdk.mjs';
import { CLOSE, RawSocket } from './support/socket.mjs';
import { next, until, within } from './support/wait.mjs';

const run = promisify(execFile);
const ALGORITHMS = ['RS256', 'RS384', 'RS512', 'PS256', 'PS384', 'PS512', 'ES256', 'ES384', 'ES512', 'EdDSA'];

/** The configuration of the tests where a token is needed, with these keys. */
const strict = (token, changes = {}) =>
  configuration({ client: { allow_anonymous: false, token, ...changes.client }, namespace: changes.namespace });

/** The status of a request for events, and the first of them. */
async function events(daemon, params, headers = {}) {
  const ending = new AbortController();
  const response = await fetch(`${daemon.http}/sse?${new URLSearchParams(params)}`, { headers, signal: ending.signal });
  if (response.status !== 200) return { status: response.status, problem: await response.json() };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  const has = async (wanted) => {
    while (!text.includes(wanted)) {
      const { value, done } = await within(reader.read(), `the event stream has ${wanted}; it has ${text}`);
      if (done) throw new Error(`the stream ended without ${wanted}: ${text}`);
      text += value;
    }
    return text;
  };
  await has('event: ready');
  return { status: 200, has, end: () => ending.abort() };
}

/** The status of a poll that waits for nothing, and what is wrong with it. */
async function poll(daemon, params) {
  const response = await fetch(`${daemon.http}/poll?${new URLSearchParams({ wait: 0, ...params })}`);
  return { status: response.status, problem: await response.json() };
}

/** The code with which a connection with the token is refused: of an error, or of the close. Undefined: it is not. */
async function refused(daemon, shown) {
  const raw = await RawSocket.upgrade(daemon.port);
  raw.command({ id: 1, connect: { token: shown } });
  const { opcode, payload } = await raw.frame();
  raw.destroy();
  return opcode === CLOSE ? payload.readUInt16BE(0) : JSON.parse(payload).error?.code;
}

for (const driver of drivers) {
  describe(`configured keys on ${driver}`, () => {
    let daemon;
    const signers = {};
    before(async () => {
      for (const alg of ['RS256', 'ES256', 'EdDSA']) signers[alg] = await signer(alg);
      daemon = await Daemon.start({
        driver,
        config: strict({
          rsa_public_key: signers.RS256.pem, ecdsa_public_key: signers.ES256.pem,
          eddsa_public_key: signers.EdDSA.pem, audience: 'us', issuer: 'backend',
        }),
      });
    });
    after(async () => assert.equal(await daemon.stop(), 0));

    const claims = (more = {}) => ({ sub: 'ann', aud: 'us', iss: 'backend', exp: unixNow() + 300, ...more });

    for (const alg of ['RS256', 'ES256', 'EdDSA']) {
      test(`${alg} lets the SDK and a reader of events in`, async () => {
        const shown = await signers[alg].sign(claims());
        const client = sdk(daemon.ws, { token: shown });
        await connected(client);
        client.disconnect();
        const stream = await events(daemon, { channel: 'news', token: shown });
        assert.equal(stream.status, 200);
        stream.end();
      });
    }

    test('a claim of the application that has the name of ours is no fault where nothing rests on it', async () => {
      for (const device of [7, { model: 'x' }, 'd'.repeat(65), null]) {
        const shown = await signers.ES256.sign(claims({ device }));
        assert.equal(await refused(daemon, shown), undefined, JSON.stringify(device));
        const stream = await events(daemon, { channel: 'news', token: shown });
        assert.equal(stream.status, 200, JSON.stringify(device));
        stream.end();
      }
    });

    test('what is wrong with a token has a code, a name in the metrics and one line in the log', async () => {
      const { sign } = signers.ES256;
      const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
      const other = await signer('ES256');
      const [header, payload, signature] = (await sign(claims())).split('.');
      const unsigned = `${part({ alg: 'none' })}.${payload}.`;
      const cases = [
        ['token_unsigned', unsigned, 3500, 401],
        ['token_algorithm', `${part({ alg: 'HS1' })}.${payload}.${signature}`, 3500, 401],
        ['token_key_misfit', `${part({ alg: 'ES384' })}.${payload}.${signature}`, 3500, 401],
        ['token_signature', await other.sign(claims()), 3500, 401],
        ['token_expired', await sign(claims({ exp: unixNow() - 10 })), 109, 401],
        ['token_over', await sign(claims({ expire_at: unixNow() - 10 })), 109, 401],
        ['token_not_yet_valid', await sign(claims({ nbf: unixNow() + 300 })), 100, 503],
        ['token_audience', await sign(claims({ aud: 'them' })), 3500, 401],
        ['token_issuer', await sign(claims({ iss: 'other' })), 3500, 401],
        ['token_too_long', `${header}.${'a'.repeat(9000)}.${signature}`, 3500, 401],
        ['token_malformed', 'rubbish', 3500, 401],
        ['token_contents', await sign({ ...claims(), channels: 'news' }), 3500, 401],
        ['token_not_for_connecting', await sign({ ...claims(), channel: 'news' }), 3500, 401],
        // The public key as the secret of an HMAC: none is configured here.
        ['token_signature', token('ann', claims(), signers.RS256.pem), 3500, 401],
      ];
      for (const [cause, shown, code, status] of cases) {
        const counted = () => daemon.faults(new RegExp(`"${cause}"`));
        const before = await counted();
        assert.equal(await refused(daemon, shown), code, cause);
        assert.equal((await poll(daemon, { channel: 'news', token: shown })).status, status, cause);
        assert.equal(await counted(), before + 2, cause);
      }
      for (const cause of new Set(cases.map(([cause]) => cause))) {
        const lines = daemon.output.split('\n').filter((line) => line.includes(`"${cause}"`));
        assert.equal(lines.length, 1, `${cause}: ${lines.join('\n')}`);
      }
      assert.ok(!daemon.output.includes(payload), 'no token in the log');
    });
  });

  describe(`published keys on ${driver}`, () => {
    let daemon;
    let issuer;
    const signers = [];
    before(async () => {
      for (const alg of ALGORITHMS) signers.push(await signer(alg, `key of ${alg}`));
      issuer = await Issuer.of(...signers);
      daemon = await Daemon.start({ driver, config: strict({ jwks_url: issuer.url, hmac_secret: undefined }) });
    });
    after(async () => {
      assert.equal(await daemon.stop(), 0);
      await issuer.close();
    });

    test('every algorithm lets the SDK and a reader of events in', async () => {
      for (const { alg, sign } of signers) {
        const shown = await sign({ sub: 'ann' });
        const client = sdk(daemon.ws, { token: shown });
        await connected(client);
        client.disconnect();
        const stream = await events(daemon, { channel: 'news' }, { Authorization: `Bearer ${shown}` });
        assert.equal(stream.status, 200, alg);
        stream.end();
      }
    });

    test('a new key lets a client in without the SDK giving up, and one that never was does not', async () => {
      const made = await signer('ES256', 'made up');
      const outcome = new Promise((done) => {
        const client = sdk(daemon.ws, { getToken: () => made.sign({ sub: 'eve' }) });
        client.on('disconnected', (event) => done({ code: event.code, errors: client.log.errors }));
        client.connect();
      });
      const { code, errors } = await within(outcome, 'the made-up key is refused for good');
      assert.equal(code, 3500);
      assert.equal(errors[0].error.code, 100, 'at first nobody can tell');

      const next = await signer('ES384', 'next');
      issuer.publish(...signers.slice(1), next);
      const client = sdk(daemon.ws, { token: await next.sign({ sub: 'ann' }) });
      await connected(client);
      client.disconnect();
      // The key that is gone is asked for as well, and then refused.
      await until(
        async () => (await refused(daemon, await signers[0].sign({ sub: 'ann' }))) === 3500,
        'the key that was taken away is refused',
      );
      issuer.publish(...signers);
    });

    test('a crowd with a new key costs one fetch, made-up keys no more than one in a while', async () => {
      const before = issuer.fetches;
      const next = await signer('EdDSA', 'of the crowd');
      issuer.publish(...signers, next);
      const shown = await next.sign({ sub: 'ann' });
      const clients = Array.from({ length: 100 }, () => sdk(daemon.ws, { token: shown }));
      await Promise.all(clients.map((client) => connected(client)));
      clients.forEach((client) => client.disconnect());
      assert.equal(issuer.fetches, before + 1);
    });

    test('while the issuer is down or talks nonsense, known keys serve and new ones have to wait', async () => {
      const known = await signers[0].sign({ sub: 'ann' });
      const next = await signer('ES256', 'after the fault');
      const shown = await next.sign({ sub: 'ann' });
      const faults = [
        (response) => response.writeHead(500).end('{"keys":[]}'),
        (response) => response.writeHead(302, { Location: issuer.url }).end(),
        (response) => response.end('<html>'),
        (response) => response.end(JSON.stringify({ keys: Array(129).fill(next.jwk) })),
        (response) => response.end(JSON.stringify({ keys: [next.jwk], filler: 'x'.repeat(600 << 10) })),
        (response) => response.destroy(),
      ];
      let turn = 0;
      issuer.answer = (response) => faults[turn++ % faults.length](response);
      // The pause between failing fetches grows: two of them are what a test can wait for; units know the rest.
      await until(async () => {
        assert.equal(await refused(daemon, shown), 100);
        return turn >= 2;
      }, 'two failed fetches');
      const client = sdk(daemon.ws, { token: known });
      await connected(client);
      client.disconnect();
      assert.ok((await daemon.metrics()).get('trunkline_jwks_fetches_total{outcome="failure"}') >= 2);
      assert.equal(daemon.output.split('jwks_fetch_failed').length - 1, 1, 'told once a minute');
      issuer.publish(...signers, next);
      const late = sdk(daemon.ws, { token: shown });
      await connected(late);
      late.disconnect();
    });
  });

  describe(`rights by name and by token on ${driver}`, () => {
    let daemon;
    const clients = [];
    const client = (user, options = {}) => {
      const made = sdk(daemon.ws, { token: token(user), ...options });
      clients.push(made);
      return made;
    };
    /** Begun first and looked at last: a subscription of the server's is given half a minute more. */
    let expiring;
    before(async () => {
      const limited = {
        name: 'limited', allow_subscribe_for_client: true, allow_user_limited_channels: true,
        allow_history_for_client: true, allow_publish_for_client: true, history_size: 10, history_ttl: '1m',
      };
      const closed = { name: 'closed', history_size: 10, history_ttl: '1m' };
      const client = {
        personal_channel: true, personal_channel_namespace: 'limited',
        subscription_token: { hmac_secret: 'of subscriptions', audience: 'subs' },
      };
      const config = strict({ hmac_secret: TOKEN_SECRET }, { client, namespace: [limited, closed] });
      daemon = await Daemon.start({ driver, config, args: ['--shards', '2'] });
      const raw = await RawSocket.upgrade(daemon.port);
      raw.command({ id: 1, connect: { token: token('late') } });
      await raw.message();
      await daemon.api('subscribe', { user: 'late', channel: 'closed:brief', expire_at: unixNow() + 1 });
      expiring = raw.closed();
      expiring.catch(() => {});
    });
    after(async () => {
      clients.forEach((each) => each.disconnect());
      assert.equal(await daemon.stop(), 0);
    });

    test('a channel that names its users is for them, without a token', async () => {
      const channel = 'limited:room#ann,bob';
      const ann = client('ann');
      const subscription = await subscribed(ann, channel);
      await subscribed(client('bob'), channel);
      await daemon.publish(channel, 1);
      await until(() => subscription.seen.publications.length === 1, 'ann gets it');
      assert.equal((await ann.history(channel, { limit: 10 })).publications.length, 1);
      const eve = client('eve');
      const denied = watch(eve, channel);
      denied.subscribe();
      eve.connect();
      await until(() => denied.seen.unsubscribed.length > 0, 'eve is denied');
      assert.equal(denied.seen.unsubscribed[0].code, 103);
      await assert.rejects(eve.history(channel, { limit: 10 }), { code: 103 });
      await assert.rejects(eve.publish(channel, 2), { code: 103 });
      const open = await subscribed(eve, 'limited:everybody');
      assert.equal(open.state, 'subscribed');
    });

    test('unidirectional clients are held to it as well', async () => {
      const channel = 'limited:readers#ann';
      const stream = await events(daemon, { channel, token: token('ann') });
      assert.equal(stream.status, 200);
      await daemon.publish(channel, { text: 'for ann' });
      await stream.has('for ann');
      stream.end();
      assert.equal((await events(daemon, { channel, token: token('eve') })).status, 403);
      const query = new URLSearchParams({ channel, token: token('eve') });
      assert.equal((await fetch(`${daemon.http}/history?${query}`)).status, 403);
      assert.equal((await fetch(`${daemon.http}/publish?${query}`, { method: 'POST', body: '1' })).status, 403);
    });

    test('every connection of a user has the personal channel, with what it missed', async () => {
      const got = [];
      const carl = client('carl');
      carl.on('publication', ({ channel, data }) => got.push([channel, data]));
      const { channel } = await (async () => {
        const event = next(carl, 'subscribed');
        carl.connect();
        return event;
      })();
      assert.equal(channel, 'limited:#carl');
      await daemon.publish(channel, 1);
      await until(() => got.length === 1, 'the personal channel delivers');
      carl.disconnect();
      await daemon.publish(channel, 2);
      await connected(carl);
      await until(() => got.length === 2, 'what was missed comes');
      assert.deepEqual(got, [[channel, 1], [channel, 2]]);
      const stream = await events(daemon, { token: token('carl') });
      await daemon.publish(channel, { text: 'for carl' });
      await stream.has('for carl');
      stream.end();
    });

    test('a subscription token opens its channel to its user, for the SDK and for unidirectional clients', async () => {
      const grant = (claims = {}) =>
        token('dora', { channel: 'closed:secret', aud: 'subs', exp: unixNow() + 300, ...claims }, 'of subscriptions');
      const dora = client('dora');
      await subscribed(dora, 'closed:secret', { token: grant() });
      const stream = await events(daemon, { token: token('dora'), subscription_token: grant() });
      assert.equal(stream.status, 200);
      await daemon.publish('closed:secret', { text: 'for dora' });
      await stream.has('for dora');
      stream.end();
      const shown = async (user, granted) =>
        (await events(daemon, { channel: 'closed:secret', token: token(user), subscription_token: granted })).status;
      assert.equal((await events(daemon, { channel: 'closed:secret', token: token('dora') })).status, 403);
      assert.equal(await shown('eve', grant()), 401, 'of another user');
      assert.equal(await shown('dora', grant({ aud: 'us' })), 401, 'of another audience');
      assert.equal(await shown('dora', grant({ exp: unixNow() - 10 })), 401, 'expired');
      assert.equal(await shown('dora', token('dora', { channel: 'closed:secret', aud: 'subs' })), 401, 'of the other key');
      assert.equal(await shown('dora', token('dora')), 401, 'no subscription token');
      for (const [claims, cause] of [
        [{ sub: 'eve' }, 'token_other_user'],
        [{ channel: 'closed:other' }, 'token_other_channel'],
        [{ client: 'somebody else' }, 'token_other_client'],
      ]) {
        const before = await daemon.faults(new RegExp(cause));
        const other = client('dora');
        const subscription = watch(other, 'closed:secret', { token: grant(claims) });
        subscription.subscribe();
        other.connect();
        await until(() => subscription.seen.unsubscribed.length > 0, cause);
        assert.equal(subscription.seen.unsubscribed[0].code, 103, cause);
        assert.equal(await daemon.faults(new RegExp(cause)), before + 1, cause);
      }
    });

    test('connections and subscriptions are refreshed with new tokens before theirs expire', async () => {
      const asked = { connection: 0, subscription: 0 };
      const brief = (claims, secret) => token('fred', { exp: unixNow() + 3, ...claims }, secret);
      const fred = sdk(daemon.ws, { getToken: async () => ((asked.connection += 1), brief({})) });
      clients.push(fred);
      const subscription = await subscribed(fred, 'closed:brief-token', {
        getToken: async () => ((asked.subscription += 1), brief({ channel: 'closed:brief-token', aud: 'subs' }, 'of subscriptions')),
      });
      await until(() => asked.connection >= 3 && asked.subscription >= 3, () => `refreshes: ${JSON.stringify(asked)}`);
      assert.equal(fred.state, 'connected');
      assert.equal(fred.log.connecting.length, 1, 'never connected again');
      assert.equal(subscription.seen.subscribed.length, 1, 'never subscribed again');
    });

    test('a token may come with the upgrade: header, query or cookie; that of the connect counts more', async () => {
      const cookie = `theme=dark; trunkline_token=${token('cookie')}`;
      const ways = [
        ['header', daemon.ws, { headers: { Authorization: `Bearer ${token('header')}` } }],
        ['query', `${daemon.ws}?token=${token('query')}`, {}],
        ['cookie', daemon.ws, { headers: { Cookie: cookie } }],
        ['cookie', daemon.ws, { headers: { Cookie: cookie, Authorization: 'Basic eDp5' } }],
        ['cookie', daemon.ws, { headers: { Cookie: cookie }, origin: daemon.http }],
      ];
      for (const [user, url, options] of ways) {
        class Upgrade extends WebSocket {
          constructor(address, protocols) {
            super(address, protocols, options);
          }
        }
        const personal = async (more) => {
          const made = sdk(url, { websocket: Upgrade, ...more });
          clients.push(made);
          const event = next(made, 'subscribed');
          made.connect();
          return (await event).channel;
        };
        assert.equal(await personal({}), `limited:#${user}`);
        assert.equal(await personal({ token: token('connect') }), 'limited:#connect', user);
      }
      const raw = await RawSocket.upgrade(daemon.port, `/connection/websocket?token=${'x'.repeat(9000)}`);
      raw.command({ id: 1, connect: {} });
      assert.equal((await raw.closed()).code, 3500, 'a bad one is not passed over');
    });

    test('a subscription of the server that expires ends the connection, for the client to come back', async () => {
      assert.equal((await expiring).code, 3006);
    });
  });
}

describe('cookies and origins', () => {
  test('a page that only * lets in cannot use the cookie of its visitor', async () => {
    const daemon = await Daemon.start({
      config: strict({ hmac_secret: TOKEN_SECRET }, { client: { allowed_origins: ['*', 'https://ours.example'] } }),
    });
    const headers = { Cookie: `trunkline_token=${token('ann')}` };
    const opened = (origin, address) => {
      const socket = new WebSocket(address, { headers, origin });
      socket.on('open', () => socket.send('{"id":1,"connect":{}}'));
      return new Promise((done) => {
        socket.on('message', (data) => (done(JSON.parse(data)), socket.close()));
        socket.on('close', (code) => done({ code }));
        socket.on('unexpected-response', (_, { statusCode }) => done({ status: statusCode }));
        socket.on('error', () => {});
      });
    };
    assert.ok((await opened('https://ours.example', daemon.ws)).connect);
    assert.equal((await opened('https://evil.example', daemon.ws)).code, 3501);
    const reader = `${daemon.http.replace('http', 'ws')}/ws?channel=news`;
    assert.ok((await opened('https://ours.example', reader)).ready);
    assert.equal((await opened('https://evil.example', reader)).status, 401);
    assert.equal(await daemon.stop(), 0);
  });
});

describe('an issuer that comes late', () => {
  test('does not stop the start, and its tokens are refused for the time being', async () => {
    const key = await signer('RS256', 'one');
    const issuer = await Issuer.of(key);
    await issuer.close();
    const daemon = await Daemon.start({ config: strict({ jwks_url: issuer.url, hmac_secret: TOKEN_SECRET }) });
    const shown = await key.sign({ sub: 'ann' });
    assert.equal(await refused(daemon, shown), 100);
    const { status, problem } = await poll(daemon, { channel: 'news', token: shown });
    assert.deepEqual([status, problem.code], [503, 100]);
    const local = sdk(daemon.ws, { token: token('ann') });
    await connected(local);
    local.disconnect();
    const client = sdk(daemon.ws, { token: shown });
    client.connect();
    await until(() => client.log.errors.length > 0, 'the SDK is told');
    await issuer.open();
    await next(client, 'connected');
    client.disconnect();
    assert.equal(await daemon.stop(), 0);
    await issuer.close();
  });
});

describe('the command line', () => {
  let folder;
  let issuer;
  let key;
  const file = (name, config) => {
    const path_ = path.join(folder, name);
    writeFileSync(path_, toml(config));
    return path_;
  };
  before(async () => {
    folder = mkdtempSync(path.join(tmpdir(), 'trunkline-test-'));
    key = await signer('EdDSA', 'one');
    issuer = await Issuer.of(key);
  });
  after(async () => {
    rmSync(folder, { recursive: true, force: true });
    await issuer.close();
  });
  const cli = async (...args) => {
    try {
      return { code: 0, ...(await run(binary, args)) };
    } catch ({ code, stdout, stderr }) {
      return { code, stdout, stderr };
    }
  };

  test('makes tokens that the daemon takes, and says what they hold', async () => {
    const token = { hmac_secret: TOKEN_SECRET, audience: 'us', issuer: 'cli' };
    const config = file('both.toml', { client: { token, subscription_token: { hmac_secret: 'other', audience: 'subs' } } });
    const made = await cli('gentoken', '-c', config, '-u', 'ann', '-t', '1h', '-s', 'news', '-i', '{"n":1}', '-m', '[2]', '--device', 'phone:7');
    assert.equal(made.code, 0, made.stderr);
    const checked = await cli('checktoken', '-c', config, made.stdout.trim());
    const { expires_at, issued_at, ...told } = JSON.parse(checked.stdout);
    assert.deepEqual(told, {
      kind: 'connection', user: 'ann', device: 'phone:7', id: null, info: { n: 1 }, meta: [2],
      subscriptions: { news: { info: null, data: null } },
    });
    assert.equal(expires_at - issued_at, 3600);
    const sub = await cli('gensubtoken', '-c', config, '-u', 'ann', '-s', 'closed:x');
    const subTold = JSON.parse((await cli('checktoken', '-c', config, sub.stdout.trim())).stdout);
    assert.deepEqual([subTold.kind, subTold.user, subTold.channel], ['subscription', 'ann', 'closed:x']);

    const daemon = await Daemon.start({
      config: strict(token, {
        client: { subscription_token: { hmac_secret: 'other', audience: 'subs' } },
        namespace: [{ name: 'closed' }],
      }),
    });
    const client = sdk(daemon.ws, { token: made.stdout.trim() });
    await subscribed(client, 'closed:x', { token: sub.stdout.trim() });
    client.disconnect();
    assert.equal(await daemon.stop(), 0);
  });

  test('checks a token against the published keys', async () => {
    const config = file('jwks.toml', { client: { token: { jwks_url: issuer.url } } });
    const told = await cli('checktoken', '--config', config, await key.sign({ sub: 'ann' }));
    assert.equal(JSON.parse(told.stdout).user, 'ann');
    const other = await signer('EdDSA', 'two');
    const unknown = await cli('checktoken', '--config', config, await other.sign({ sub: 'ann' }));
    assert.deepEqual([unknown.code, unknown.stdout], [1, '']);
    assert.match(unknown.stderr, /not among those that the issuer publishes/);
  });

  test('says why not', async () => {
    const config = file('hmac.toml', { client: { token: { hmac_secret: TOKEN_SECRET } } });
    const bare = file('bare.toml', { api: { key: 'k' } });
    for (const [args, code, said] of [
      [['checktoken', '-c', config, token('ann', { exp: 1 })], 1, /expired/],
      [['checktoken', '-c', config, token('ann', {}, 'other')], 1, /signature/],
      [['checktoken', '-c', config, 'rubbish'], 1, /not a token/],
      [['checktoken', '-c', bare, 'rubbish'], 1, /no token key/],
      [['gentoken', '-c', bare, '-u', 'ann'], 1, /client.token.hmac_secret is not set/],
      [['gentoken', '-c', config, '-u', 'ann', '--ttl', '5'], 2, /--ttl/],
      [['gentoken', '-c', config, '-u', 'ann', '--device', 'd'.repeat(65)], 2, /--device: device: must have 1 to 64 bytes/],
      [['gensubtoken', '-c', config, '-u', 'ann'], 2, /--channel/],
    ]) {
      const ended = await cli(...args);
      assert.equal(ended.code, code, `${args}: ${ended.stderr}`);
      assert.match(ended.stderr, said);
      assert.equal(ended.stdout, '');
    }
  });

  test('a key that is none is named at the start', async () => {
    const p521 = 'MIGbMBAGByqGSM49AgEGBSuBBAAjA4GGAAQ=';
    for (const [client, said] of [
      [{ token: { rsa_public_key: 'x' } }, /client.token.rsa_public_key: is no public key in PEM/],
      [{ token: { ecdsa_public_key: key.pem } }, /client.token.ecdsa_public_key: is not an ECDSA key/],
      [
        { token: { ecdsa_public_key: `-----BEGIN PUBLIC KEY-----\n${p521}\n-----END PUBLIC KEY-----` } },
        /client.token.ecdsa_public_key: is not an ECDSA key/,
      ],
      [
        { subscription_token: { eddsa_public_key: key.pem.replaceAll('PUBLIC', 'PRIVATE') } },
        /client.subscription_token.eddsa_public_key: is a private key/,
      ],
      [{ subscription_token: { audience: 'x' } }, /client.subscription_token: needs a key/],
      [{ token: { jwks_url: 'ftp://x/y' } }, /client.token.jwks_url: must be a URL/],
      [{ token: { jwks_refresh: '1ms' } }, /client.token.jwks_refresh: must be from 1s/],
      [{ personal_channel: true, personal_channel_namespace: 'none' }, /client.personal_channel_namespace: there is no/],
    ]) {
      const ended = await cli('check', file('bad.toml', { client }));
      assert.equal(ended.code, 1, JSON.stringify(client));
      assert.match(ended.stderr, said);
    }
  });
});
