// Socket.IO's room emit, on its own defaults over the WebSocket transport.
import Fastify from "fastify";
import { Server } from "socket.io";

const app = Fastify();
const io = new Server(app.server, { transports: ["websocket"] });
io.on("connection", (socket) => socket.join("cats"));
app.post("/publish", async (request) => {
  io.to("cats").emit("message", request.body.message);
  return {};
});
app.post("/batch", async (request) => {
  for (const { message } of request.body) io.to("cats").emit("message", message);
  return {};
});
const address = await app.listen({ host: "127.0.0.1", port: 0 });
process.send({ address });
process.on("message", () => process.send({ cpu: process.cpuUsage() }));
