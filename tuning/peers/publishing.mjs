// POST /publish {"channel", "data"} of a peer's own server, and what is served for upgrades beside it.
import { createServer } from "node:http";

/** An HTTP server on the port of the first argument that calls `publish(channel, data)` for each publication. */
export function serve(publish) {
  const server = createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      try {
        const { channel, data } = JSON.parse(Buffer.concat(pieces).toString());
        publish(channel, data);
        response.writeHead(200, { "Content-Type": "application/json" }).end("{}");
      } catch (error) {
        response.writeHead(400).end(String(error));
      }
    });
  });
  return server;
}

/** What `serve` has made begins to listen. */
export function listen(server) {
  server.listen({ port: Number(process.argv[2]), host: "127.0.0.1", backlog: 4096 });
}
