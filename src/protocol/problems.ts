import { z } from "zod";

/** How many wrong fields an answer tells of. */
export const MAX_FIELD_ERRORS = 20;

const fieldError = z
  .strictObject({
    path: z.string().describe("Where the field is, with dots; empty for the whole body"),
    message: z.string(),
  })
  .describe("What is wrong with one field");
export type FieldError = z.infer<typeof fieldError>;

/** What programs look at. */
const problemCode = z
  .enum([
    "bad_request",
    "unauthorized",
    "forbidden",
    "not_found",
    "method_not_allowed",
    "too_large",
    "unsupported_media_type",
    "idempotency_key_reused",
    "upgrade_required",
    "too_many",
    "internal",
    "unavailable",
  ])
  .describe("What went wrong, for programs");
export type ProblemCode = z.infer<typeof problemCode>;

export const problem = z
  .strictObject({
    type: z.literal("about:blank"),
    title: z.string().describe("The name of the status"),
    status: z.int().min(400).max(599),
    detail: z.string().describe("What went wrong, for people"),
    code: problemCode,
    errors: z.array(fieldError).max(MAX_FIELD_ERRORS).optional().describe("The fields that are wrong, if any are"),
  })
  .describe("RFC 9457 problem details: the body of every HTTP error");
export type Problem = z.infer<typeof problem>;

export const errorFrame = z
  .strictObject({
    id: z.union([z.string(), z.number()]).optional().describe("The request's id, if it had one that could be read"),
    type: z.literal("error"),
    error: z.strictObject({
      code: problemCode,
      message: z.string().describe("What was wrong, and where"),
    }),
  })
  .describe("The answer to a frame that the relay could not understand or do. It changed nothing");
export type ErrorFrame = z.infer<typeof errorFrame>;
