// All formats, and their mutants by seed and number.
import { DATA_FORMATS } from "./data_formats.ts";
import type { Case, Files, Format } from "./format.ts";
import { HUB_FORMATS } from "./hub_formats.ts";
import { LARGE_FORMATS } from "./large_formats.ts";
import { MODEL_FORMATS } from "./model_formats.ts";
import { Draw } from "./mutate.ts";

/** All formats. */
export const FORMATS: readonly Format[] = [...MODEL_FORMATS, ...DATA_FORMATS, ...LARGE_FORMATS, ...HUB_FORMATS];

/** A mutant: files of which one is changed, and the random numbers that go on from there. */
export interface Mutant {
  readonly files: Files;
  readonly draw: Draw;
  /** Path of the changed file. */
  readonly path: string;
}

/** Makes mutant number `number` of a format's undamaged files. */
export function mutantOf(
  cases: readonly Case[],
  { seed, number }: { readonly seed: number; readonly number: number },
): Mutant {
  const draw = new Draw(seed, number), one = cases[number % cases.length];
  const path = draw.pick(Object.keys(one?.mutators ?? {})), mutate = one?.mutators[path], file = one?.files.get(path);
  if (!one || !mutate || !file) throw new Error(`there is no ${path} to change`);
  return { files: new Map(one.files).set(path, mutate(file, draw)), draw, path };
}
