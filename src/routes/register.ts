import type { FastifyInstance, FastifyRequest } from "fastify";
import { type ClientRecord, topicsOf } from "../core/client.js";
import { notFound } from "../core/clients.js";
import { baseUrl, clientIdOf, type Context, noStore } from "./context.js";
import { InvalidInput } from "./problems.js";
import { check, registration, topicsChange, userId as userIdSchema } from "./schemas.js";

/** `/register` and `/users`: clients come and go, and change their topics. */
export function registerRoutes(app: FastifyInstance, context: Context): void {
  const { relay, settings } = context;

  const describe = (request: FastifyRequest, record: ClientRecord): object => {
    const { id, userId, ttl, expiresAt } = record;
    const http = baseUrl(context, request);
    const left = expiresAt === undefined ? ttl : Math.ceil((expiresAt - Date.now()) / 1000);
    return {
      url: `${http.replace(/^http/, "ws")}/ws/${id}`,
      stream_url: `${http}/stream/${id}`,
      id,
      user_id: userId,
      topics: topicsOf(record),
      expires_in: Math.max(0, left),
    };
  };

  app.post("/register", async (request, reply) => {
    const { user_id, topics, ttl } = check(registration, request.body);
    const longest = settings.maxClientTtl / 1000;
    if (ttl !== undefined && ttl > longest) {
      throw new InvalidInput([{ path: "ttl", message: `must be at most ${longest} seconds` }]);
    }
    noStore(reply);
    const record = await relay.clients.register({
      userId: user_id,
      topics: topics ?? settings.defaultTopics,
      ttl: ttl ?? settings.clientTtl / 1000,
    });
    return describe(request, record);
  });

  app.get<{ Params: { id: string } }>("/register/:id", async (request, reply) => {
    noStore(reply);
    const record = await relay.clients.get(knownId(request.params.id));
    return { ...describe(request, record), connected: record.expiresAt === undefined };
  });

  app.patch<{ Params: { id: string } }>("/register/:id", async (request, reply) => {
    noStore(reply);
    const change = check(topicsChange, request.body);
    const record = await relay.clients.changeTopics(knownId(request.params.id), change);
    return { ...describe(request, record), connected: record.expiresAt === undefined };
  });

  app.delete<{ Params: { id: string } }>("/register/:id", async (request, reply) => {
    noStore(reply);
    const id = clientIdOf(request.params.id);
    return { removed: id !== undefined && (await relay.clients.remove(id)) };
  });

  app.delete<{ Params: { user: string } }>("/users/:user", async (request, reply) => {
    noStore(reply);
    return { removed: await relay.clients.removeUser(check(userIdSchema, request.params.user)) };
  });
}

function knownId(text: string): string {
  const id = clientIdOf(text);
  if (id === undefined) throw notFound();
  return id;
}
