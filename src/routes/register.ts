import type { FastifyInstance } from "fastify";
import { type ClientRecord, secretOf, topicsOf } from "../core/client.js";
import { notFound } from "../core/clients.js";
import { baseUrl, clientIdOf, type Context, noStore } from "./context.js";
import { InvalidInput } from "./problems.js";
import { keyOf } from "./access.js";
import {
  anyUserId,
  type ClientRemoved,
  type ClientState,
  clientChange,
  type Registered,
  registration,
  type UserRemoved,
} from "../protocol.js";
import { check } from "./schemas.js";

/** `/register` and `/users`: clients come and go, and change their topics. */
export function registerRoutes(app: FastifyInstance, context: Context): void {
  const { startup, settings } = context;

  const describe = (http: string, record: ClientRecord): Registered => {
    const { id, userId, ttl, allow } = record;
    const secret = secretOf(record);
    const left = startup.relay.clients.left(record) / 1000;
    return {
      url: `${http.replace(/^http/, "ws")}/ws/${secret}`,
      stream_url: `${http}/stream/${secret}`,
      id,
      user_id: userId,
      topics: topicsOf(record),
      expires_in: Math.max(0, left === Infinity ? ttl : Math.ceil(left)),
      ...(allow && { allow }),
    };
  };

  const stateOf = (http: string, record: ClientRecord): ClientState => ({
    ...describe(http, record),
    connected: record.expiresAt === undefined,
  });

  const register = { access: { scope: "register" } } as const;
  const admin = { access: { scope: "admin" } } as const;

  app.post("/register", { config: register }, async (request, reply) => {
    const { user_id, topics, ttl, allow } = check(registration, request.body);
    const longest = settings.maxClientTtl / 1000;
    if (ttl !== undefined && ttl > longest) {
      throw new InvalidInput([{ path: "ttl", message: `must be at most ${longest} seconds` }]);
    }
    noStore(reply);
    const http = baseUrl(context, request);
    const record = await startup.relay.clients.register({
      userId: user_id,
      topics,
      ttl: ttl ?? settings.clientTtl / 1000,
      allow,
      key: keyOf(request)?.name,
    });
    return describe(http, record);
  });

  app.get<{ Params: { id: string } }>("/register/:id", { config: register }, async (request, reply) => {
    noStore(reply);
    const record = await startup.relay.clients.get(knownId(request.params.id));
    return stateOf(baseUrl(context, request), record);
  });

  app.patch<{ Params: { id: string } }>("/register/:id", { config: register }, async (request, reply) => {
    noStore(reply);
    const { topics: set, add, remove, allow } = check(clientChange, request.body);
    const http = baseUrl(context, request);
    const record = await startup.relay.clients.change(knownId(request.params.id), { set, add, remove }, allow);
    return stateOf(http, record);
  });

  app.delete<{ Params: { id: string } }>("/register/:id", { config: register }, async (request, reply) => {
    noStore(reply);
    const id = clientIdOf(request.params.id);
    const removed = id !== undefined && (await startup.relay.clients.remove(id));
    return { removed } satisfies ClientRemoved;
  });

  app.delete<{ Params: { user: string } }>("/users/:user", { config: admin }, async (request, reply) => {
    noStore(reply);
    const removed = await startup.relay.clients.removeUser(check(anyUserId, request.params.user));
    return { removed } satisfies UserRemoved;
  });
}

function knownId(text: string): string {
  const id = clientIdOf(text);
  if (id === undefined) throw notFound();
  return id;
}
