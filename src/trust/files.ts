import { statSync } from "node:fs";

/** A file or directory that other users of the machine can read. */
export interface Readable {
  /** As `chmod` takes it, such as 644. */
  readonly mode: string;
  readonly command: string;
}

/**
 * Whether other users of the machine can read a secret file, or look into a directory of such files.
 * @returns undefined when they can not, or when there is no way to tell
 */
export function readableByOthers(path: string): Readable | undefined {
  // Windows has no such modes.
  if (!process.getuid) return undefined;
  const found = statSync(path, { throwIfNoEntry: false });
  if (!found) return undefined;
  const look = found.isDirectory() ? 0o5 : 0o4;
  // A file of somebody else's may be shared with the relay by its group: then the group is meant to read it.
  const group = found.uid === process.getuid() ? look << 3 : 0;
  if ((found.mode & (look | group)) === 0) return undefined;
  const who = group === 0 ? "o" : "go";
  return { mode: (found.mode & 0o777).toString(8), command: `chmod ${who}-rwx '${path}'` };
}
