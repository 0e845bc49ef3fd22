// The programs that load a model's files, as far as they were tried.
import { CompressoError } from "../core/errors.ts";
import { ggufArch, slidingWindows } from "../formats/gguf/architecture.ts";
import { ggufDifferences } from "../formats/gguf/tokenizer_export.ts";
import type { GgufArch } from "../formats/families.ts";
import { formOf, type HfForm } from "../formats/hf/export.ts";
import { type DecoderSpec, hasBias } from "../spec/decoder.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
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

/** The forms in which other programs than transformers were tried. */
const WIDELY_TRIED: readonly HfForm[] = ["llama", "mistral", "qwen2", "qwen3"];

/**
 * Programs that load a folder.
 *
 * mlx-lm and vLLM derive the head width of a Qwen2 from the hidden size, as most of its configurations do not state it.
 * They were not tested with windows.
 */
export function folderPrograms(form: HfForm, { hidden, headDim, layers }: DecoderSpec): string[] {
  const [first] = layers;
  if (form === "compresso") return REMOTE_CODE;
  if (form === "ministral") return STOCK_5;
  const isNarrow = form === "qwen2" && first?.heads !== hidden / headDim;
  const others = isNarrow || !WIDELY_TRIED.includes(form) || layers.some(({ window }) => window !== undefined);
  return others ? TRANSFORMERS_ALONE : STOCK;
}

const LLAMA = ["llama.cpp", "node-llama-cpp"];

/** Programs that load a GGUF, with what each ignores of the model. */
export function ggufPrograms(
  arch: GgufArch,
  { spec, tokenizer }: { readonly spec: DecoderSpec; readonly tokenizer: Tokenizer | null },
): string[] {
  const others = tokenizer === null ? [] : ggufDifferences(tokenizer), [window] = slidingWindows(spec);
  const texts = others.length === 0 ? [] : [`${others.join(" and ")}, as the folder's tokenizer does not`];
  const limits = window === undefined || arch === "gemma2" || arch === "gemma3" ? [] : [
    `only for contexts of at most ${window} tokens: it ignores the sliding window of this architecture`,
  ];
  return ggufLoaders(arch, spec).map((program) => {
    const notes = program === "compresso" ? texts : [...texts, ...limits];
    return notes.length === 0 ? program : `${program} (${notes.join("; ")})`;
  });
}

/** Before its pull request 21245, llama.cpp supported query biases only if their number equals the hidden size. */
function ggufLoaders(arch: GgufArch, spec: DecoderSpec): string[] {
  const { hidden, headDim, layers } = spec;
  const isNew = (arch === "llama" || arch === "deci") && hasBias(spec, "q") &&
    layers.some(({ heads }) => heads > 0 && heads * headDim !== hidden);
  const loaders = isNew ? ["llama.cpp since its pull request 21245", "node-llama-cpp 3.22.1"] : LLAMA;
  if (arch !== "deci" && arch !== "openelm") return [...loaders, "compresso"];
  return [`${loaders.join(" and ")}, as architecture ${arch}: its layers differ`, "compresso"];
}

/** Files of a cut, and what will load them. */
export interface ExpectedPrograms {
  /** Programs that load the folder. */
  readonly folder: readonly string[];
  /** Programs that load the GGUF; null where this layout of the family has none. */
  readonly gguf: readonly string[] | null;
  /** Whether layers will have different widths. */
  readonly differ: boolean;
}

/** What loads the files of a cut in a layout, before it is known which units go: layers of a compact cut will differ. */
export function expectedPrograms(
  spec: DecoderSpec,
  { layout, units }: { readonly layout: Layout; readonly units: readonly string[] },
): ExpectedPrograms {
  const differ = layout === "compact" && spec.layers.length > 1 && units.some((unit) => WITHIN_LAYERS.includes(unit));
  const layers = spec.layers.map((layer, index) => differ && index === 0 ? { ...layer, ffn: layer.ffn - 1 } : layer);
  const after = { ...spec, layers };
  return { folder: folderPrograms(formOf(after), after), gguf: expectedGguf(after), differ };
}

/** Units whose cut gives layers different widths. */
const WITHIN_LAYERS: readonly string[] = ["heads", "kv", "ffn"];

function expectedGguf(spec: DecoderSpec): string[] | null {
  try {
    return ggufPrograms(ggufArch(spec), { spec, tokenizer: null });
  } catch (error) {
    if (error instanceof CompressoError && error.code === "input") return null;
    throw error;
  }
}
