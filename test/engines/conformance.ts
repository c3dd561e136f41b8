import { describe } from "vitest";
import { testClients } from "./conformance/clients.js";
import { testEvents } from "./conformance/events.js";
import { testOrder } from "./conformance/order.js";
import { testRelays } from "./conformance/relays.js";
import type { MakeLog } from "./conformance/support.js";

/** What every engine has to do: see `Engine` for the contract in words. */
export function testEngine(name: string, make: MakeLog): void {
  describe(`engine ${name}`, () => {
    testOrder(make);
    testEvents(make);
    testClients(make);
    testRelays(make);
  });
}
