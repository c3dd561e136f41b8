import { type ClientRecord, secretOf, topicsOf } from "../core/client.js";
import { anyUserId, type ClientRemoved, type Registered, registration, type UserRemoved } from "../protocol.js";
import { clientIdOf, type Context } from "./context.js";
import { InvalidInput } from "./problems.js";
import { check } from "./schemas.js";

/** Registers and removes clients as requests ask for it, over HTTP and in process. */
export class Registering {
  constructor(private readonly context: Pick<Context, "startup" | "settings">) {}

  /**
   * @param base finds the relay's own address
   * @param key the name of the API key that the request came with
   * @throws {RelayError} what is wrong with the body; as `Clients.register`
   */
  async register(body: unknown, base: () => string, key?: string): Promise<Registered> {
    const { settings, startup } = this.context;
    const { user_id, topics, ttl, allow } = check(registration, body);
    const longest = settings.maxClientTtl / 1000;
    if (ttl !== undefined && ttl > longest) {
      throw new InvalidInput([{ path: "ttl", message: `must be at most ${longest} seconds` }]);
    }
    const http = base();
    const record = await startup.relay.clients.register({
      userId: user_id,
      topics,
      ttl: ttl ?? settings.clientTtl / 1000,
      allow,
      key,
    });
    return this.describe(http, record);
  }

  async remove(text: string): Promise<ClientRemoved> {
    const id = clientIdOf(text);
    return { removed: id !== undefined && (await this.context.startup.relay.clients.remove(id)) };
  }

  /** @throws {InvalidInput} no user has this id */
  async removeUser(userId: unknown): Promise<UserRemoved> {
    return { removed: await this.context.startup.relay.clients.removeUser(check(anyUserId, userId)) };
  }

  /** @param http the relay's own address */
  describe(http: string, record: ClientRecord): Registered {
    const { id, userId, ttl, allow } = record;
    const secret = secretOf(record);
    const left = this.context.startup.relay.lifetimes.left(record) / 1000;
    return {
      url: `${http.replace(/^http/, "ws")}/ws/${secret}`,
      stream_url: `${http}/stream/${secret}`,
      id,
      user_id: userId,
      topics: topicsOf(record),
      expires_in: Math.max(0, left === Infinity ? ttl : Math.ceil(left)),
      ...(allow && { allow }),
    };
  }
}
