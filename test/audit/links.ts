import http from "node:http";
import { WebSocket } from "ws";
import type { LinkFormat, Since } from "./records.js";

/** What the other end of a connection does. Each is called in the order of the bytes. */
export interface LinkEvents {
  opened(gap: boolean): void;
  /** Something can be sent. */
  ready(): void;
  refused(status: number, body: string): void;
  received(number: number, id: string | undefined): void;
  /** The connection is certainly held by the client: what it asked for on connecting is done. */
  settled(): void;
  gapNoted(): void;
  answered(id: string, frame: { data?: unknown; error?: unknown }): void;
  ping(payload: string): void;
  /** The answer to the oldest text `ping` that was not answered yet. */
  pong(): void;
  /** @param code of the relay's close frame; undefined: there was none */
  ended(code: number | undefined, reason: string): void;
}

/** What a client can do with its end. */
export interface LinkEnd {
  send(text: string): void;
  pong(payload: string): void;
  close(): void;
  cut(): void;
  pause(): void;
  resume(): void;
}

interface Frame {
  readonly type?: string;
  readonly id?: string;
  readonly relayid?: string;
  readonly n?: number;
  readonly message?: { readonly n: number };
  readonly data?: { readonly n?: number; readonly event?: string; readonly gap?: boolean };
  readonly error?: unknown;
}

export interface LinkOptions {
  readonly address: string;
  readonly client: string;
  readonly format: LinkFormat;
  readonly streamFormat: "raw" | "json";
  readonly manual: boolean;
  readonly since: Since | undefined;
  /** Says `since` by the header. */
  readonly byHeader: boolean;
  /** Cut when the answer to the upgrade is there. */
  readonly cutAtOnce: boolean;
}

function sinceText(since: Since): string {
  if (typeof since === "string") return since;
  return "id" in since ? since.id : `${since.ago}ms`;
}

function addressOf({ client, format, streamFormat, manual, since, byHeader }: LinkOptions): {
  path: string;
  headers: Record<string, string>;
} {
  const isStream = format === "sse" || format === "ndjson";
  const query = new URLSearchParams({ format: isStream ? streamFormat : format });
  const headers: Record<string, string> = {};
  if (manual) query.set("ack", "manual");
  if (since !== undefined && byHeader && typeof since === "object" && "id" in since)
    headers["last-event-id"] = since.id;
  else if (since !== undefined) query.set("since", sinceText(since));
  if (isStream) headers["accept"] = format === "sse" ? "text/event-stream" : "application/x-ndjson";
  return { path: `/${isStream ? "stream" : "ws"}/${client}?${query}`, headers };
}

/** Reads one JSON text of any format. */
function take(text: string, streamId: string | undefined, events: LinkEvents): void {
  const frame = JSON.parse(text) as Frame;
  if (frame.type === "notification") {
    if (frame.data?.event === "connected" && frame.data.gap) events.opened(true);
    if (frame.data?.event === "gap") events.gapNoted();
    return events.settled();
  }
  if (frame.type === "response" || frame.type === "error") return events.answered(frame.id ?? "", frame);
  const number = frame.n ?? frame.message?.n ?? frame.data?.n;
  if (number === undefined) throw new Error(`a frame that is none: ${text.slice(0, 200)}`);
  events.received(number, frame.relayid ?? (frame.message ? frame.id : streamId));
}

export function openLink(options: LinkOptions, events: LinkEvents): LinkEnd {
  return options.format === "sse" || options.format === "ndjson"
    ? openStream(options, events)
    : openSocket(options, events);
}

function openSocket(options: LinkOptions, events: LinkEvents): LinkEnd {
  const { path, headers } = addressOf(options);
  const settings = { headers, autoPong: false, perMessageDeflate: false, handshakeTimeout: 10_000 };
  const socket = new WebSocket(`ws://${options.address}${path}`, settings);
  socket.on("upgrade", (response) => {
    events.opened(response.headers["relay-gap"] === "true");
    if (options.cutAtOnce) socket.terminate();
  });
  socket.on("open", () => events.ready());
  socket.on("unexpected-response", (_request, response) => {
    let body = "";
    response.on("data", (chunk: Buffer) => (body += chunk.toString()));
    response.on("close", () => {
      events.refused(response.statusCode ?? 0, body);
      socket.terminate();
    });
  });
  socket.on("message", (data) => {
    const text = (data as Buffer).toString();
    if (text === "pong") events.pong();
    else take(text, undefined, events);
  });
  socket.on("ping", (payload) => events.ping(payload.toString()));
  socket.on("error", () => undefined);
  socket.on("close", (code, reason) =>
    events.ended(code === 1006 || code === 1005 ? undefined : code, reason.toString()),
  );
  const isOpen = (): boolean => socket.readyState === WebSocket.OPEN;
  return {
    send: (text) => void (isOpen() && socket.send(text)),
    pong: (payload) => void (isOpen() && socket.pong(payload)),
    close: () => socket.close(1000),
    cut: () => socket.terminate(),
    pause: () => socket.pause(),
    resume: () => socket.resume(),
  };
}

function openStream(options: LinkOptions, events: LinkEvents): LinkEnd {
  const { path, headers } = addressOf(options);
  let response: http.IncomingMessage | undefined;
  let isOver = false;
  const end = (): void => {
    if (!isOver) events.ended(undefined, "");
    isOver = true;
  };
  const request = http.get(`http://${options.address}${path}`, { headers, agent: false }, (answer) => {
    response = answer;
    let rest = "";
    let id: string | undefined;
    let isNamed = false;
    const line = (text: string): void => {
      // The relay names only what it says itself: that it restarts.
      if (text.startsWith("event: ")) isNamed = true;
      if (text === "") isNamed = false;
      if (isNamed) return;
      if (text.startsWith("id: ")) id = text.slice(4);
      else if (text.startsWith("data: ")) take(text.slice(6), id, events);
      else if (text.startsWith("{")) take(text, undefined, events);
      if (text === "") id = undefined;
      if (text.startsWith("data: ") || text.startsWith("{")) events.settled();
    };
    if (answer.statusCode === 200) events.opened(answer.headers["relay-gap"] === "true");
    if (options.cutAtOnce) request.destroy();
    answer.setEncoding("utf8");
    answer.on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      if (answer.statusCode === 200) for (const each of lines) line(each);
    });
    answer.on("error", () => undefined);
    answer.on("close", () => {
      if (answer.statusCode !== 200) events.refused(answer.statusCode ?? 0, rest);
      end();
    });
  });
  request.on("error", end);
  request.on("close", end);
  return {
    send: () => undefined,
    pong: () => undefined,
    close: () => void request.destroy(),
    cut: () => void request.destroy(),
    pause: () => void response?.pause(),
    resume: () => void response?.resume(),
  };
}
