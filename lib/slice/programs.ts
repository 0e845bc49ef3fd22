// The programs that load a model's files; only tested programs are listed.
import { CompressoError } from "../core/errors.ts";
import { ggufArch, slidingWindows } from "../formats/gguf/architecture.ts";
import { ggufDifferences } from "../formats/gguf/tokenizer_export.ts";
import { familyFor } from "../families/all.ts";
import type { Family } from "../families/family.ts";
import type { GgufArch } from "../families/gguf_arch.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { cutsAt, type UnitKind } from "../units/kinds/all.ts";
import type { Layout } from "../units/layout.ts";

const STOCK = [
  "transformers: AutoModelForCausalLM.from_pretrained(folder)",
  "mlx-lm",
  "vLLM (by its source code; not tried)",
  "compresso",
];
const TRANSFORMERS_ALONE = STOCK.filter((program) => /^(transformers|compresso)/.test(program));
const STOCK_5 = ["transformers 5: AutoModelForCausalLM.from_pretrained(folder)", "compresso"];
const REMOTE_CODE = [
  "transformers 4.54 or later: AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True), and AutoTokenizer alike",
  "PEFT, on the model that transformers loaded",
  "compresso",
];

/** Programs that load a folder of a family. Other programs than transformers were not tested with windows. */
export function folderPrograms({ remoteCode, programs }: Family, spec: DecoderSpec): readonly string[] {
  if (remoteCode) return REMOTE_CODE;
  if (programs === "transformers 5") return STOCK_5;
  const isWide = typeof programs === "function" ? programs(spec) : programs === "widely";
  return isWide && spec.layers.every(({ window }) => window === undefined) ? STOCK : TRANSFORMERS_ALONE;
}

const LLAMA_CPP = ["llama.cpp", "node-llama-cpp"];

/** Programs that load a GGUF, each with the parts of the model that it ignores. */
export function ggufPrograms(
  arch: GgufArch,
  { spec, tokenizer }: { readonly spec: DecoderSpec; readonly tokenizer: Tokenizer | null },
): string[] {
  const others = tokenizer === null ? [] : ggufDifferences(tokenizer), [window] = slidingWindows(spec);
  const texts = others.length === 0 ? [] : [`${others.join(" and ")}, as the folder's tokenizer does not`];
  const limits = window === undefined || arch.windows ? [] : [
    `only for contexts of at most ${window} tokens: it ignores the sliding window of this architecture`,
  ];
  return ggufLoaders(arch, spec).map((program) => {
    const notes = program === "compresso" ? texts : [...texts, ...limits];
    return notes.length === 0 ? program : `${program} (${notes.join("; ")})`;
  });
}

function ggufLoaders({ arch, programs, uneven }: GgufArch, spec: DecoderSpec): string[] {
  const loaders = programs?.(spec) ?? LLAMA_CPP;
  return uneven
    ? [`${loaders.join(" and ")}, as architecture ${arch}: its layers differ`, "compresso"]
    : [...loaders, "compresso"];
}

/** Files of a cut, and what will load them. */
export interface ExpectedPrograms {
  /** Programs that load the folder. */
  readonly folder: readonly string[];
  /** Programs that load the GGUF; null if no GGUF exists for this layout of the family. */
  readonly gguf: readonly string[] | null;
  /** Whether layers will have different widths. */
  readonly differ: boolean;
}

/**
 * Programs that will load the files of a layout, before units are chosen. Layers of a compact cut count as different.
 */
export function expectedPrograms(
  spec: DecoderSpec,
  { layout, units }: { readonly layout: Layout; readonly units: readonly UnitKind[] },
): ExpectedPrograms {
  const differ = layout === "compact" && spec.layers.length > 1 && (cutsAt("attention", units) || cutsAt("ffn", units));
  const layers = spec.layers.map((layer, index) => differ && index === 0 ? { ...layer, ffn: layer.ffn - 1 } : layer);
  const after = { ...spec, layers };
  return { folder: folderPrograms(familyFor(after), after), gguf: expectedGguf(after), differ };
}

function expectedGguf(spec: DecoderSpec): string[] | null {
  try {
    return ggufPrograms(ggufArch(spec), { spec, tokenizer: null });
  } catch (error) {
    if (error instanceof CompressoError && error.code === "input") return null;
    throw error;
  }
}
