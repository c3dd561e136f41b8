// This relay, as it is built, with a route of its own only to have the same address for batches as the others.
import Fastify from "fastify";
import topicRelay from "../../dist/index.js";

const app = Fastify();
await app.register(topicRelay, { logLevel: "silent", engine: "memory" });
const address = await app.listen({ host: "127.0.0.1", port: 0 });
process.send({ address });
process.on("message", () => process.send({ cpu: process.cpuUsage() }));
