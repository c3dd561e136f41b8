import { parseArgs } from "node:util";
import { parseSettings, SettingsError } from "./config.js";
import { KeyFault, newKey, type Scope, SCOPES } from "./trust/keys.js";
import { signToken } from "./trust/tokens.js";
import { parseDuration } from "./units.js";

/** `keys new [NAME] [--scopes register+publish]`: a line for the file or the setting. */
export function makeKey(args: readonly string[]): string {
  const { values, positionals } = parseArgs({
    args: [...args],
    options: { scopes: { type: "string", default: SCOPES.join("+") } },
    allowPositionals: true,
  });
  const [action, name = "backend", ...more] = positionals;
  if (action !== "new" || more.length > 0) throw new SettingsError("keys: say keys new [NAME] [--scopes A+B]");
  try {
    return newKey(name, values.scopes.split("+") as Scope[]);
  } catch (error) {
    if (error instanceof KeyFault) throw new SettingsError(`keys new: it ${error.message}`, { cause: error });
    throw error;
  }
}

/** `token --user USER …`: a token for trying, signed with the secret that the relay has. */
export async function makeToken(args: readonly string[], env: NodeJS.ProcessEnv): Promise<string> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      user: { type: "string" },
      topics: { type: "string" },
      subscribe: { type: "string" },
      publish: { type: "string" },
      expires: { type: "string", default: "1h" },
      "jwt-secret": { type: "string" },
      "jwt-audience": { type: "string" },
      "jwt-issuer": { type: "string" },
    },
  });
  const { user, topics, subscribe, publish, expires } = values;
  const { jwtSecret, jwtAudience, jwtIssuer } = parseSettings({
    jwtSecret: values["jwt-secret"] ?? (env["RELAY_JWT_SECRET"] || undefined),
    jwtAudience: values["jwt-audience"] ?? (env["RELAY_JWT_AUDIENCE"] || undefined),
    jwtIssuer: values["jwt-issuer"] ?? (env["RELAY_JWT_ISSUER"] || undefined),
  });
  const lifetime = parseDuration(expires);
  if (!jwtSecret) throw new SettingsError("token: set RELAY_JWT_SECRET (or --jwt-secret) to the relay's own");
  if (!user) throw new SettingsError("token: say whom it is for: --user USER");
  if (lifetime === undefined) throw new SettingsError("--expires: must be a duration such as 30s, 10m or 24h");
  const allow = { ...listed("subscribe", subscribe), ...listed("publish", publish) };
  const claims = {
    sub: user,
    ...listed("topics", topics),
    ...(Object.keys(allow).length > 0 && { allow }),
    ...(jwtAudience !== undefined && { aud: jwtAudience }),
    ...(jwtIssuer !== undefined && { iss: jwtIssuer }),
  };
  return signToken(jwtSecret, claims, lifetime / 1000);
}

function listed(name: string, text: string | undefined): Record<string, string[]> {
  return text === undefined ? {} : { [name]: text.split(",").filter(Boolean) };
}
