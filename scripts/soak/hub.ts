// A hostile Hub: mutated lists, heads and bodies. Each ends in a named error, or in the right bytes, in bounded time and memory.
import { CompressoError } from "../../lib/core/errors.ts";
import { fetchFromHub } from "../../lib/hub/fetch.ts";
import { viewHub } from "../../lib/hub/view.ts";
import { bytes, Draw, json, oneOf } from "../../tests/fuzz/mutate.ts";
import { demoFiles, HubRig } from "../../tests/hub/helpers.ts";
import { below, type Bounds, type Loop, type Tally } from "./loop.ts";

/** Seconds and MiB that an answer may take. */
const MOST_SECONDS = 90, MOST_MEBIBYTES = 600;

const PLACES = [/\/revision\//, /\/tree\//, /\/resolve\//];
const HEADERS = ["link", "content-range", "location", "etag", "x-linked-etag", "x-linked-size", "retry-after"];
const VALUES = [
  "",
  "http://[bad",
  '<http://[bad>; rel="next"',
  "bytes 0-1/2",
  "-1",
  "1e99",
  "file:///etc/passwd",
  "//",
  "\u00e9",
];
const STATUSES = [200, 200, 200, 206, 302, 401, 403, 404, 416];

const mutate = oneOf(json, bytes());

export const HUB: Loop = {
  name: "hub",
  promise: "answers of a hostile Hub end in a named error, within 90 s and 600 MiB",
  async run(tally: Tally, { until }: Bounds): Promise<void> {
    const seed = below(2 ** 31), files = demoFiles();
    tally.count(`(seed ${seed})`);
    for (let number = 0; performance.now() < until; number++) {
      await using rig = new HubRig();
      const draw = new Draw(seed, number), name = `maker/mutant-${number}`, id = `models/${name}`;
      rig.hub.add(id, files);
      const path = PLACES[draw.below(PLACES.length)] ?? /tree/, header = HEADERS[draw.below(HEADERS.length)] ?? "";
      const status = STATUSES[draw.below(STATUSES.length)] ?? 200, hasHeader = draw.below(3) === 0;
      const body = mutate(bodyOf(rig, id, path), draw), value = VALUES[draw.below(VALUES.length)] ?? "";
      const headers = { "content-type": "application/json", ...hasHeader ? { [header]: value } : {} };
      rig.hub.faults.push({ path, times: 99, answer: () => new Response(body.slice(), { status, headers }) });
      const start = performance.now();
      const error: unknown =
        await (number % 2 === 0 ? fetchFromHub(`hf:${name}`) : viewHub(`hf:${name}`, { use: "model" })).then(
          () => null,
          (error) => error,
        );
      const seconds = (performance.now() - start) / 1000, mebibytes = Deno.memoryUsage().rss / 2 ** 20;
      tally.count(error === null ? "taken" : "refused");
      tally.check(
        (error === null || error instanceof CompressoError) && seconds < MOST_SECONDS && mebibytes < MOST_MEBIBYTES,
        `mutant ${number} of seed ${seed}, ${path}: ${seconds.toFixed(1)} s, ${mebibytes.toFixed(0)} MiB, ${error}`,
      );
    }
  },
};

/** What the Hub would answer, near enough to be mutated. */
function bodyOf({ hub }: HubRig, id: string, path: RegExp): Uint8Array<ArrayBuffer> {
  const files = hub.repos.get(id)?.files ?? new Map<string, Uint8Array<ArrayBuffer>>();
  if (path.source.includes("resolve")) return files.get("config.json") ?? new Uint8Array();
  const list = [...files].map(([path, { length: size }]) => ({ type: "file", path, size, oid: "0".repeat(40) }));
  return new TextEncoder().encode(JSON.stringify(path.source.includes("tree") ? list : { sha: hub.commit(id) }));
}
