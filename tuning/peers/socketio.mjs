// Socket.IO as its documentation has it: a room for each channel, a publication emitted to the room.
//   node socketio.mjs PORT
import { Server } from "socket.io";

import { listen, serve } from "./publishing.mjs";

const server = serve((channel, data) => sockets.to(channel).emit("message", channel, data));
const sockets = new Server(server, { transports: ["websocket"], serveClient: false });
sockets.on("connection", (socket) => {
  socket.on("subscribe", (names, done) => {
    socket.join(names);
    done();
  });
});
listen(server);
