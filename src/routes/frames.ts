import { ownTopics, type TopicsChange } from "../core/client.js";
import type { Connection } from "../core/connection.js";
import { isRelayError, RelayError } from "../core/errors.js";
import type { EventDraft } from "../core/event.js";
import { parseId } from "../core/id.js";
import { charactersOf } from "../core/lists.js";
import type { Observer } from "../core/observer.js";
import { checkAllowed } from "../core/permissions.js";
import type { Relay } from "../core/relay.js";
import { BROADCAST } from "../core/topics.js";
import type { FramedEncoder } from "../formats/encoder.js";
import {
  ACTIONS,
  type ActionData,
  chat,
  type ErrorFrame,
  join,
  leave,
  type Receipt,
  request,
  requestId,
  type ResponseFrame,
  subscriptionList,
} from "../protocol.js";
import type { Context } from "./context.js";
import { parseJson } from "./json.js";
import type { CallerLimits } from "./limits.js";
import { InvalidInput, tellLimit } from "./problems.js";
import { bounded, check, draftOf, textOf } from "./schemas.js";
import { memberSource } from "./source.js";

const ACTION_NAMES = Object.keys(ACTIONS);

/** What a client says over its WebSocket, and what the relay does about it (product section 4). */
export class Frames {
  private readonly relay: Relay;
  private readonly limits: CallerLimits;
  private readonly observer: Observer;
  private readonly maxMessage: number;

  /**
   * @param inLobby a connection of `/ws`: there, text in the `raw` format that is no JSON object is said to all others
   */
  constructor(
    { startup, limits, observer, settings }: Context,
    private readonly connection: Connection,
    private readonly encoder: FramedEncoder,
    private readonly inLobby: boolean,
  ) {
    this.relay = startup.relay;
    this.limits = limits;
    this.observer = observer;
    this.maxMessage = settings.maxMessage;
  }

  /** @returns false when the frame was answered with an error */
  async handle(text: string): Promise<boolean> {
    let id: string | number | undefined;
    try {
      if (text.trimEnd() === "ping") {
        this.say("pong");
        return true;
      }
      const frame = this.parse(text);
      if (frame === undefined) return await this.broadcast(JSON.stringify(text)).then(() => true);
      const known = requestId.safeParse((frame as { id?: unknown }).id);
      if (known.success) id = known.data;
      await this.dispatch(frame, text);
      return true;
    } catch (error) {
      this.refuse(error, id);
      return false;
    }
  }

  /**
   * To be called with frames that come after the relay has begun to close the connection: the client may have sent them
   * before it could know. Its acknowledgements count; nothing else is done, and nothing is answered.
   */
  acknowledge(text: string): void {
    try {
      const { action, payload } = check(request, parseJson(text));
      if (action === "ack") this.ack(check(ACTIONS.ack.payload, payload, "payload").id);
    } catch (error) {
      if (!isRelayError(error)) throw error;
    }
  }

  /** Answers with an error frame. */
  refuse(error: unknown, id?: string | number): void {
    if (!isRelayError(error)) throw error;
    const { code, message } = error;
    tellLimit(this.observer, error);
    this.say({ ...(id === undefined ? {} : { id }), type: "error", error: { code, message } } satisfies ErrorFrame);
  }

  private say(answer: object | "pong"): void {
    this.connection.send(this.encoder.text(answer === "pong" ? answer : JSON.stringify(answer)));
  }

  /** The frame's object; undefined when it is text for everyone in the lobby. */
  private parse(text: string): object | undefined {
    const isOpen = this.inLobby && this.encoder.format.name === "raw";
    try {
      const value = parseJson(text);
      if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
    } catch (error) {
      if (!isOpen) throw error;
    }
    if (isOpen) return undefined;
    throw new InvalidInput([{ path: "", message: "a frame must be a JSON object, or ping" }]);
  }

  private async dispatch(frame: object, text: string): Promise<void> {
    const { type } = frame as { type?: unknown };
    if (type === undefined && "topics" in frame) return this.change({ set: check(subscriptionList, frame).topics });
    switch (type) {
      case "request":
        return this.answer(frame, text);
      case "join":
        return this.change({ join: check(join, frame).room });
      case "leave":
        return this.change({ leave: check(leave, frame).room });
      case "chat":
        return this.chat(check(chat, frame).content);
      default:
        throw new InvalidInput([
          { path: "type", message: 'must be request, join, leave or chat; or send {"topics": […]} or ping' },
        ]);
    }
  }

  private async answer(frame: object, text: string): Promise<void> {
    const { id, action, payload } = check(request, frame);
    this.say({
      id,
      type: "response",
      data: await this.act(action, payload, () => memberSource(text, "payload", "message")),
    } satisfies ResponseFrame);
  }

  /** @param source finds the payload's message as it was written */
  private async act(action: string, payload: unknown, source: () => string | undefined): Promise<ActionData> {
    switch (action) {
      case "echo":
        return { echo: check(ACTIONS.echo.payload, payload, "payload").message };
      case "broadcast":
        return this.broadcast(textOf(check(ACTIONS.broadcast.payload, payload, "payload").message, source));
      case "get_connections":
        check(ACTIONS.get_connections.payload, payload, "payload");
        return { connections: await this.relay.countConnections() };
      case "topics":
        check(ACTIONS.topics.payload, payload, "payload");
        return { topics: this.connection.reader.topics };
      case "subscribe":
        return { topics: await this.changed({ add: check(subscriptionList, payload, "payload").topics }) };
      case "unsubscribe":
        return { topics: await this.changed({ remove: check(subscriptionList, payload, "payload").topics }) };
      case "publish":
        return this.publish(draftOf(payload, source, this.maxMessage, "payload"));
      case "ack":
        return this.ack(check(ACTIONS.ack.payload, payload, "payload").id);
      default:
        throw new InvalidInput([
          { path: "action", message: `must be ${ACTION_NAMES.slice(0, -1).join(", ")} or ${ACTION_NAMES.at(-1)}` },
        ]);
    }
  }

  private ack(text: string): ActionData<"ack"> {
    const id = parseId(text);
    if (!id) throw new InvalidInput([{ path: "payload.id", message: "must be an event id" }]);
    if (this.connection.ack(id)) return { id: text };
    throw new InvalidInput([{ path: "payload.id", message: "was not sent on this connection yet" }]);
  }

  private async changed(change: TopicsChange): Promise<string[]> {
    const { reader } = this.connection;
    // All of them are looked at, and are answered.
    this.limits.work(reader.id, charactersOf(reader.topics));
    return ownTopics(await this.relay.clients.change(reader.id, change));
  }

  private async change(change: TopicsChange): Promise<void> {
    this.connection.notify({ event: "topics", topics: await this.changed(change) });
  }

  private async chat(content: string): Promise<void> {
    const { rooms } = this.connection.reader.record;
    if (rooms.length === 0) throw new RelayError("bad_request", 'join a room first: {"type":"join","room":"…"}');
    const message = bounded(JSON.stringify(content), this.maxMessage);
    await this.publish(...rooms.map((topic) => ({ topic, message })));
  }

  private async broadcast(message: string): Promise<Receipt> {
    return this.publish({ topic: BROADCAST, message: bounded(message, this.maxMessage) });
  }

  /** @returns the receipt of the first */
  private async publish(...drafts: EventDraft[]): Promise<Receipt> {
    const permissions = this.relay.clients.permissionsOf(this.connection.reader.record);
    checkAllowed(
      permissions,
      "publish",
      drafts.map(({ topic }) => topic),
    );
    if (drafts.length > 1) this.limits.frames(this.connection.reader.id, drafts.length - 1);
    const [receipt] = await this.relay.publisher.publish(drafts);
    return receipt as Receipt;
  }
}
