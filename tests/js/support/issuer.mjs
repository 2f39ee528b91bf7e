// A token issuer: real keys, signed tokens, and a key set served over HTTP.

import { createServer } from 'node:http';
import { once } from 'node:events';

import { SignJWT, exportJWK, exportSPKI, generateKeyPair } from 'jose';

/** A key pair that signs with `alg`; `kid` names it. */
export async function signer(alg, kid) {
  const { publicKey, privateKey } = await generateKeyPair(alg, { extractable: true });
  return {
    alg,
    kid,
    pem: await exportSPKI(publicKey),
    jwk: { ...(await exportJWK(publicKey)), kid, use: 'sig' },
    /** A token of these claims. The header names the key if it has a name. */
    sign: (claims, header = {}) =>
      new SignJWT(claims).setProtectedHeader({ alg, ...(kid && { kid }), ...header }).sign(privateKey),
  };
}

/** An HTTP server that answers `/jwks.json` as `answer` says. */
export class Issuer {
  /** Requests that were answered. */
  fetches = 0;
  #server;
  #port;

  static async of(...signers) {
    const issuer = new Issuer();
    issuer.publish(...signers);
    await issuer.open();
    return issuer;
  }

  publish(...signers) {
    const body = JSON.stringify({ keys: signers.map(({ jwk }) => jwk) });
    this.answer = (response) => response.writeHead(200, { 'Content-Type': 'application/jwk-set+json' }).end(body);
  }

  get url() {
    return `http://127.0.0.1:${this.#port}/jwks.json`;
  }

  /** Listens, at the same port as before if it did before. */
  async open() {
    this.#server = createServer((request, response) => {
      this.fetches += 1;
      this.answer(response, request);
    });
    this.#server.listen(this.#port ?? 0, '127.0.0.1');
    await once(this.#server, 'listening');
    this.#port = this.#server.address().port;
  }

  /** Is gone, with every connection. */
  async close() {
    this.#server.closeAllConnections();
    await new Promise((done) => this.#server.close(done));
  }
}
