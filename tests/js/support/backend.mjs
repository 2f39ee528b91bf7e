// The application's backend: a server of HTTP that answers hooks.

import { once } from 'node:events';
import http from 'node:http';

export class Backend {
  /** Every question in the order it came: `{ path, headers, body }`. */
  asked = [];
  #server;
  #answers;
  #hanging = new Set();

  /**
   * @param {object} answers by path without the slash: what to answer, or a function of the question's body and
   *   headers. A number is an HTTP status, undefined is no answer at all; anything else goes out as JSON.
   */
  static async start(answers, port = 0) {
    const backend = new Backend();
    backend.#answers = answers;
    backend.#server = http.createServer((request, response) => backend.#handle(request, response));
    backend.#server.listen(port, '127.0.0.1');
    await once(backend.#server, 'listening');
    return backend;
  }

  get port() {
    return this.#server.address().port;
  }

  /** The settings of the hooks that ask it, one for each name. */
  hooks(names, options = {}) {
    return names.map((name) => ({ name, endpoint: `http://127.0.0.1:${this.port}/${name}`, ...options }));
  }

  /** What was asked at `path`. */
  of(path) {
    return this.asked.filter((question) => question.path === path).map((question) => question.body);
  }

  /** Hook calls that got no response and whose asker is still there. */
  get hanging() {
    return this.#hanging.size;
  }

  async #handle(request, response) {
    request.setEncoding('utf8');
    let text = '';
    for await (const piece of request) text += piece;
    const [path, body] = [request.url.slice(1), JSON.parse(text)];
    this.asked.push({ path, headers: request.headers, body });
    const given = this.#answers[path];
    const answer = await (typeof given === 'function' ? given(body, request.headers) : given);
    if (answer === undefined) {
      this.#hanging.add(response);
      response.on('close', () => this.#hanging.delete(response));
    } else if (typeof answer === 'number') {
      response.writeHead(answer).end();
    } else {
      response.writeHead(200, { 'Content-Type': 'application/json' }).end(JSON.stringify(answer, null, 1));
    }
  }

  /** Answers otherwise from now on. */
  answer(answers) {
    Object.assign(this.#answers, answers);
  }

  async stop() {
    this.#server.closeAllConnections();
    this.#server.close();
    await once(this.#server, 'close');
  }
}
