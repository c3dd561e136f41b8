import type { FastifyInstance } from "fastify";
import type { ClientRecord } from "../core/client.js";
import { notFound } from "../core/clients.js";
import { baseUrl, clientIdOf, type Context, noStore } from "./context.js";
import { clientChange, type ClientState } from "../protocol.js";
import { keyOf } from "./access.js";
import { Registering } from "./registering.js";
import { check } from "./schemas.js";

/** `/register` and `/users`: clients come and go, and change their topics. */
export function registerRoutes(app: FastifyInstance, context: Context): void {
  const { startup } = context;

  const registering = new Registering(context);
  const stateOf = (http: string, record: ClientRecord): ClientState => ({
    ...registering.describe(http, record),
    connected: record.expiresAt === undefined,
  });

  const register = { access: { scope: "register" } } as const;
  const admin = { access: { scope: "admin" } } as const;

  app.post("/register", { config: register }, async (request, reply) => {
    noStore(reply);
    return registering.register(request.body, () => baseUrl(context, request), keyOf(request)?.name);
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
    return registering.remove(request.params.id);
  });

  app.delete<{ Params: { user: string } }>("/users/:user", { config: admin }, async (request, reply) => {
    noStore(reply);
    return registering.removeUser(request.params.user);
  });
}

function knownId(text: string): string {
  const id = clientIdOf(text);
  if (id === undefined) throw notFound();
  return id;
}
