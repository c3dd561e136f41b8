import { once } from "node:events";
import net from "node:net";
import { onTestFinished } from "vitest";

/** A bare connection: bytes go out as they are, and all that comes back is kept until the other end closes. */
export class Bare {
  text = "";
  readonly closed: Promise<string>;

  private constructor(readonly socket: net.Socket) {
    socket.on("data", (chunk: Buffer) => (this.text += chunk.toString("latin1")));
    socket.on("error", () => socket.destroy());
    this.closed = new Promise((resolve) => socket.once("close", () => resolve(this.text)));
    onTestFinished(() => void socket.destroy());
  }

  static async open(http: string): Promise<Bare> {
    const { hostname, port } = new URL(http);
    const socket = net.connect({ port: Number(port), host: hostname, noDelay: true });
    await once(socket, "connect");
    return new Bare(socket);
  }

  /** A WebSocket that sends nothing by itself, not even pongs. */
  static async webSocket(http: string, path: string, ...headers: string[]): Promise<Bare> {
    const bare = await Bare.open(http);
    bare.write(`${upgrade(path, ...headers)}\r\n\r\n`);
    await bare.until("\r\n\r\n");
    return bare;
  }

  write(bytes: string | Uint8Array): void {
    this.socket.write(bytes);
  }

  /** Resolves when this text has come. @throws when the connection closes before */
  async until(text: string): Promise<string> {
    while (!this.text.includes(text)) {
      if (this.socket.destroyed) throw new Error(`closed after ${this.text}`);
      await Promise.race([once(this.socket, "data"), this.closed]);
    }
    return this.text;
  }
}

/** A request as it is written, and the whole answer. */
export async function ask(http: string, request: string): Promise<string> {
  const bare = await Bare.open(http);
  bare.write(request);
  return bare.until("\r\n\r\n").then((text) => {
    bare.socket.destroy();
    return text;
  });
}

/** An upgrade request, without the empty line at its end. */
export function upgrade(path: string, ...headers: string[]): string {
  return [
    `GET ${path} HTTP/1.1`,
    "Host: localhost",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ...headers,
  ].join("\r\n");
}
