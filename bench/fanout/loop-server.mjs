// The obvious way on the same Fastify: every message framed and written for each socket by itself.
import websocket from "@fastify/websocket";
import Fastify from "fastify";

const app = Fastify();
const sockets = new Set();
await app.register(websocket);
app.get("/ws", { websocket: true }, (socket) => {
  sockets.add(socket);
  socket.on("error", () => socket.terminate());
  socket.on("close", () => sockets.delete(socket));
});
app.post("/publish", async (request) => {
  const message = request.body.message;
  for (const socket of sockets) socket.send(message);
  return { sent: sockets.size };
});
// As many at once as the relay takes: an array of publications.
app.post("/batch", async (request) => {
  for (const { message } of request.body) for (const socket of sockets) socket.send(message);
  return { sent: sockets.size };
});
const address = await app.listen({ host: "127.0.0.1", port: 0 });
process.send({ address });
process.on("message", () => process.send({ cpu: process.cpuUsage() }));
