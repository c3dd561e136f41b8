import { parseSettings, type SettingsInput } from "../../src/config.js";
import { Observer } from "../../src/core/observer.js";
import type { RelaySettings } from "../../src/core/relay.js";

/** An observer whose listeners must not fail. */
export function strictObserver(): Observer {
  return new Observer((error) => {
    throw error;
  });
}

/** What a relay without a server around it needs to know. */
export function relaySettings(given: SettingsInput = {}, observer = strictObserver()): RelaySettings {
  return { ...parseSettings(given), observer };
}
