// A TCP client of exact bytes, and WebSocket frames on it.

import net from 'node:net';
import { once } from 'node:events';

import { decode, encode } from './protobuf.mjs';
import { until } from './wait.mjs';

export const TEXT = 0x1;
export const BINARY = 0x2;
export const CLOSE = 0x8;
export const PING = 0x9;
export const PONG = 0xa;

/** One masked frame of a client. `announce` overrides the length in its head. */
export function frame(opcode, payload = '', { fin = true, announce } = {}) {
  const body = Buffer.from(payload);
  const length = announce ?? body.length;
  let head;
  if (length < 126) {
    head = Buffer.from([0, 0x80 | length]);
  } else if (length < 65536) {
    head = Buffer.from([0, 0x80 | 126, length >> 8, length & 0xff]);
  } else {
    head = Buffer.alloc(10);
    head[1] = 0x80 | 127;
    head.writeBigUInt64BE(BigInt(length), 2);
  }
  head[0] = (fin ? 0x80 : 0) | opcode;
  const mask = Buffer.from([0x37, 0xfa, 0x21, 0x3d]);
  const masked = Buffer.from(body.map((byte, at) => byte ^ mask[at % 4]));
  return Buffer.concat([head, mask, masked]);
}

export class RawSocket {
  #socket;
  #received = Buffer.alloc(0);
  /** Pings of the protocol are answered and not handed out. */
  answering = true;
  /** True when the peer has ended the stream or reset it. */
  ended = false;

  static async connect(port) {
    const raw = new RawSocket();
    raw.#socket = net.connect(port, '127.0.0.1');
    raw.#socket.setNoDelay();
    raw.#socket.on('data', (bytes) => (raw.#received = Buffer.concat([raw.#received, bytes])));
    raw.#socket.on('error', () => (raw.ended = true));
    raw.#socket.on('end', () => (raw.ended = true));
    raw.#socket.on('close', () => (raw.ended = true));
    await once(raw.#socket, 'connect');
    return raw;
  }

  /** Connected and upgraded; the subprotocol that was chosen is in `subprotocol`. */
  static async upgrade(port, path = '/connection/websocket', offered = []) {
    const raw = await RawSocket.connect(port);
    raw.write(
      `GET ${path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n' +
        `${offered.map((name) => `Sec-WebSocket-Protocol: ${name}\r\n`).join('')}\r\n`,
    );
    const { status, headers } = await raw.head();
    if (status !== 101) throw new Error(`no upgrade: ${status}`);
    raw.subprotocol = headers['sec-websocket-protocol'];
    if (raw.subprotocol === 'centrifuge-protobuf') raw.form = 'protobuf';
    return raw;
  }

  /** Upgraded to a form of the protocol. */
  static async speaking(form, port) {
    const raw = await RawSocket.upgrade(port, undefined, form === 'json' ? [] : [`centrifuge-${form}`]);
    if (raw.form !== form) throw new Error(`'${raw.subprotocol}' was chosen, not ${form}`);
    return raw;
  }

  /** Upgraded and through with `connect`: its answer is in `client.connected`. */
  static async client(port, form = 'json') {
    const raw = await RawSocket.speaking(form, port);
    raw.command({ id: 1, connect: {} });
    raw.connected = (await raw.message()).connect;
    return raw;
  }

  /** How commands are written and messages read: `json` or `protobuf`. */
  form = 'json';

  write(bytes) {
    this.#socket.write(bytes);
  }

  /** Commands in one frame. */
  command(...commands) {
    if (this.form === 'protobuf') this.write(frame(BINARY, encode(commands)));
    else this.write(frame(TEXT, commands.map((command) => JSON.stringify(command)).join('\n')));
  }

  /** Stops reading: the kernel's buffers fill, then the daemon's sends do not go out. */
  pause() {
    this.#socket.pause();
  }

  resume() {
    this.#socket.resume();
  }

  destroy() {
    this.#socket.destroy();
  }

  finish() {
    this.#socket.end();
  }

  /** The status and headers of the next HTTP response. */
  async head() {
    const end = await until(
      () => this.#received.indexOf('\r\n\r\n') + 1 || (this.ended && -1),
      () => `a response head; so far: ${this.#received}`,
    );
    if (end < 0) throw new Error(`the stream ended before a head: '${this.#received}'`);
    const lines = this.#received.toString('latin1', 0, end - 1).split('\r\n');
    this.#received = this.#received.subarray(end + 3);
    const headers = Object.fromEntries(
      lines.slice(1).map((line) => [line.split(':')[0].toLowerCase(), line.slice(line.indexOf(':') + 1).trim()]),
    );
    return { status: Number(lines[0].split(' ')[1]), headers };
  }

  /** The next frame; null at the end of the stream. */
  async frame() {
    const taken = await until(() => this.#takeFrame() || (this.ended && 'end'), 'a frame');
    return taken === 'end' ? this.#takeFrame() ?? null : taken;
  }

  #messages = [];

  /** The next message of the protocol as an object. Rejects when the stream ends or closes instead. */
  async message() {
    while (this.#messages.length === 0) {
      const got = await this.frame();
      if (got?.opcode !== this.#opcode) throw new Error(`a message was due, not ${describe(got)}`);
      this.#messages = this.#read(got);
    }
    return this.#messages.shift();
  }

  /** The replies with ids from 1 or `from` to `to`, by id: several homes of channels answer in any order. */
  async replies(to, from = 1) {
    const replies = {};
    while (Object.keys(replies).length < to - from + 1) {
      const message = await this.message();
      if (message.id) replies[message.id] = message;
    }
    return replies;
  }

  get #opcode() {
    return this.form === 'protobuf' ? BINARY : TEXT;
  }

  /** The objects of a frame, without the pings that are answered here. */
  #read({ payload }) {
    const lines = () => payload.toString().split('\n').filter((line) => line).map((line) => JSON.parse(line));
    const messages = this.form === 'protobuf' ? decode(payload) : lines();
    if (!this.answering) return messages;
    return messages.filter((message) => {
      const isPing = Object.keys(message).length === 0;
      if (isPing) this.command({});
      return !isPing;
    });
  }

  /** The code and reason of the Close that comes, past any messages before it. */
  async closed() {
    for (;;) {
      const got = await this.frame();
      if (got === null) return { code: null, reason: 'the stream ended without a Close' };
      if (got.opcode === CLOSE) {
        const code = got.payload.length >= 2 ? got.payload.readUInt16BE(0) : null;
        return { code, reason: got.payload.subarray(2).toString() };
      }
      if (got.opcode === this.#opcode) this.#read(got);
    }
  }

  /** The peer has said Close, next to be read, or has ended the stream. */
  get isTold() {
    return this.ended || (this.#received[0] & 0xf) === CLOSE;
  }

  #takeFrame() {
    const input = this.#received;
    if (input.length < 2) return null;
    let length = input[1] & 0x7f;
    let head = 2;
    if (length === 126) {
      if (input.length < 4) return null;
      length = input.readUInt16BE(2);
      head = 4;
    } else if (length === 127) {
      if (input.length < 10) return null;
      length = Number(input.readBigUInt64BE(2));
      head = 10;
    }
    if (input.length < head + length) return null;
    this.#received = input.subarray(head + length);
    return { fin: input[0] >= 0x80, opcode: input[0] & 0xf, payload: input.subarray(head, head + length) };
  }
}

const describe = (got) => (got ? `opcode ${got.opcode}: ${got.payload}` : 'the end of the stream');
