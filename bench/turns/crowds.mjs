// Cases in which much is due at the same moment.
import { setTimeout as sleep } from "node:timers/promises";

const HALF_MILLION = 500_000;
/** Seconds. */
const RETENTION = 10;

export const groups = [
  {
    cases: {
      "1,000 clients reconnect at once": async (relay, round) => {
        if (round === 0) relay.clients = await relay.registerMany(1000, () => ({ topics: ["all"] }));
        await relay.publishMany(10, (index) => ({ topic: "all", message: index }));
        return () => relay.connectMany(relay.clients, "");
      },
      "2,000 clients end in the same second": async (relay) => {
        const end = Math.ceil(Date.now() / 1000) + 4;
        // Whole seconds, so their ends are spread over the time that registering takes; the relay takes what ends in a
        // second together.
        await relay.registerMany(2000, () => ({
          ttl: Math.max(1, end - Math.floor(Date.now() / 1000)),
          topics: ["all"],
        }));
        return () => sleep(end * 1000 + 3000 - Date.now());
      },
    },
  },
  {
    flags: ["--retention-age", `${RETENTION}s`, "--retention-bytes", "1GiB"],
    cases: {
      "500,000 events pass the retention age": async (relay) => {
        await relay.publishMany(HALF_MILLION, () => ({ topic: "short", message: 1 }));
        return () => sleep((RETENTION + 3) * 1000);
      },
    },
    rounds: 1,
  },
];
