// How many tokens a run keeps: as asked, as many as its size allows, or as many as vocabulary and layers share best.
import { CompressoError, option, refusal } from "../core/errors.ts";
import type { ModelFiles } from "../formats/open.ts";
import { shallowPlan } from "../slice/layouts.ts";
import type { VocabularyChoice } from "../slice/vocabulary/choose.ts";
import { cutSpec } from "../slice/vocabulary/cut_source.ts";
import { cutTokenizer } from "../slice/vocabulary/cut_tokenizer.ts";
import { parameterCount } from "../spec/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { fileBytes } from "../units/file_size.ts";
import type { ResolvedOptions } from "./options/options.ts";
import { GGUF_NAME, type KnownSize } from "./size_goal.ts";

/** The number of tokens to keep. */
export function vocabularySize(
  files: ModelFiles & { readonly tokenizer: Tokenizer },
  choice: VocabularyChoice,
  { vocab, size: wanted, units }: Pick<ResolvedOptions, "vocab" | "size" | "units">,
): number {
  const asked = vocab?.size ?? null, { tokens, least } = choice;
  if (asked !== null) return choice.sizeOf(asked);
  const isAlone = units.length === 1;
  if (wanted === null) return choice.sizeOf(undefined);
  const bytes = (size: number): number => sizeWith(files, choice.kept(size), wanted);
  const whole = bytes(tokens), most = "parameters" in wanted ? wanted.parameters : wanted.bytes;
  if (!isAlone) return sharedSize(choice, { most, whole, smallest: bytes(least) });
  const found = largestWithin(most, bytes, { low: least, high: tokens });
  if (most < whole && bytes(found) <= most) return found;
  throw unreachable(wanted, { whole, least: bytes(least), most });
}

/** Growth of the loss per byte for each share by which a text grows in tokens. */
const TOKEN_COST = 2;
/** Range of the share of the layers that a run may cut with the vocabulary. */
const LAYER_SHARES = { least: 0.02, most: 0.95 } as const;

/**
 * The number of tokens for which vocabulary and layers together are expected to cost least at a size. Per byte, the loss
 * grows with the tokens of the texts, `TOKEN_COST` · growth, and with the share s of the layers that has to go, about
 * s / (1 − s); see docs/evidence/vocabulary.md. Sizes between the smallest and the whole are interpolated.
 */
export function sharedSize(
  { tokens, least, growth }: Pick<VocabularyChoice, "tokens" | "least" | "growth">,
  { most, whole, smallest }: { readonly most: number; readonly whole: number; readonly smallest: number },
): number {
  const row = (whole - smallest) / Math.max(1, tokens - least), layers = whole - row * tokens;
  let best = tokens, lowest = Infinity;
  for (let size = tokens; size >= least; size--) {
    const share = (whole - row * (tokens - size) - most) / layers;
    if (share < LAYER_SHARES.least) break;
    if (share > LAYER_SHARES.most) continue;
    const cost = TOKEN_COST * growth(size) + share / (1 - share);
    if (cost < lowest) [best, lowest] = [size, cost];
  }
  return best;
}

/** The largest number from `low` to `high` whose size is within a limit; `low` where none is. Sizes grow nearly in a line. */
function largestWithin(
  limit: number,
  sizeOf: (count: number) => number,
  range: { readonly low: number; readonly high: number },
): number {
  let { low, high } = range, below = sizeOf(low), above = sizeOf(high);
  if (above <= limit) return high;
  for (let round = 0; high - low > 1 && below <= limit; round++) {
    // The line through both ends; where the ends come closer from one side alone, the middle.
    const share = round % 4 === 3 ? 0.5 : (limit - below) / (above - below);
    const next = Math.min(high - 1, Math.max(low + 1, Math.floor(low + share * (high - low)))), size = sizeOf(next);
    if (size <= limit) [low, below] = [next, size];
    else [high, above] = [next, size];
  }
  return low;
}

function unreachable(
  wanted: KnownSize,
  { whole, least, most }: { readonly whole: number; readonly least: number; readonly most: number },
): CompressoError {
  const unit = "parameters" in wanted ? "parameters" : "bytes";
  return refusal("usage", `cannot cut the vocabulary to this number of ${unit}`, {
    rule: `it is below the model's own ${whole.toLocaleString("en")}, and at least ${least.toLocaleString("en")}`,
    value: most.toLocaleString("en"),
    fix: `give a number in that range, or add kinds to ${option("units")}`,
    option: unit === "parameters" ? "size.parameters" : "size.bytes",
  });
}

/** Parameters, or bytes of the file, of the model with so many tokens and all of its layers. */
function sizeWith(
  { source, tokenizer }: ModelFiles & { readonly tokenizer: Tokenizer },
  kept: Int32Array,
  wanted: KnownSize,
): number {
  const spec = cutSpec(source.spec, kept);
  if ("parameters" in wanted) return parameterCount(spec);
  const { file, name = GGUF_NAME } = wanted;
  const content = { tokenizer: file.format === "gguf" ? cutTokenizer(tokenizer, kept) : null, name };
  return fileBytes(shallowPlan(spec).spec, file, { ...content, provenance: source.provenance });
}
