export { topicRelay as default, topicRelay, type TopicRelayOptions } from "./plugin.js";
export { RelayError, type ErrorCode } from "./core/errors.js";
export { SettingsError } from "./config.js";
export { MemoryEngine } from "./engines/memory.js";
export type { Engine } from "./core/engine.js";
