// Requests over bare sockets: the load must cost less than what is measured.
import { once } from "node:events";
import net from "node:net";
import tls from "node:tls";

/** One keep-alive connection that makes one request at a time. */
export class Requests {
  /** @param options `from`: another address of this machine; `secure`: whether it speaks TLS */
  static async open(port, { from, secure = false } = {}) {
    const requests = new Requests();
    const end = { port, host: "127.0.0.1", localAddress: from };
    requests.socket = secure ? tls.connect({ ...end, rejectUnauthorized: false }) : net.connect(end);
    requests.socket.setNoDelay(true);
    requests.buffer = "";
    requests.socket.setEncoding("latin1");
    requests.socket.on("data", (chunk) => requests.take(chunk));
    requests.socket.on("error", (error) => requests.reject?.(error));
    requests.socket.on("close", () => requests.reject?.(new Error("closed")));
    await once(requests.socket, secure ? "secureConnect" : "connect");
    return requests;
  }

  /** A request as bytes, to be sent many times. @param headers further ones */
  static make(path, body, type = "application/json", { method = "POST", headers = {} } = {}) {
    const content = Buffer.from(body);
    const lines = Object.entries({ host: "localhost", ...(body && { "content-type": type }), ...headers });
    const head = `${method} ${path} HTTP/1.1\r\n${lines.map(([name, value]) => `${name}: ${value}\r\n`).join("")}`;
    return Buffer.concat([Buffer.from(`${head}content-length: ${content.length}\r\n\r\n`), content]);
  }

  /** Sends a request; resolves with the whole response when its status begins so. */
  send(bytes, status = "200") {
    this.expected = status;
    this.socket.write(bytes);
    return new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
  }

  close() {
    this.socket.destroy();
  }

  take(chunk) {
    this.buffer += chunk;
    if (this.length === undefined) {
      const end = this.buffer.indexOf("\r\n\r\n");
      if (end < 0) return;
      this.status = this.buffer.slice(9, 12);
      this.length = end + 4 + Number(/content-length: (\d+)/i.exec(this.buffer.slice(0, end))[1]);
    }
    if (this.buffer.length < this.length) return;
    const body = this.buffer.slice(0, this.length);
    this.buffer = this.buffer.slice(this.length);
    this.length = undefined;
    if (this.status.startsWith(this.expected)) this.resolve(body);
    else this.reject(new Error(body));
  }
}
