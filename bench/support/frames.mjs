// A WebSocket client over a bare socket that only counts: the load must cost less than what is measured.
import net from "node:net";

const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
const TEXT = 0x81;

/** Connects and reads until `expected` text frames have come. @returns milliseconds that it took */
export function readFrames(port, path, expected) {
  return new Promise((resolve, reject) => {
    const start = performance.now();
    const socket = net.connect(port, "127.0.0.1");
    let rest = Buffer.alloc(0);
    let open = false;
    let count = 0;
    socket.on("connect", () => {
      socket.write(
        `GET ${path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n` +
          `sec-websocket-version: 13\r\nsec-websocket-key: ${KEY}\r\n\r\n`,
      );
    });
    socket.on("data", (chunk) => {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      if (!open) {
        const end = rest.indexOf("\r\n\r\n");
        if (end < 0) return;
        if (!rest.subarray(0, 12).equals(Buffer.from("HTTP/1.1 101"))) return fail(rest.toString("latin1", 0, end));
        open = true;
        rest = rest.subarray(end + 4);
      }
      for (let size = frameSize(rest); size > 0 && size <= rest.length; size = frameSize(rest)) {
        if (rest[0] === TEXT) count++;
        rest = rest.subarray(size);
      }
      if (count < expected) return;
      resolve(performance.now() - start);
      socket.destroy();
    });
    const fail = (why) => {
      socket.destroy();
      reject(new Error(`${path}: ${why}`));
    };
    socket.on("error", (error) => fail(error.message));
    socket.on("close", () => fail(`closed after ${count} of ${expected} frames`));
  });
}

/** Bytes of the first frame, from a server; 0 when that is not known yet. */
function frameSize(bytes) {
  if (bytes.length < 2) return 0;
  const length = bytes[1] & 127;
  if (length < 126) return 2 + length;
  if (bytes.length < 10) return 0;
  return length === 126 ? 4 + bytes.readUInt16BE(2) : 10 + Number(bytes.readBigUInt64BE(2));
}
