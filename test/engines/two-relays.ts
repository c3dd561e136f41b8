import { afterAll, beforeAll, describe } from "vitest";
import { testClients, testLimits } from "./two-relays/clients.js";
import { testDelivery } from "./two-relays/delivery.js";
import { testEnds } from "./two-relays/ends.js";
import type { Pair } from "./two-relays/scene.js";
import type { Site } from "./two-relays/site.js";

/**
 * What two relays on one log do together, as clients and publishers see it.
 * @param open a log of its own
 */
export function testTwoRelays(name: string, open: () => Promise<Site>, { canKill = false } = {}): void {
  describe(`two relays ${name}`, () => {
    const sites: Site[] = [];
    const start = async (settings: object = {}): Promise<Pair> => {
      const site = await open();
      sites.push(site);
      const [here, there] = await Promise.all([site.start(settings), site.start(settings)]);
      return { site, here, there };
    };
    let shared: Pair | undefined;
    const pair = (): Pair => shared as Pair;
    beforeAll(async () => {
      shared = await start();
    });
    afterAll(() => Promise.all(sites.map((site) => site.close())));
    testDelivery(pair);
    testClients(pair);
    testLimits(start);
    testEnds(pair, canKill);
  });
}
