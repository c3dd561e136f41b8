import { onTestFinished } from "vitest";
import { Inbox } from "./socket.js";

/** A line of JSON. */
const LINE = /([^\n]*)\n/y;

/** A server-sent event; or a line before one that belongs to none: a comment, or `retry`. */
const BLOCK = /((?::|retry:)[^\n]*)\n|([^]*?)\n\n/y;

/** A response that does not end, as blocks of text: server-sent events, or lines. */
export class Stream extends Inbox<string> {
  constructor(
    readonly response: Response,
    private readonly abort: AbortController,
    block: RegExp,
  ) {
    super();
    void this.read(block).then(
      () => this.end("response ended"),
      () => this.end("aborted"),
    );
  }

  close(): void {
    this.abort.abort();
  }

  private async read(block: RegExp): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.response.body ?? []) {
      rest += decoder.decode(chunk, { stream: true });
      block.lastIndex = 0;
      let end = 0;
      for (let found = block.exec(rest); found; found = block.exec(rest)) {
        this.push(found[1] ?? found[2] ?? "");
        end = block.lastIndex;
      }
      rest = rest.slice(end);
    }
  }
}

export async function openStream(url: string, headers: Record<string, string> = {}): Promise<Stream> {
  const abort = new AbortController();
  onTestFinished(() => abort.abort());
  const response = await fetch(url, { headers, signal: abort.signal });
  const lines = response.headers.get("content-type")?.includes("ndjson") ?? false;
  return new Stream(response, abort, new RegExp(lines ? LINE : BLOCK));
}
