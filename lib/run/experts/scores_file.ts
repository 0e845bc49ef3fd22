// scores.json: how a model uses its experts, kept so that another share is cut without scoring again.
import { refuse } from "../../core/errors.ts";
import { z } from "../../core/packages.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import type { ExpertUse } from "../../slice/expert_use.ts";

/** Measures of the experts of one model, as scores.json holds them. */
export interface SavedScores {
  /** Digest of the model's weights. */
  readonly model: string;
  /** How rows used the experts; null where no method has measured it. */
  readonly use: ExpertUse | null;
  /** Mean square of the weights of each expert; null where no method has measured it. */
  readonly magnitude: readonly (readonly number[] | null)[] | null;
}

const values = z.array(z.number().nonnegative());

/** The schema of the use of experts. */
export const EXPERT_USE: z.ZodType<ExpertUse> = z.object({
  tokens: z.int().nonnegative(),
  layers: z.array(z.object({ tokens: values, weight: values, output: values }).nullable()),
});

const SAVED: z.ZodType<SavedScores> = z.object({
  model: z.string(),
  use: EXPERT_USE.nullable(),
  magnitude: z.array(values.nullable()).nullable(),
});

/**
 * Reads the text of a scores.json.
 *
 * @throws CompressoError("input") for text that is not such a file.
 */
export function parseScores(text: string, { path }: { readonly path: string }): SavedScores {
  const fail = (value: string): never =>
    refuse("input", `cannot use ${path}`, {
      rule: "it is a scores.json that a run with the unit experts has written",
      value,
    });
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error));
  }
  const { data, error } = SAVED.safeParse(json), [issue] = error?.issues ?? [];
  return data ?? fail(`${issue?.path.join(".") || "the whole"}: ${issue?.message ?? "it is not"}`);
}

/**
 * Checks that scores belong to a model.
 *
 * @throws CompressoError("mismatch") for those of another model.
 */
export function checkScores(
  { use, magnitude, model }: SavedScores,
  { layers }: Pick<DecoderSpec, "layers">,
  { digest }: { readonly digest: string },
): void {
  const fail = (rule: string, value: string): never =>
    refuse("mismatch", "cannot cut experts by these scores", {
      rule,
      value,
      fix: "score this model: leave the scores out, and give rows",
    });
  if (model !== digest) fail(`they are of the model with the digest ${digest}`, model);
  for (const given of [use?.layers, magnitude]) {
    if (!given) continue;
    if (given.length !== layers.length) fail(`there are ${layers.length} layers`, `scores of ${given.length}`);
    for (const [index, own] of given.entries()) {
      const count = layers[index]?.experts?.count ?? 0;
      const lists = own === null ? [] : Array.isArray(own) ? [own] : Object.values(own);
      const other = lists.find(({ length }) => length !== count);
      if ((own === null) !== (count === 0) || other) {
        fail(`layer ${index} has ${count} experts`, `scores of ${other?.length ?? lists[0]?.length ?? 0}`);
      }
    }
  }
}
