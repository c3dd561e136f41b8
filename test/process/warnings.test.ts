import { chmodSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { selfSigned } from "../support/certificate.js";
import { temporaryDirectory } from "../support/directory.js";
import { RelayProcess } from "../support/process.js";

/** What a relay logs at its start. */
async function said(args: string[]): Promise<string> {
  const relay = new RelayProcess(["--listen", "127.0.0.1:0", ...args]);
  await relay.address();
  relay.child.kill("SIGTERM");
  return (await relay.ended).stderr;
}

test("secrets that other users of the machine can read are named at the start, with the command that mends it", async () => {
  const directory = temporaryDirectory();
  const [keys, tlsCert, tlsKey, dataDir] = ["keys", "cert", "key", "data"].map((name) => `${directory}/${name}`) as [
    string,
    string,
    string,
    string,
  ];
  const { cert, key } = selfSigned("localhost");
  writeFileSync(keys, "a:a-secret-that-nobody-guesses\n");
  writeFileSync(tlsCert, cert);
  writeFileSync(tlsKey, key);
  mkdirSync(dataDir);
  const args = ["--api-keys-file", keys, "--tls-cert", tlsCert, "--tls-key", tlsKey, "--data-dir", dataDir];
  const secrets = { "--data-dir": dataDir, "--api-keys-file": keys, "--tls-key": tlsKey };
  for (const [files, directories, isSaid] of [
    [0o644, 0o755, true],
    [0o640, 0o750, true],
    [0o600, 0o700, false],
  ] as const) {
    for (const path of [keys, tlsKey]) chmodSync(path, files);
    chmodSync(dataDir, directories);
    chmodSync(tlsCert, 0o644);
    const log = await said(args);
    expect(log).not.toContain("--tls-cert");
    for (const [flag, path] of Object.entries(secrets)) {
      const mode = (path === dataDir ? directories : files).toString(8);
      const warning = `${flag}: other users of this machine can read ${path} (mode ${mode}): chmod go-rwx '${path}'`;
      if (isSaid) expect(log).toContain(warning);
      else expect(log).not.toContain(flag);
    }
  }
});

test("a directory that the relay makes itself is nobody else's", async () => {
  const dataDir = `${temporaryDirectory()}/data`;
  expect(await said(["--data-dir", dataDir])).not.toContain("can read");
  expect(existsSync(dataDir)).toBe(true);
  expect(await said(["--data-dir", dataDir])).not.toContain("can read");
});

test("an open relay that expects a proxy, or has a public URL, says at the start that it needs keys", async () => {
  const memory = ["--engine", "memory"];
  expect(await said([...memory, "--trust-proxy"])).toContain("--trust-proxy without keys");
  expect(await said([...memory, "--public-url", "https://relay.example"])).toContain("--public-url without keys");
  for (const quiet of [
    ["--public-url", "http://localhost:8080/relay"],
    ["--trust-proxy", "--insecure-open"],
  ]) {
    expect(await said([...memory, ...quiet])).not.toContain("without keys: through a proxy");
  }
});
