import type { HappeningName, Observer } from "../../src/core/observer.js";

const NAMES: Record<HappeningName, true> = {
  "client.registered": true,
  "client.connected": true,
  "client.disconnected": true,
  "client.expired": true,
  "client.removed": true,
  "client.contested": true,
  "event.published": true,
  "event.delivered": true,
  "event.confirmed": true,
  "gap.said": true,
  "limit.reached": true,
  "auth.failed": true,
  "lobby.message": true,
};

/** All that an observer is told from now on, in order: each with its name. */
export function heard(observer: Pick<Observer, "on">): [HappeningName, object][] {
  const all: [HappeningName, object][] = [];
  for (const name of Object.keys(NAMES) as HappeningName[]) {
    observer.on(name, (happening) => void all.push([name, happening]));
  }
  return all;
}

/** Resolves with the next happening of that name. */
export function next(observer: Pick<Observer, "on">, name: HappeningName): Promise<object> {
  return new Promise((resolve) => {
    const stop = observer.on(name, (happening) => {
      stop();
      resolve(happening);
    });
  });
}
