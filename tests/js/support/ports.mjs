// Ports for what is started with one: they must still be free when it, or what follows it, listens there.

import { createServer } from 'node:net';

/** Below those that the system gives to connections and to listeners without a port; Redis takes the one 10,000 above as well. */
const [FIRST, COUNT] = [10_000, 10_000];

const given = new Set();

/** A port at which nobody listens, and that nobody in this process was given before. */
export async function freePort() {
  for (;;) {
    const port = FIRST + Math.floor(Math.random() * COUNT);
    if (!given.has(port) && await isFree(port)) {
      given.add(port);
      return port;
    }
  }
}

function isFree(port) {
  return new Promise((resolve) => {
    const server = createServer();
    server.on('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}
