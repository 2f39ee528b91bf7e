// Both ends of a tunnel: npm `ws` as a client, and an HTTP server of node as the backend.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import http from 'node:http';

import WebSocket from 'ws';

import { until, within } from './wait.mjs';

/** A backend that records what it is asked and answers what the test says. */
export class Backend {
  #server;
  asked = [];

  static async start() {
    const backend = new Backend();
    backend.reset();
    backend.#server = http.createServer(async (request, response) => {
      const parts = [];
      for await (const part of request) parts.push(part);
      const body = Buffer.concat(parts);
      const one = {
        type: request.headers['x-trunkline-type'],
        connection: request.headers['x-trunkline-connection'],
        sequence: Number(request.headers['x-trunkline-sequence']),
        headers: request.headers,
        body,
        json: /json/.test(request.headers['content-type']) ? JSON.parse(body) : undefined,
        request,
      };
      backend.asked.push(one);
      await backend[one.type](one, response);
    });
    backend.#server.keepAliveTimeout = 60_000;
    backend.#server.listen(0, '127.0.0.1');
    await once(backend.#server, 'listening');
    return backend;
  }

  /** Everybody is let in, every message comes back as it was. */
  reset() {
    this.asked = [];
    this.connect = (_, response) => response.end();
    this.message = (one, response) => {
      response.writeHead(200, { 'Content-Type': one.headers['content-type'] }).end(one.body);
    };
    this.close = (_, response) => response.writeHead(204).end();
  }

  of(type) {
    return this.asked.filter((one) => one.type === type);
  }

  /** The close of the connection that was asked about first since the reset. */
  async closed() {
    const [one] = await until(() => this.of('close').length > 0 && this.of('close'), 'the close is told');
    return one.json;
  }

  get url() {
    return `http://127.0.0.1:${this.#server.address().port}/game?x=1`;
  }

  stop() {
    this.#server.closeAllConnections();
    return new Promise((done) => { this.#server.close(done); });
  }
}

/** A connected client and everything it was told. */
export class Client {
  messages = [];

  static async connect(url, protocols, options) {
    const client = new Client();
    client.ws = new WebSocket(url, protocols, options);
    client.ws.on('message', (data, binary) => client.messages.push(binary ? data : data.toString()));
    client.closing = new Promise((done) => {
      client.ws.on('close', (code, reason) => done({ code, reason: reason.toString() }));
    });
    const failed = new Promise((_, reject) => { client.ws.once('error', reject); });
    await within(Promise.race([once(client.ws, 'open'), failed]), 'the tunnel opens');
    client.ws.on('error', () => {});
    return client;
  }

  closed() {
    return within(this.closing, 'the client is closed');
  }

  async got(count) {
    await until(() => this.messages.length >= count, () => `${count} messages; ${this.messages.length} so far`);
    return this.messages;
  }
}

/** The answer of HTTP to a client that is not let in. */
export async function refused(url, protocols, options) {
  const ws = new WebSocket(url, protocols, options);
  ws.on('error', () => {});
  const [, response] = await within(once(ws, 'unexpected-response'), 'the handshake is refused');
  const parts = [];
  for await (const part of response) parts.push(part);
  ws.terminate();
  const text = Buffer.concat(parts).toString();
  assert.match(response.headers['content-type'], /^application\/problem\+json/);
  const problem = JSON.parse(text);
  assert.equal(problem.status, response.statusCode);
  return { status: response.statusCode, headers: response.headers, problem };
}
