import type { Engine } from "./core/engine.js";
import { RelayError } from "./core/errors.js";
import type { Loading, Progress } from "./core/loading.js";
import { Relay, type RelaySettings } from "./core/relay.js";

export interface StartupSteps {
  /** Opens the engine, which then ends with the relay. */
  readonly open: (loading: Loading) => Promise<Engine>;
  readonly settings: RelaySettings;
  /** The last thing before the relay can be used. */
  readonly prepare: (relay: Relay) => void;
}

/** A relay on its way up and down: its routes are there from the first moment on, and it loads meanwhile. */
export class Startup {
  /** Resolves when the relay has loaded. Rejects with what kept it from that. */
  readonly loaded: Promise<void>;
  private engine: Engine | undefined;
  private ready: Relay | undefined;
  private progress: Progress | undefined;
  private failed = false;
  private readonly end = new AbortController();

  constructor(steps: StartupSteps) {
    this.loaded = this.load(steps).catch((error: unknown) => {
      this.failed = true;
      throw error;
    });
    // Whoever makes requests is told, also when nobody waits for it.
    this.loaded.catch(() => undefined);
  }

  /** Why the relay can not be used; absent once it has loaded. */
  get fault(): RelayError | undefined {
    return this.ready ? undefined : new RelayError("unavailable", `the relay is not ready: ${this.state}`);
  }

  /** Why no request may begin now; absent while the relay can be used. */
  get refusal(): RelayError | undefined {
    return this.isStopped ? new RelayError("unavailable", "the relay is ending") : this.fault;
  }

  /** @throws {RelayError} unavailable: it has not loaded */
  get relay(): Relay {
    if (this.ready) return this.ready;
    throw this.fault as RelayError;
  }

  /** How far it is, as in `loading: reading clients, 31 %`: told to anybody, so without numbers of clients. */
  get state(): string {
    if (this.failed) return "loading: failed, and the relay's log says why";
    if (!this.progress) return "loading";
    const { step, done, of } = this.progress;
    return `loading: ${step}, ${Math.floor((100 * done) / Math.max(1, of))} %`;
  }

  /** Whether it was told to end. */
  get isStopped(): boolean {
    return this.end.signal.aborted;
  }

  /** Gives up loading, or ends the relay in good order. */
  async stop(): Promise<void> {
    this.end.abort();
    await this.loaded.catch(() => undefined);
    await this.ready?.stop();
  }

  /** To be called when nobody uses the relay any more. */
  async close(): Promise<void> {
    await this.engine?.close();
  }

  private async load({ open, settings, prepare }: StartupSteps): Promise<void> {
    const { signal } = this.end;
    const loading: Loading = { progress: (progress) => (this.progress = progress), signal };
    this.engine = await open(loading);
    signal.throwIfAborted();
    const relay = await Relay.start(this.engine, settings, loading);
    prepare(relay);
    this.ready = relay;
  }
}
