import type { Socket } from "node:net";
import type { CursorStore, Engine, ErrorCode, Follower, Peers, RelayError, ReplyStore } from "topic-relay";

/** What a relay asks of the log. */
export interface LogSide
  extends
    Pick<Engine, "append" | "read" | "find" | "now">,
    Pick<CursorStore, "move">,
    Pick<ReplyStore, "settle">,
    Peers {
  /** Makes the connection a follower of the log; at most once, until it leaves. */
  join(node: string): Promise<void>;
  leave(): Promise<void>;
}

/** What the log tells a relay, and asks of it. */
export type RelaySide = Omit<Follower, "node">;

type Method<Side, Name extends keyof Side> = Side[Name] extends (...args: infer Args) => infer Result
  ? { args: Args; result: Awaited<Result> }
  : never;

type Failure = Pick<RelayError, "message"> & Partial<Pick<RelayError, "code" | "limit" | "retryAfter">>;

/** One line: a call, or the answer to the call of this number. A call without a number is not answered. */
interface Line {
  readonly n?: number;
  readonly call?: string;
  readonly args?: readonly unknown[];
  readonly value?: unknown;
  readonly failure?: Failure;
}

interface Pending {
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: Error) => void;
}

/**
 * One connection between a relay and its log: lines of JSON, handled in order. So the answer to a call comes after
 * everything that was said before the answer.
 */
export class Wire<Mine extends object, Theirs extends object> {
  /** Resolves when the connection has ended. */
  readonly closed: Promise<void>;
  private readonly pending = new Map<number, Pending>();
  private calls = 0;
  private rest = "";

  /** @param mine handles the calls of the other side */
  constructor(
    private readonly socket: Socket,
    private readonly mine: Mine,
  ) {
    socket.setEncoding("utf8");
    socket.on("data", (text: string) => {
      const lines = (this.rest + text).split("\n");
      this.rest = lines.pop() ?? "";
      for (const line of lines) this.receive(JSON.parse(line) as Line);
    });
    socket.on("error", () => socket.destroy());
    this.closed = new Promise((resolve) => socket.once("close", () => resolve()));
    void this.closed.then(() => {
      for (const { reject } of this.pending.values()) reject(ended());
      this.pending.clear();
    });
  }

  /** Calls the other side, and does not wait for an answer. */
  tell<Name extends keyof Theirs & string>(call: Name, ...args: Method<Theirs, Name>["args"]): void {
    this.write({ call, args });
  }

  /** @throws {RelayError} unavailable: the connection has ended */
  async ask<Name extends keyof Theirs & string>(
    call: Name,
    ...args: Method<Theirs, Name>["args"]
  ): Promise<Method<Theirs, Name>["result"]> {
    if (!this.socket.writable) throw ended();
    const n = ++this.calls;
    const answer = new Promise<Method<Theirs, Name>["result"]>((resolve, reject) => {
      this.pending.set(n, { resolve, reject });
    });
    this.write({ n, call, args: args.filter((arg) => arg !== undefined) });
    return answer;
  }

  private write(line: Line): void {
    if (this.socket.writable) this.socket.write(`${JSON.stringify(line)}\n`);
  }

  private receive({ n, call, args = [], value, failure }: Line): void {
    if (call !== undefined) return void this.handle(n, call, args);
    if (n === undefined) return;
    const pending = this.pending.get(n);
    this.pending.delete(n);
    if (failure) pending?.reject(errorOf(failure));
    else pending?.resolve(value);
  }

  /** Runs the method at once, so that calls take effect in their order. */
  private async handle(n: number | undefined, call: string, args: readonly unknown[]): Promise<void> {
    const method = this.mine[call as keyof Mine] as (...args: readonly unknown[]) => unknown;
    try {
      const value = await method(...args);
      if (n !== undefined) this.write({ n, value });
    } catch (error) {
      if (n === undefined) throw error;
      const { code, message, limit, retryAfter } = error as Failure;
      this.write({ n, failure: { code, message, limit, retryAfter } });
    }
  }
}

function ended(): Error {
  return errorOf({ code: "unavailable", message: "the connection to the log has ended" });
}

/** The relay takes it for one of its own by the `code`. */
function errorOf({ message, ...details }: Failure & { readonly code?: ErrorCode }): Error {
  return Object.assign(new Error(message), details);
}
