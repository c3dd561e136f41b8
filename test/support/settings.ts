import { parseSettings, type SettingsInput } from "../../src/config.js";
import type { RelaySettings } from "../../src/core/relay.js";

/** What a relay without a server around it needs to know. */
export function relaySettings(given: SettingsInput = {}): RelaySettings {
  return { ...parseSettings(given), limited: () => undefined, contested: () => undefined };
}
