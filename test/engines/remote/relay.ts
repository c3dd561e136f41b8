import Fastify from "fastify";
import topicRelay, { type TopicRelayOptions } from "topic-relay";
import { RemoteEngine } from "./engine.js";

/** A relay in a process of its own. Arguments: the path of the log's socket, and settings as JSON. */
const [path = "", settings = "{}"] = process.argv.slice(2);
const engine = await RemoteEngine.open(path);
const app = Fastify({ forceCloseConnections: true });
app.addHook("onClose", () => engine.close());
await app.register(topicRelay, { ...(JSON.parse(settings) as TopicRelayOptions), engine });
process.once("SIGTERM", () => void app.close());
process.stdout.write(`listening on ${await app.listen({ host: "127.0.0.1", port: 0 })}\n`);
