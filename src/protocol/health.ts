import { z } from "zod";

export const health = z.strictObject({ status: z.literal("ok") }).describe("`GET /health`: the process runs");
export type Health = z.infer<typeof health>;

export const readiness = z.strictObject({ status: z.literal("ready") }).describe("`GET /ready`: the relay can be used");
export type Readiness = z.infer<typeof readiness>;
