export { topicRelay as default, topicRelay, type TopicRelayOptions } from "./plugin.js";
export { RelayError, type ErrorCode } from "./core/errors.js";
export { SettingsError } from "./config.js";
export { MemoryEngine } from "./engines/memory.js";
export type * from "./core/engine.js";
export type { ClientId, ClientRecord, Progress } from "./core/client.js";
export type { Event, EventDraft, EventHead, UserId } from "./core/event.js";
export type { EventId } from "./core/id.js";
export type { Loading } from "./core/loading.js";
