// A TCP proxy whose connections can be cut: the network between a client and the daemon.

import net from 'node:net';
import { once } from 'node:events';

export class Proxy {
  #server;
  #pairs = new Set();
  #refusing = false;
  /** Connections that were let through, since the start. */
  accepted = 0;

  /** Where new connections go: a daemon that was restarted has another port. */
  target;

  static async to(port) {
    const proxy = new Proxy();
    proxy.target = port;
    proxy.#server = net.createServer((client) => proxy.#connect(client));
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    return proxy;
  }

  get port() {
    return this.#server.address().port;
  }

  get ws() {
    return `ws://127.0.0.1:${this.port}/connection/websocket`;
  }

  get http() {
    return `http://127.0.0.1:${this.port}`;
  }

  /** Resets every connection and refuses new ones until `allow`. */
  cut() {
    this.#refusing = true;
    for (const { client, server } of this.#pairs) {
      client.resetAndDestroy();
      server.resetAndDestroy();
    }
  }

  allow() {
    this.#refusing = false;
  }

  async close() {
    this.cut();
    this.#server.close();
    await once(this.#server, 'close');
  }

  #connect(client) {
    client.on('error', () => {});
    if (this.#refusing) {
      client.resetAndDestroy();
      return;
    }
    this.accepted += 1;
    const server = net.connect(this.target, '127.0.0.1');
    const pair = { client, server };
    this.#pairs.add(pair);
    client.setNoDelay();
    server.setNoDelay().on('error', () => {});
    client.pipe(server);
    server.pipe(client);
    for (const socket of [client, server]) {
      socket.on('close', () => {
        this.#pairs.delete(pair);
        client.destroy();
        server.destroy();
      });
    }
  }
}
