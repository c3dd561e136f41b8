import type { FastifyInstance } from "fastify";
import type { HappeningName, Listener } from "./core/observer.js";
import type {
  ClientRemoved,
  EventRecord,
  Publication,
  Receipt,
  Receipts,
  Registered,
  Registration,
  UserRemoved,
} from "./protocol.js";
import { type Context, listeningUrl } from "./routes/context.js";
import { messageText } from "./routes/json.js";
import { InvalidInput, tellLimit } from "./routes/problems.js";
import { checkAsked, Publishing } from "./routes/publishing.js";
import { Registering } from "./routes/registering.js";
import { draftOf } from "./routes/schemas.js";

export interface PublicationOptions {
  /** Seconds to wait for confirmations, as `?wait`. */
  readonly wait?: number | undefined;
  /** As the header `Idempotency-Key`. On a relay with API keys, those of requests are others, also when they read alike. */
  readonly idempotencyKey?: string | undefined;
  /** Ends the wait for confirmations: the reply is then as things stand. */
  readonly signal?: AbortSignal | undefined;
}

/**
 * A relay inside a Fastify app: registers and removes clients, publishes and looks up receipts as a backend does over HTTP,
 * without HTTP, keys and rates. Bodies, replies and what is checked are those of the requests that docs/PROTOCOL.md
 * describes. What is refused rejects with a `RelayError`; its `code` says why, and an `InvalidInput` also names the fields.
 * While the relay loads or ends, all of it rejects with the code `unavailable`.
 */
export class InProcessRelay {
  private readonly publishing: Publishing;
  private readonly registering: Registering;

  constructor(
    private readonly app: FastifyInstance,
    private readonly context: Context,
  ) {
    this.publishing = new Publishing(context);
    this.registering = new Registering(context);
  }

  /**
   * Registers a client, as `POST /register`. Without the option `publicUrl`, its URL is that on which the app listens, so
   * this rejects with `unavailable` before the app listens.
   */
  register(body: Registration): Promise<Registered> {
    return this.run(() => this.registering.register(body, () => listeningUrl(this.context, this.app)));
  }

  /** Removes a client and ends its connection, as `DELETE /register/ID`. */
  remove(client: string): Promise<ClientRemoved> {
    return this.run(() => this.registering.remove(client));
  }

  /** Removes all of a user's clients, as `DELETE /users/USER`. */
  removeUser(userId: number | string): Promise<UserRemoved> {
    return this.run(() => this.registering.removeUser(userId));
  }

  /**
   * Publishes an event, or several in order, as `POST /publish`. Of several, each is published or refused by itself: the
   * reply has a receipt or a problem for each.
   */
  publish(events: readonly Publication[], options?: PublicationOptions): Promise<Receipts>;
  publish(event: Publication, options?: PublicationOptions): Promise<Receipt>;
  publish(
    body: Publication | readonly Publication[],
    { wait, idempotencyKey, signal }: PublicationOptions = {},
  ): Promise<Receipt | Receipts> {
    return this.run<Receipt | Receipts>(() => {
      if (signal !== undefined && !(signal instanceof AbortSignal)) {
        throw new InvalidInput([{ path: "signal", message: "must be an AbortSignal" }]);
      }
      const asked = { ...checkAsked(wait, idempotencyKey, "", "idempotencyKey"), signal };
      const { maxMessage } = this.context.settings;
      const draft = (event: Publication) => draftOf(event, () => messageText(event.message), maxMessage);
      if (isMany(body)) return this.publishing.many({ items: body, draft }, asked, uncharged);
      return this.publishing.one(() => draft(body), asked, uncharged);
    });
  }

  /** What became of an event, as `GET /events/ID`. */
  receipt(id: string): Promise<EventRecord> {
    return this.run(() => this.publishing.receipt(id, (client) => client));
  }

  /**
   * Calls `listener` with each happening of that name, soon after it happened. It must be quick, as it shares the relay's
   * thread. What it throws is logged, and harms nobody else.
   * @returns how to stop
   */
  on<N extends HappeningName>(name: N, listener: Listener<N>): () => void {
    return this.context.observer.on(name, listener);
  }

  private async run<T>(work: () => Promise<T>): Promise<T> {
    const { startup, observer } = this.context;
    try {
      if (startup.refusal) throw startup.refusal;
      return await work();
    } catch (error) {
      tellLimit(observer, error);
      throw error;
    }
  }
}

/** Rates are for callers that the host does not control. */
function uncharged(): void {}

function isMany(body: Publication | readonly Publication[]): body is readonly Publication[] {
  return Array.isArray(body);
}
