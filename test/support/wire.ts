import { expect } from "vitest";
import type { z } from "zod";
import { ACTIONS, type Action, problem, type ServerFrame, serverFrame } from "../../src/protocol.js";
import type { Frames } from "./socket.js";

/**
 * The value, when the schema knows all of it. A schema that takes any field as well would prove nothing: it has to refuse
 * one more.
 */
export function exactly<T>(schema: z.ZodType<T>, value: unknown): T {
  const { data, error } = schema.safeParse(value);
  if (error) throw new Error(`${JSON.stringify(value)}: ${error.message}`);
  if (!Array.isArray(value)) expect(schema.safeParse({ ...(value as object), unheard_of: 1 }).success).toBe(false);
  return data;
}

/** The body of a good answer. */
export async function bodyOf<T>(schema: z.ZodType<T>, answer: Promise<Response>): Promise<T> {
  const response = await answer;
  const text = await response.text();
  if (response.status !== 200) throw new Error(text);
  return exactly(schema, JSON.parse(text));
}

/** The body of a refusal. */
export async function problemOf(answer: Promise<Response>) {
  const response = await answer;
  const body = exactly(problem, await response.json());
  expect(response.headers.get("content-type")).toMatch(/^application\/problem\+json/);
  expect(body.status).toBe(response.status);
  return body;
}

/** Which of the frames of the format `json` it is. */
export function kindOf(frame: ServerFrame): string {
  return frame.type === "notification" ? frame.data.event : frame.type;
}

export function frameOf(text: string): ServerFrame {
  return exactly(serverFrame, JSON.parse(text));
}

/** The next frame, which is of this kind. */
export async function next(client: Frames, kind: string): Promise<ServerFrame> {
  const frame = frameOf(await client.next());
  expect([kindOf(frame), frame]).toEqual([kind, frame]);
  return frame;
}

/** Asks for something, and takes the frames up to the response. @returns its data */
export async function act(client: Frames, action: Action, payload?: unknown): Promise<unknown> {
  client.say({ id: action, type: "request", action, payload });
  for (;;) {
    const frame = frameOf(await client.next());
    if (frame.type === "error") throw new Error(frame.error.message);
    if (frame.type === "response") return exactly(ACTIONS[action].data as z.ZodType, frame.data);
  }
}
