import type { Encoder } from "./encoder.js";
import type { Disconnect } from "./notice.js";
import type { Sink } from "./outbox.js";

/** Closes a sink that is not a connection; its other end is told why first, if its format has words for it. */
export function refuse(sink: Sink, encoder: Encoder, disconnect: Disconnect): void {
  const frame = encoder.notice({ event: "disconnected", ...disconnect });
  if (frame) sink.write(frame);
  sink.close(disconnect);
}
