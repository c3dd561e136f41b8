import { onTestFinished } from "vitest";
import { Inbox } from "./socket.js";

/** A response that does not end, as blocks of text: server-sent events, or lines. */
export class Stream extends Inbox<string> {
  constructor(
    readonly response: Response,
    private readonly abort: AbortController,
    separator: string,
  ) {
    super();
    void this.read(separator).then(
      () => this.end("response ended"),
      () => this.end("aborted"),
    );
  }

  close(): void {
    this.abort.abort();
  }

  private async read(separator: string): Promise<void> {
    const decoder = new TextDecoder();
    let rest = "";
    for await (const chunk of this.response.body ?? []) {
      const blocks = (rest + decoder.decode(chunk, { stream: true })).split(separator);
      rest = blocks.pop() ?? "";
      for (const block of blocks) this.push(block);
    }
  }
}

export async function openStream(url: string, headers: Record<string, string> = {}): Promise<Stream> {
  const abort = new AbortController();
  onTestFinished(() => abort.abort());
  const response = await fetch(url, { headers, signal: abort.signal });
  const lines = response.headers.get("content-type")?.includes("ndjson") ?? false;
  return new Stream(response, abort, lines ? "\n" : "\n\n");
}
