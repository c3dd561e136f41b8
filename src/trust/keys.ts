import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";

/** What a key is good for; see docs/PROTOCOL.md for which request needs which. */
export const SCOPES = ["register", "publish", "admin"] as const;
export type Scope = (typeof SCOPES)[number];

/** An API key, without its secret: what is kept is good for comparing, and for nothing else. */
export interface ApiKey {
  readonly name: string;
  readonly scopes: ReadonlySet<Scope>;
  /** SHA-256 of the secret. */
  readonly digest: Buffer;
  /** Whether the secret is long enough not to be guessed. */
  readonly strong: boolean;
}

/** Characters of a secret below which it is said to be weak: 128 bits in base64. */
const STRONG = 22;

/** Random bytes of a new secret. */
const SECRET_BYTES = 32;

/** What is wrong with a key as it was written. Never says the secret. */
export class KeyFault extends Error {}

/**
 * @param text `NAME:SECRET[:SCOPE+SCOPE]`; without scopes: all
 * @throws {KeyFault}
 */
export function parseKey(text: string): ApiKey {
  const [name = "", secret = "", scopes, ...more] = text.split(":");
  // What stands where the name should be may be the secret, when the name was forgotten: it is not repeated.
  const isScopes = scopes === undefined && secret.split("+").every((word) => SCOPES.includes(word as Scope));
  if (secret === "" || isScopes || more.length > 0) throw new KeyFault("is not NAME:SECRET[:SCOPE+SCOPE]");
  if (!/^[\w.@-]{1,64}$/.test(name)) {
    throw new KeyFault("has no name of up to 64 letters, digits, `_`, `-`, `.` or `@`");
  }
  if (!/^[\x21-\x7e]+$/.test(secret)) throw new KeyFault("has a secret with other than printable ASCII");
  const given = scopes === undefined ? SCOPES : scopes.split("+");
  const unknown = given.find((scope) => !SCOPES.includes(scope as Scope));
  if (unknown !== undefined) throw new KeyFault(`has a scope that is none of ${SCOPES.join(", ")}`);
  return { name, scopes: new Set(given as Scope[]), digest: digestOf(secret), strong: secret.length >= STRONG };
}

/** A new key as it is written in a file, a flag or a variable. */
export function newKey(name: string, scopes: readonly Scope[]): string {
  const key = `${name}:${randomBytes(SECRET_BYTES).toString("base64url")}:${scopes.join("+")}`;
  parseKey(key);
  return key;
}

/** The keys that there are: those that were given, and those of a file, which may be read anew. */
export class ApiKeys {
  private readonly listeners = new Set<() => void>();
  /** The last reading of the file: the next one waits for it, so that the latest wins. */
  private reading: Promise<void> = Promise.resolve();

  private constructor(
    private readonly given: readonly ApiKey[],
    private readonly file: string | undefined,
    private known: readonly ApiKey[],
  ) {}

  /**
   * @param file a path; a key a line, empty lines and those that begin with `#` are skipped
   * @throws {KeyFault} a bad line; no key at all
   * @throws {NodeJS.ErrnoException} the file can not be read
   */
  static async load(given: readonly ApiKey[], file?: string): Promise<ApiKeys> {
    const keys = new ApiKeys(given, file, []);
    await keys.reload();
    return keys;
  }

  get all(): readonly ApiKey[] {
    return this.known;
  }

  get names(): ReadonlySet<string> {
    return new Set(this.known.map(({ name }) => name));
  }

  /** The key with this secret. Takes as long whatever the secret is, and however much of it is right. */
  find(secret: string): ApiKey | undefined {
    const digest = digestOf(secret);
    let found: ApiKey | undefined;
    for (const key of this.known) if (timingSafeEqual(key.digest, digest)) found = key;
    return found;
  }

  /** The key as it is now; undefined when it is there no more. */
  current(key: ApiKey): ApiKey | undefined {
    return this.known.find(({ digest }) => digest.equals(key.digest));
  }

  /** Reads the file anew; when that fails, everything stays as it is. @throws as `load` */
  async reload(): Promise<void> {
    const next = this.reading.then(() => this.read());
    this.reading = next.catch(() => undefined);
    return next;
  }

  private async read(): Promise<void> {
    const read = this.file === undefined ? [] : parseFile(await readFile(this.file, "utf8"));
    const keys = [...this.given, ...read];
    if (keys.length === 0) throw new KeyFault("there are no keys");
    const seen = new Set<string>();
    for (const { name, digest } of keys) {
      const secret = digest.toString("base64");
      if (seen.has(secret)) throw new KeyFault(`${name} has the secret of another key`);
      seen.add(secret);
    }
    this.known = keys;
    for (const listener of this.listeners) listener();
  }

  /** Calls back after each reload. @returns how to stop that */
  onReload(listener: () => void): () => void {
    this.listeners.add(listener);
    return () => void this.listeners.delete(listener);
  }
}

function parseFile(text: string): ApiKey[] {
  return text.split(/\r?\n/).flatMap((line, index) => {
    const key = line.trim();
    if (key === "" || key.startsWith("#")) return [];
    try {
      return parseKey(key);
    } catch (error) {
      throw new KeyFault(`line ${index + 1}: ${(error as Error).message}`, { cause: error });
    }
  });
}

/** SHA-256: what is kept of a secret. */
export function digestOf(secret: string): Buffer {
  return createHash("sha256").update(secret).digest();
}
