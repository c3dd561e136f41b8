/** Whether a subscription matches a topic. Written anew from docs/PROTOCOL.md: the audit must not share the relay's mistakes. */
export function matches(subscription: string, topic: string): boolean {
  return covers(subscription, topic);
}

/** Whether a permission covers a topic, or every topic of a pattern. */
export function covers(permission: string, subscription: string): boolean {
  return coversSegments(permission.split("."), subscription.split("."));
}

export function matchesAny(subscriptions: readonly string[], topic: string): boolean {
  return subscriptions.some((subscription) => matches(subscription, topic));
}

/** The subscriptions that a client may keep. */
export function allowed(subscriptions: readonly string[], permissions: readonly string[] | undefined): string[] {
  return subscriptions.filter((name) => !permissions || permissions.some((permission) => covers(permission, name)));
}

function coversSegments([first, ...rest]: readonly string[], segments: readonly string[]): boolean {
  const [head, ...tail] = segments;
  if (first === ">") return head !== undefined;
  if (first === undefined || head === undefined) return first === head;
  if (head === ">") return false;
  return (first === "*" || first === head) && coversSegments(rest, tail);
}
