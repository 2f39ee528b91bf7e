// What a team writes first: the npm package ws, a Map from channels to sockets, and a publication framed once for each socket.
//   node ws.mjs PORT
import { WebSocketServer } from "ws";

import { listen, serve } from "./publishing.mjs";

const channels = new Map();
const server = serve((channel, data) => {
  const message = JSON.stringify({ channel, data });
  for (const socket of channels.get(channel) ?? []) socket.send(message);
});
const sockets = new WebSocketServer({ server, perMessageDeflate: false });
sockets.on("connection", (socket) => {
  const mine = [];
  socket.on("message", (text) => {
    const { subscribe } = JSON.parse(text);
    let members = channels.get(subscribe);
    if (!members) channels.set(subscribe, (members = new Set()));
    members.add(socket);
    mine.push(members);
    socket.send('{"subscribed":true}');
  });
  socket.on("close", () => mine.forEach((members) => members.delete(socket)));
  socket.on("error", () => {});
});
listen(server);
