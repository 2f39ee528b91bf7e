// The Protobuf form of the protocol. Payloads are bytes there, which the application makes and reads; the tests are
// written with values, as JSON has them, so that one body serves both forms.

import { Centrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';

/** JSON text as bytes. Bytes stay what they are: a payload that is no JSON. */
export const bytes = (value) =>
  value === undefined || value instanceof Uint8Array ? value : new TextEncoder().encode(JSON.stringify(value));

/** A copy with every payload read, without what is not there. */
export function readable(value) {
  if (typeof value !== 'object' || value === null || value instanceof Error) return value;
  if (value instanceof Uint8Array) return value.length > 0 ? JSON.parse(new TextDecoder().decode(value)) : undefined;
  if (Array.isArray(value)) return value.map(readable);
  // A number of 64 bits, as protobufjs has it.
  if (typeof value.low === 'number' && typeof value.high === 'number') return Number(value);
  const entries = Object.entries(value).map(([key, each]) => [key, readable(each)]);
  return Object.fromEntries(entries.filter(([, each]) => each !== undefined));
}

/** The unmodified SDK, and what an application around it does with payloads. */
export class ProtobufCentrifuge extends Centrifuge {
  constructor(url, options) {
    super(url, { ...options, data: bytes(options.data) });
  }

  newSubscription(channel, options = {}) {
    const subscription = super.newSubscription(channel, { ...options, data: bytes(options.data) });
    const emit = subscription.emit;
    subscription.emit = (name, ...events) => emit.call(subscription, name, ...events.map(readable));
    return subscription;
  }

  emit(name, ...events) {
    return super.emit(name, ...events.map(readable));
  }

  send(data) {
    return super.send(bytes(data));
  }

  publish(channel, data) {
    return super.publish(channel, bytes(data));
  }

  async rpc(method, data) {
    return readable(await super.rpc(method, bytes(data)));
  }

  async history(channel, options) {
    return readable(await super.history(channel, options));
  }

  async presence(channel) {
    return readable(await super.presence(channel));
  }
}

// The SDK's own codec: what it writes and reads on the wire.
const codec = new Centrifuge('ws://nowhere', { websocket: WebSocket })._codec;

/** Commands as in JSON, each with its length before it. */
export function encode(commands) {
  const withBytes = (body) => (body?.data === undefined ? body : { ...body, data: bytes(body.data) });
  return codec.encodeCommands(
    commands.map((command) => Object.fromEntries(Object.entries(command).map(([key, body]) => [key, withBytes(body)]))),
  );
}

/** The replies and pushes of a frame as JSON would have them. A ping is the empty object. */
export const decode = (payload) => codec.decodeReplies(payload).map(readable);
