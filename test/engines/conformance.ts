import { describe } from "vitest";
import { testClients } from "./conformance/clients.js";
import { testEvents } from "./conformance/events.js";
import { testOrder } from "./conformance/order.js";
import { testRelays } from "./conformance/relays.js";
import type { MakeLog, Power } from "./conformance/support.js";

/**
 * What every engine has to do: see `Engine` for the contract in words.
 * @param powers the optional ones that it has
 */
export function testEngine(name: string, make: MakeLog, powers: readonly Power[]): void {
  describe(`engine ${name}`, () => {
    testOrder(make);
    testEvents(make, powers);
    testClients(make, powers);
    testRelays(make, powers);
  });
}
