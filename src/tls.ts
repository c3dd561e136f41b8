import { readFileSync, unwatchFile, watchFile } from "node:fs";
import { createSecureContext, type SecureContextOptions, type Server } from "node:tls";
import { SettingsError } from "./config.js";

/** Milliseconds between two looks at the files: by time, as they may be links that are turned elsewhere. */
const LOOK_EVERY = 1000;

/** A certificate and its key in files that change while the server runs: certificates live for weeks. */
export class CertificateFiles {
  constructor(
    private readonly certPath: string,
    private readonly keyPath: string,
  ) {}

  /** @throws {SettingsError} a file can not be read, or the two do not belong together */
  read(): SecureContextOptions {
    const context = { cert: readPem("--tls-cert", this.certPath), key: readPem("--tls-key", this.keyPath) };
    try {
      createSecureContext(context);
    } catch (error) {
      const reason = (error as Error).message;
      throw new SettingsError(`--tls-cert, --tls-key: not a certificate and its key: ${reason}`, { cause: error });
    }
    return context;
  }

  /** New connections get what is in the files now. @throws {SettingsError} as `read`; then all stays as it is */
  reload(server: Server): void {
    server.setSecureContext(this.read());
  }

  /** Calls back when a file has changed. @returns how to stop that */
  watch(changed: () => void): () => void {
    const paths = [this.certPath, this.keyPath];
    for (const path of paths) watchFile(path, { interval: LOOK_EVERY, persistent: false }, changed);
    return () => {
      for (const path of paths) unwatchFile(path, changed);
    };
  }
}

function readPem(flag: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new SettingsError(`${flag}: ${(error as Error).message}`, { cause: error });
  }
}
