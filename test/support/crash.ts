import { once } from "node:events";
import http from "node:http";
import { type ChildProcess, spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { WebSocket } from "ws";

/**
 * A relay that is killed at random moments while a publisher publishes and clients of all formats read; and the check that
 * nothing that was acknowledged is lost, that each client gets everything in order, and what it gets twice.
 */
export interface CrashFigures {
  readonly crashes: number;
  readonly acknowledged: number;
  readonly registered: number;
  readonly connections: number;
  readonly deliveries: number;
  /** Deliveries of what the client had had already, and had not been able to confirm for long enough. */
  readonly duplicates: number;
  /** Clients that had something confirmed, and saw that it did not come again. */
  readonly confirming: number;
}

const cli = new URL("../../dist/cli.js", import.meta.url).pathname;

const KINDS = ["raw", "json", "cloudevents", "sse", "ndjson"] as const;

/**
 * Milliseconds after which what a client has answered for is known for good: confirmations get to the disk once in a
 * second, and the machine may be busy.
 */
const CONFIRMED_WITHIN = 2000;

export interface CrashOptions {
  readonly directory: string;
  readonly crashes: number;
  readonly clients: number;
}

/** @throws what was lost, doubled without need, or came out of order */
export async function crash({ directory, crashes, clients }: CrashOptions): Promise<CrashFigures> {
  const server = new Server(directory);
  const publisher = new Publisher(server);
  const readers: Reader[] = [];
  try {
    await server.start();
    for (let index = 0; index < clients; index++) {
      const topics = [["a", "b.x"], ["a", "b.*"], [">"]][index % 3];
      const { id } = await server.post<{ id: string }>("/register", { user_id: index, topics });
      readers.push(new Reader(server, publisher, KINDS[index % KINDS.length] as Kind, id));
    }
    for (const reader of readers) reader.start();
    const publishing = publisher.run();
    for (let count = 0; count < crashes; count++) {
      // Long enough for confirmations to get to the disk, every now and then.
      await pause(Math.random() * 500 + (count % 4 === 0 ? CONFIRMED_WITHIN : 0));
      await server.kill();
      await server.start();
    }
    publisher.stop();
    await publishing;
    const last = publisher.acknowledged;
    await Promise.race([
      Promise.all(readers.map((reader) => reader.reached(last))),
      pause(30_000).then(() => {
        const behind = readers
          .filter(({ highest }) => highest < last)
          .map(({ kind, highest }) => `${kind} at ${highest}`);
        throw new Error(`after ${last} events: ${behind.join(", ")}`);
      }),
    ]);
    for (const id of publisher.registered) await server.get(`/register/${id}`);
  } finally {
    publisher.stop();
    for (const reader of readers) reader.stop();
    await server.kill();
  }
  const faults = readers.flatMap(({ faults: found }) => found);
  if (faults.length > 0) throw new Error(`${faults.length} faults, such as ${faults.slice(0, 5).join("; ")}`);
  const sum = (of: (reader: Reader) => number): number => readers.reduce((total, reader) => total + of(reader), 0);
  return {
    crashes,
    acknowledged: publisher.acknowledged,
    registered: publisher.registered.length,
    connections: sum(({ connections }) => connections),
    deliveries: sum(({ deliveries }) => deliveries),
    duplicates: sum(({ duplicates }) => duplicates),
    confirming: readers.filter(({ confirmed }) => confirmed > 0).length,
  };
}

/** What a relay answers before it has loaded: to come back. */
class NotReady extends Error {}

function isLoading(status: number | undefined, text: string): boolean {
  return status === 503 && text.includes("the relay is not ready: loading");
}

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds).unref());
}

class Server {
  private child: ChildProcess | undefined;
  private port = 0;

  constructor(private readonly directory: string) {}

  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  async start(): Promise<void> {
    const args = ["--listen", this.address, "--data-dir", this.directory, "--log-level", "error"];
    const child = spawn(process.execPath, [cli, ...args], { stdio: ["ignore", "pipe", "inherit"] });
    this.child = child;
    let out = "";
    const ended = once(child, "exit").then(([code]) => `the relay ended with ${code}`);
    for (;;) {
      const port = /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(out)?.[1];
      if (port !== undefined) {
        this.port = Number(port);
        return;
      }
      const chunk = await Promise.race([once(child.stdout, "data").then(String), ended]);
      if (chunk.startsWith("the relay ended")) throw new Error(chunk);
      out += chunk;
    }
  }

  async kill(): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  }

  async post<T>(path: string, body: object | string, headers: Record<string, string> = {}): Promise<T> {
    const type = typeof body === "string" ? "application/x-ndjson" : "application/json";
    const response = await fetch(`http://${this.address}${path}`, {
      method: "POST",
      headers: { "content-type": type, ...headers },
      body: typeof body === "string" ? body : JSON.stringify(body),
    });
    const text = await response.text();
    if (isLoading(response.status, text)) throw new NotReady(text);
    if (response.status !== 200) throw new Error(`${response.status} ${text}`);
    return (typeof body === "string" ? text : JSON.parse(text)) as T;
  }

  async get(path: string): Promise<void> {
    const response = await fetch(`http://${this.address}${path}`);
    await response.arrayBuffer();
    if (response.status !== 200) throw new Error(`${path} answers ${response.status}`);
  }
}

/** Publishes 1, 2, 3 …, one request after the other, each until it is acknowledged; registers a client now and then. */
class Publisher {
  /** Everything up to this number is acknowledged. */
  acknowledged = 0;
  readonly registered: string[] = [];
  private stopped = false;

  constructor(private readonly server: Server) {}

  stop(): void {
    this.stopped = true;
  }

  async run(): Promise<void> {
    while (!this.stopped) {
      const many = Math.random() < 0.3 ? Math.ceil(Math.random() * 50) : 1;
      const numbers = Array.from({ length: many }, (_, index) => this.acknowledged + 1 + index);
      const events = numbers.map((n) => ({ topic: n % 2 ? "a" : "b.x", message: { n } }));
      const body = many === 1 ? (events[0] as object) : events.map((event) => `${JSON.stringify(event)}\n`).join("");
      const key = { "idempotency-key": randomUUID() };
      await this.untilTaken(() => this.server.post("/publish", body, key));
      this.acknowledged += many;
      if (Math.random() > 0.1) continue;
      const client = { user_id: `new-${this.registered.length}`, ttl: 86_400 };
      const { id } = await this.untilTaken(() => this.server.post<{ id: string }>("/register", client));
      this.registered.push(id);
    }
  }

  private async untilTaken<T>(request: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await request();
      } catch (error) {
        // A refused or broken connection, or a relay that loads; anything else that was answered is a fault.
        if (!(error instanceof TypeError || error instanceof NotReady)) throw error;
        await pause(20);
      }
    }
  }
}

type Kind = (typeof KINDS)[number];

/** A client that comes back to its URL whenever its connection ends. */
class Reader {
  connections = 0;
  deliveries = 0;
  duplicates = 0;
  highest = 0;
  /** Everything up to this number must not come again. */
  confirmed = 0;
  readonly faults: string[] = [];
  private lastEventId = "";
  /** The last number on this connection. */
  private inThis = 0;
  /** What was answered for on this connection, and when. */
  private answered: { number: number; at: number }[] = [];
  private stopped = false;
  private close: () => void = () => undefined;
  private waiting: { number: number; resolve: () => void } | undefined;

  constructor(
    private readonly server: Server,
    private readonly publisher: Publisher,
    readonly kind: Kind,
    private readonly id: string,
  ) {}

  start(): void {
    void this.run();
  }

  stop(): void {
    this.stopped = true;
    this.close();
  }

  async reached(number: number): Promise<void> {
    if (this.highest >= number) return;
    await new Promise<void>((resolve) => {
      this.waiting = { number, resolve };
    });
  }

  private async run(): Promise<void> {
    while (!this.stopped) {
      this.inThis = 0;
      this.answered = [];
      await (this.kind === "sse" || this.kind === "ndjson" ? this.stream() : this.socket());
      if (this.inThis > 0) this.noteConnection();
      await pause(20);
    }
  }

  private noteConnection(): void {
    this.connections++;
    const safe = performance.now() - CONFIRMED_WITHIN;
    for (const { number, at } of this.answered) if (at < safe) this.confirmed = Math.max(this.confirmed, number);
    // Streams say themselves where to go on. What was not acknowledged was not safe yet, and may have been published again.
    if (this.kind === "sse" || this.kind === "ndjson")
      this.confirmed = Math.min(this.highest, this.publisher.acknowledged);
  }

  private async socket(): Promise<void> {
    const socket = new WebSocket(`ws://${this.server.address}/ws/${this.id}?format=${this.kind}`);
    this.close = () => socket.terminate();
    socket.on("message", (data) => this.take(JSON.parse((data as Buffer).toString()) as Frame));
    socket.on("ping", (payload) => {
      if (payload.length > 0) this.answered.push({ number: this.inThis, at: performance.now() });
    });
    socket.on("unexpected-response", (_request, response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("close", () => {
        this.noteAnswer(response.statusCode, text);
        socket.terminate();
      });
    });
    socket.on("error", () => undefined);
    await new Promise((resolve) => socket.once("close", resolve));
  }

  private async stream(): Promise<void> {
    const accept = this.kind === "sse" ? "text/event-stream" : "application/x-ndjson";
    const resume = this.kind === "sse" && this.lastEventId !== "" ? { "last-event-id": this.lastEventId } : {};
    await new Promise<void>((resolve) => {
      const since = this.kind === "ndjson" && this.lastEventId !== "" ? `&since=${this.lastEventId}` : "";
      const url = `http://${this.server.address}/stream/${this.id}?format=json${since}`;
      const request = http.get(url, { headers: { accept, ...resume } }, (response) => {
        let rest = "";
        response.on("close", () => this.noteAnswer(response.statusCode, rest));
        response.setEncoding("utf8");
        response.on("data", (chunk: string) => {
          const lines = (rest + chunk).split("\n");
          rest = lines.pop() ?? "";
          for (const line of lines) this.takeLine(line);
        });
        response.on("close", resolve);
      });
      request.on("error", () => resolve());
      this.close = () => request.destroy();
    });
  }

  /** @param text the answer, or the last line of it */
  private noteAnswer(status: number | undefined, text: string): void {
    if (status !== 200 && !isLoading(status, text)) this.faults.push(`${this.kind} was answered ${status} ${text}`);
  }

  private takeLine(line: string): void {
    if (line.startsWith("id: ")) this.lastEventId = line.slice(4);
    else if (line.startsWith("{")) this.take(JSON.parse(line) as Frame);
    else if (line.startsWith("data: {")) this.take(JSON.parse(line.slice(6)) as Frame);
  }

  private take(frame: Frame): void {
    const number = frame.n ?? frame.message?.n ?? frame.data?.n;
    if (number === undefined) return;
    if (this.kind === "ndjson") this.lastEventId = frame.id ?? "";
    this.deliveries++;
    // A connection begins at the cursor, which is behind what came at most; from there on each number is the next.
    if (this.inThis > 0 && number !== this.inThis + 1)
      this.faults.push(`${this.kind} got ${number} after ${this.inThis}`);
    if (number > this.highest + 1) this.faults.push(`${this.kind} got ${number} and never ${this.highest + 1}`);
    this.inThis = number;
    if (number <= this.highest) this.duplicates++;
    if (number <= this.confirmed)
      this.faults.push(`${this.kind} got ${number} again, and had confirmed ${this.confirmed}`);
    this.highest = Math.max(this.highest, number);
    if (this.waiting && this.highest >= this.waiting.number) this.waiting.resolve();
  }
}

interface Frame {
  readonly id?: string;
  readonly n?: number;
  readonly message?: { readonly n?: number };
  readonly data?: { readonly n?: number };
}
