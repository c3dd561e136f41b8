import { isLoopback } from "../config.js";

/** Whether a page of this origin may use the relay. @param allowed origins, `loopback` or `*` */
export function isAllowedOrigin(origin: string, allowed: readonly string[]): boolean {
  if (allowed.includes("*") || allowed.includes(origin)) return true;
  if (!allowed.includes("loopback") || !URL.canParse(origin)) return false;
  const { hostname } = new URL(origin);
  return isLoopback(hostname.replaceAll(/^\[|\]$/g, ""));
}
