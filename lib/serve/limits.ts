// Limits of a request and of the server, with their defaults.
import { MOST_SEQUENCES } from "../nn/decode/batch.ts";
import { checkNames, count, type NamesOf, withoutUndefined } from "../core/check_options.ts";

/** Limits of a server. */
export interface ServeLimits {
  /** Bytes of a request's body. Default 2 MiB. */
  readonly bodyBytes: number;
  /** Tokens of a request: those of all its prompts, and those to generate for each. Default 65536. */
  readonly tokens: number;
  /** Requests that are answered at once, and texts that are decoded together, from 1 to 32. Default 8. */
  readonly parallel: number;
  /** Requests that wait for the GPU; requests being answered do not count. Default 32. */
  readonly queue: number;
  /** Seconds of a request from its first byte to the last of its answer, waiting included. Default 300. */
  readonly seconds: number;
  /** Connections at once. A further one takes the place of a connection that waits for its client, in the network with most connections. If there is no such place it is closed. Default 768. */
  readonly connections: number;
  /** Seconds that a connection gets for its first or next head. Default 30. */
  readonly headSeconds: number;
  /** Seconds that running requests get to end when the server stops. Default 10. */
  readonly graceSeconds: number;
}

/** Timers take milliseconds below 2^31. */
const SECONDS = { type: "number", below: 2e6 } as const;
const LIMIT_NAMES: NamesOf<ServeLimits> = {
  bodyBytes: count(1),
  tokens: count(1),
  parallel: count(1, MOST_SEQUENCES),
  queue: count(0),
  seconds: { ...SECONDS, above: 0 },
  connections: count(1),
  headSeconds: { ...SECONDS, above: 0 },
  graceSeconds: SECONDS,
};
const DEFAULTS: ServeLimits = {
  bodyBytes: 2 ** 21,
  tokens: 65536,
  parallel: 8,
  queue: 32,
  seconds: 300,
  connections: 768,
  headSeconds: 30,
  graceSeconds: 10,
};

/** Limits with their defaults. Throws `CompressoError("usage")` for one out of range. */
export function resolveLimits(limits: Partial<ServeLimits> = {}): ServeLimits {
  checkNames(limits, LIMIT_NAMES, { whose: "serveModel's limits" });
  return { ...DEFAULTS, ...withoutUndefined(limits) };
}
