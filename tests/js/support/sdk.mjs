// The unmodified npm SDK, and what a test wants to know of its events.

import { createHmac } from 'node:crypto';

import { Centrifuge } from 'centrifuge';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';

import { TOKEN_SECRET, drivers } from './daemon.mjs';
import { ProtobufCentrifuge } from './protobuf.mjs';
import { next, until } from './wait.mjs';

/** How the protocol is written: each with the SDK of its own. */
const sdks = { json: Centrifuge, protobuf: ProtobufCentrifuge };
export const forms = Object.keys(sdks);

/** Every driver with JSON, one of them with Protobuf as well: what is beneath a form does not know it. */
export const runs = [...drivers.map((driver) => ({ driver, form: 'json' })), { driver: drivers[0], form: 'protobuf' }];

/** A client of the SDK with its ws transport. Short reconnect delays: the tests wait for the daemon, not for it. */
export function sdk(url, { form = 'json', ...options } = {}) {
  const client = new sdks[form](url, {
    websocket: WebSocket,
    minReconnectDelay: 20,
    maxReconnectDelay: 200,
    ...options,
  });
  client.log = { connecting: [], disconnected: [], errors: [] };
  client.on('connecting', (event) => client.log.connecting.push(event));
  client.on('disconnected', (event) => client.log.disconnected.push(event));
  client.on('error', (event) => client.log.errors.push(event));
  return client;
}

/** What the SDK has where there is no WebSocket. */
export const transports = [
  { transport: 'http_stream', form: 'json' },
  { transport: 'http_stream', form: 'protobuf' },
  { transport: 'sse', form: 'json' },
];

/** A client that has this transport alone. */
export const over = (http, { transport, form }, options = {}) => sdk([{ transport, endpoint: `${http}/connection/${transport}` }], {
  form, emulationEndpoint: `${http}/emulation`, fetch, readableStream: ReadableStream, eventsource: EventSource, ...options,
});

/** Connects and resolves with the event of it. */
export async function connected(client) {
  const event = next(client, 'connected');
  client.connect();
  return event;
}

/** A subscription that remembers everything that happens to it. */
export function watch(client, channel, options = {}) {
  const subscription = client.newSubscription(channel, options);
  const seen = { publications: [], joins: [], leaves: [], subscribed: [], subscribing: [], unsubscribed: [], errors: [] };
  subscription.on('publication', (event) => seen.publications.push(event));
  subscription.on('join', (event) => seen.joins.push(event));
  subscription.on('leave', (event) => seen.leaves.push(event));
  subscription.on('subscribed', (event) => seen.subscribed.push(event));
  subscription.on('subscribing', (event) => seen.subscribing.push(event));
  subscription.on('unsubscribed', (event) => seen.unsubscribed.push(event));
  subscription.on('error', (event) => seen.errors.push(event));
  subscription.seen = seen;
  return subscription;
}

/** The same, subscribed; connects the client if nobody did. */
export async function subscribed(client, channel, options = {}) {
  const subscription = watch(client, channel, options);
  subscription.subscribe();
  if (client.state === 'disconnected') client.connect();
  await until(
    () => subscription.seen.subscribed.length > 0 || subscription.seen.unsubscribed.length > 0,
    `a subscription to ${channel}`,
  );
  if (subscription.seen.unsubscribed.length > 0) {
    throw new Error(`${channel}: ${JSON.stringify(subscription.seen.unsubscribed[0])}`);
  }
  return subscription;
}

/** Exactly this data has come, in this order. */
export async function received(subscription, data) {
  const got = subscription.seen.publications;
  await until(
    () => got.length >= data.length,
    () => `${data.length} publications; there are ${JSON.stringify(got.map((publication) => publication.data))}`,
  );
  const same = JSON.stringify(got.map((publication) => publication.data)) === JSON.stringify(data);
  if (!same) throw new Error(`wanted ${JSON.stringify(data)}, got ${JSON.stringify(got.map((p) => p.data))}`);
}

/** A connection token (JWT, HS256). */
export function token(user, claims = {}, secret = TOKEN_SECRET) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ sub: user, ...claims })}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}

export const unixNow = () => Math.floor(Date.now() / 1000);
