// The text splits before byte-level BPE, by the names that GGUF files use for them. Sources: llama.cpp's src/llama-vocab.cpp for the names, the
// models' own tokenizer.json for the patterns.

/** A pre-tokenizer as a node of tokenizer.json. */
export type PreTokenizerNode = Readonly<Record<string, unknown>>;

/** GPT-2's pattern, which `ByteLevel` with `use_regex` applies. */
export const GPT2_SPLIT = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+";
const REST = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const LLAMA3_SPLIT = `${WORDS}|\\p{N}{1,3}|${REST}`;
const QWEN2_SPLIT = `${WORDS}|\\p{N}|${REST}`;
const TEKKEN_SPLIT = "[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+" +
  "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*" +
  "|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const UPPER = "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]", LOWER = "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]";
const SHORT_FORMS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?";
const GPT4O_SPLIT = `[^\\r\\n\\p{L}\\p{N}]?${UPPER}*${LOWER}+${SHORT_FORMS}` +
  `|[^\\r\\n\\p{L}\\p{N}]?${UPPER}+${LOWER}*${SHORT_FORMS}` +
  "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

/** A family of byte-level BPE vocabularies. */
export interface PreTokenizerFamily {
  /** Values of `tokenizer.ggml.pre` that mean this family; the first is the one written. */
  readonly names: readonly string[];
  /** The split, as in tokenizer.json. */
  readonly node: PreTokenizerNode;
  /** Whether a word that is a token stays whole although no merges lead to it. */
  readonly ignoreMerges: boolean;
  /** Whether BOS is added where the file does not say. */
  readonly addBos: boolean;
}

/** All families that can be read from a GGUF. */
export const PRE_TOKENIZER_FAMILIES: readonly PreTokenizerFamily[] = [
  family(["gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "gigachat", "a.x-4.0", "mellum", "exaone4"], [
    byteLevel(true),
  ]),
  family(["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"], [
    { type: "Digits", individual_digits: true },
    byteLevel(true),
  ]),
  family(
    ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"],
    [split(LLAMA3_SPLIT), byteLevel(false)],
    true,
    true,
  ),
  family(["dbrx", "smaug-bpe"], [split(LLAMA3_SPLIT), byteLevel(false)]),
  family(["qwen2", "deepseek-r1-qwen", "stablelm2", "hunyuan", "megrez"], [split(QWEN2_SPLIT), byteLevel(false)]),
  family(["tekken"], [split(TEKKEN_SPLIT), byteLevel(false)], true, true),
  family(["gpt-4o", "llama4", "kanana2"], [split(GPT4O_SPLIT), byteLevel(false)]),
  // What llama.cpp does where the file names no split.
  family(["default"], [
    split("[\\p{P}\\$\\+<=>\\^~\\|]+"),
    split(GPT2_SPLIT),
    split("\\p{N}+"),
    split("[0-9][0-9][0-9]"),
    byteLevel(false),
  ]),
];

/** The family that a `tokenizer.ggml.pre` names, or null. */
export function familyByName(pre: string): PreTokenizerFamily | null {
  return PRE_TOKENIZER_FAMILIES.find(({ names }) => names.includes(pre)) ?? null;
}

/**
 * The family whose splits equal those of a tokenizer.json, or null. Options that do not change the tokens are not
 * compared.
 */
export function familyByNode(node: unknown, ignoreMerges: boolean): PreTokenizerFamily | null {
  const wanted = fingerprint(node);
  const found = PRE_TOKENIZER_FAMILIES.filter((candidate) => fingerprint(candidate.node) === wanted);
  return found.find((candidate) => candidate.ignoreMerges === ignoreMerges) ?? null;
}

/** A `Split` that isolates each match of a pattern. */
export function split(pattern: string): PreTokenizerNode {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

/** A `ByteLevel` node, with or without GPT-2's pattern. */
export function byteLevel(useRegex: boolean): PreTokenizerNode {
  return { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: useRegex };
}

function family(
  names: readonly string[],
  steps: readonly PreTokenizerNode[],
  ignoreMerges = false,
  addBos = false,
): PreTokenizerFamily {
  const [only] = steps;
  const node = steps.length === 1 && only ? only : { type: "Sequence", pretokenizers: steps };
  return { names, node, ignoreMerges, addBos };
}

/**
 * A text that is equal for nodes that split alike: sequences flattened, GPT-2's pattern spelled out, single digits as a
 * split.
 */
function fingerprint(node: unknown): string {
  return JSON.stringify(steps(node));
}

function steps(node: unknown): unknown[] {
  if (node === null || typeof node !== "object") return [];
  const step = node as Record<string, unknown>;
  switch (step["type"]) {
    case "Sequence":
      return Array.isArray(step["pretokenizers"]) ? step["pretokenizers"].flatMap(steps) : ["?"];
    case "ByteLevel":
      if (step["add_prefix_space"] === true) return ["prefix", "bytes"];
      return step["use_regex"] === false ? ["bytes"] : [GPT2_SPLIT, "bytes"];
    case "Digits":
      return [step["individual_digits"] === true ? "\\p{N}" : "\\p{N}+"];
    case "Split": {
      const pattern = step["pattern"] as Record<string, unknown> | undefined;
      const regex = pattern?.["Regex"];
      // A pattern that matches everything splits the same whether matches are isolated or, inverted, kept.
      const isolated = step["behavior"] === "Isolated" && step["invert"] !== true;
      const kept = step["behavior"] === "Removed" && step["invert"] === true;
      return [typeof regex === "string" && (isolated || kept) ? regex : JSON.stringify(step)];
    }
    default:
      return [JSON.stringify(step)];
  }
}
