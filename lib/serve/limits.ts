// Limits of a request and of the server, with their defaults.
import { CompressoError } from "../core/errors.ts";
import { MOST_SEQUENCES } from "../nn/decode/batch.ts";
import { checkNames, type NamesOf, withoutUndefined } from "../core/check_options.ts";

/** Limits of a server. */
export interface ServeLimits {
  /** Bytes of a request's body. Default 2 MiB. */
  readonly bodyBytes: number;
  /** Tokens of a request: those of all its prompts, and those to generate for each. Default 65536. */
  readonly tokens: number;
  /** Requests that are answered at once, and texts that are decoded together, from 1 to 32. Default 8. */
  readonly parallel: number;
  /** Requests that wait for the GPU, beside those that are answered. Default 32. */
  readonly queue: number;
  /** Seconds of a request from its first byte to the last of its answer, waiting included. Default 300. */
  readonly seconds: number;
  /** Connections at once; a further one takes the place of the oldest that sends no request, or is closed. Default 256. */
  readonly connections: number;
  /** Seconds that a connection gets for its first or next head. Default 30. */
  readonly headSeconds: number;
  /** Seconds that running requests get to end when the server stops. Default 10. */
  readonly graceSeconds: number;
}

const LIMIT_NAMES: NamesOf<ServeLimits> = {
  ...{ bodyBytes: "number", tokens: "number", queue: "number", seconds: "number", graceSeconds: "number" },
  ...{ connections: "number", headSeconds: "number", parallel: "number" },
};
const DEFAULTS: ServeLimits = {
  bodyBytes: 2 ** 21,
  tokens: 65536,
  parallel: 8,
  queue: 32,
  seconds: 300,
  connections: 256,
  headSeconds: 30,
  graceSeconds: 10,
};

/** Limits with their defaults. Throws `CompressoError("usage")` for one out of range. */
export function resolveLimits(limits: Partial<ServeLimits> = {}): ServeLimits {
  checkNames(limits, LIMIT_NAMES, { whose: "serveModel's limits" });
  const resolved = { ...DEFAULTS, ...withoutUndefined(limits) };
  const { bodyBytes, tokens, parallel, queue, seconds, connections, headSeconds, graceSeconds } = resolved;
  if (!Number.isInteger(parallel) || parallel < 1 || parallel > MOST_SEQUENCES) {
    fail(`parallel is a whole number from 1 to ${MOST_SEQUENCES}`, parallel);
  }
  for (
    const [name, value, least] of [
      ["bodyBytes", bodyBytes, 1],
      ["tokens", tokens, 1],
      ["queue", queue, 0],
      ["connections", connections, 1],
    ] as const
  ) {
    if (!Number.isInteger(value) || value < least) fail(`${name} is a whole number, at least ${least}`, value);
  }
  // Timers take milliseconds below 2^31.
  if (!(seconds > 0 && seconds < 2e6)) fail("seconds is a number above 0 and below 2000000", seconds);
  if (!(headSeconds > 0 && headSeconds < 2e6)) fail("headSeconds is a number above 0 and below 2000000", headSeconds);
  if (!(graceSeconds >= 0 && graceSeconds < 2e6)) {
    fail("graceSeconds is a number from 0 to below 2000000", graceSeconds);
  }
  return resolved;
}

function fail(rule: string, value: number): never {
  const fix = "change it, or leave it out for the default";
  throw new CompressoError("usage", { what: "cannot serve within these limits", rule, value: String(value), fix });
}
