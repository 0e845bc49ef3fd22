// Checks that all ranks do the same work.
import { refuse } from "../core/errors.ts";
import type { Ranks } from "./ranks.ts";

/**
 * Compares facts with those of rank 0, by name. All ranks call it.
 *
 * @throws CompressoError("mismatch") on all ranks if the facts of one differ, naming these.
 */
export async function checkAlike(ranks: Ranks, facts: Readonly<Record<string, unknown>>): Promise<void> {
  const { rank, size } = ranks, text = JSON.stringify(facts), first = await ranks.textOf(0, text);
  const differs = new Float32Array(size);
  differs[rank] = text === first ? 0 : 1;
  const odd = (await ranks.sum([differs])).findIndex((count) => count > 0);
  if (odd < 0) return;
  refuse("mismatch", `rank ${odd} of ${size} cannot work with the others`, {
    rule: "all ranks have the same options, data, version and kind of adapter",
    value: await ranks.textOf(odd, differences(JSON.parse(text), JSON.parse(first))),
    fix: "start all ranks with the same command on machines that are alike",
  });
}

type Facts = Readonly<Record<string, unknown>>;

function differences(own: Facts, first: Facts): string {
  const words = (value: unknown): string => JSON.stringify(value) ?? "none";
  return Object.keys({ ...first, ...own }).filter((name) => words(own[name]) !== words(first[name]))
    .map((name) => `${name}: ${words(own[name])}, on rank 0 ${words(first[name])}`).join("; ");
}
