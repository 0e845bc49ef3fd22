// `compresso inspect MODEL`: what a model is, from its files alone.
import type { CommandUnknownOpts } from "../../packages.ts";
import { join } from "node:path";
import { CompressoError } from "../../../lib/core/errors.ts";
import { firstBytes } from "../../../lib/files/system.ts";
import { modelInfo, openModel, openWeights, readSpec } from "../../../lib/formats/open.ts";
import { SNIFFED_BYTES } from "../../../lib/formats/sniff.ts";
import { lookAt, type ModelView } from "../../../lib/local/open_model.ts";
import { promptStyle } from "../../../lib/data/prompts/encode.ts";
import { isObject } from "../../../lib/core/guards.ts";
import { type Tokenizer, UNCUT_KEY } from "../../../lib/text/tokenizer.ts";
import type { WeightSource } from "../../../lib/spec/source.ts";
import {
  type DecoderSpec,
  embeddingWidth,
  type LayerSpec,
  linearCount,
  parameterCount,
  tensorShapes,
  windowsOf,
} from "../../../lib/spec/decoder.ts";
import { expectedPrograms } from "../../../lib/slice/programs.ts";
import { verifies } from "../../hub.ts";
import { programAsRun, shellWord, verb } from "../../command.ts";
import { addFlags, type FlagTable, JSON_FLAG } from "../../options/flags.ts";
import { formatBytes, formatCount, formatShare, print, printJson } from "../../terminal/output.ts";
import { EXPERT_FLAGS, type ExpertFacts, expertFacts, expertLines } from "./experts.ts";

const FLAGS = { ...EXPERT_FLAGS, json: JSON_FLAG } as const satisfies FlagTable;

/** Declares the verb. */
export function inspect(): CommandUnknownOpts {
  const command = verb("inspect", {
    description: "Show a model's layers, parameters, stored types and tokenizer. Only --experts needs a GPU.",
    examples: ["inspect demo", "inspect path/to/model.gguf --json", "inspect path/to/moe.gguf --experts rows.jsonl"],
  }).argument(
    "<model>",
    "a Hugging Face folder, or its config.json alone; a .gguf file; hf:owner/name[:file]; or demo",
  );
  return addFlags(command, FLAGS).action(async (model, { json, ...flags }) => {
    const experts = await expertFacts(model, flags), found = await describe(model);
    const facts: Facts = { ...found, experts, next: nextSteps(found) };
    if (json) printJson(facts);
    else show(facts);
  });
}

const FORMAT_NAMES = { hf: "Hugging Face folder", gguf: "GGUF", config: "config.json alone" } as const;

interface Facts {
  readonly model: string;
  readonly format: keyof typeof FORMAT_NAMES;
  /** Of all files. */
  readonly bytes: number;
  readonly parameters: number;
  /** Parameters of the layers' linear weights, which sparsity is a share of. */
  readonly prunable: number;
  readonly spec: DecoderSpec;
  /** Parameters by stored dtype. */
  readonly dtypes: Readonly<Record<string, number>>;
  readonly tokenizer: TokenizerFacts | Unread | null;
  /** How data use the experts; null where no data are given. */
  readonly experts: ExpertFacts | null;
  /** Commands to try next; the largest saving comes first. */
  readonly next: readonly NextStep[];
}

interface NextStep {
  /** Words after the program's name. TEXTS and ROWS stand for files of the user. */
  readonly command: readonly string[];
  /** Parameters that it removes, about. */
  readonly saves: number;
  /** What it cuts. */
  readonly cuts: string;
}

interface TokenizerFacts {
  readonly kind: string;
  readonly vocab: number;
  /** Tokens before the vocabulary was cut; null if it was not. */
  readonly uncutVocab: number | null;
  readonly style: string;
  readonly chatTemplate: boolean;
}

/** Why a tokenizer cannot be read; the rest of the model is shown all the same. */
interface Unread {
  readonly unread: string;
}

async function filesOf(
  { files, path }: ModelView,
): Promise<{ source: WeightSource; tokenizer: Tokenizer | Unread | null }> {
  try {
    return await openModel(files, path);
  } catch (error) {
    if (!(error instanceof CompressoError) || error.code !== "input") throw error;
    // Where the weights are at fault, opening them throws.
    return { source: await openWeights(files, path), tokenizer: { unread: error.message } };
  }
}

async function describe(model: string): Promise<Omit<Facts, "next" | "experts">> {
  const view = await lookAt(model, { verify: verifies() }),
    { files, path } = view,
    { isFolder } = await modelInfo(files, path);
  const bytes = view.bytes ?? await sizeOf(path);
  if (!isFolder && await isConfig(view)) {
    const shape = shapeOf(await readSpec(files, path));
    return { model, format: "config", bytes, ...shape, dtypes: {}, tokenizer: null };
  }
  const { source, tokenizer } = await filesOf(view);
  return {
    model,
    format: isFolder ? "hf" : "gguf",
    bytes,
    ...shapeOf(source.spec),
    dtypes: dtypesOf(source),
    tokenizer: tokenizer ? "unread" in tokenizer ? tokenizer : describeTokenizer(tokenizer) : null,
  };
}

/** Whether a file is JSON, as a config.json is. */
async function isConfig({ files, path }: ModelView): Promise<boolean> {
  const head = await firstBytes(await files.open(path), SNIFFED_BYTES);
  return new TextDecoder("latin1").decode(head).trimStart().startsWith("{");
}

function shapeOf(spec: DecoderSpec): Pick<Facts, "parameters" | "prunable" | "spec"> {
  return { parameters: parameterCount(spec), prunable: linearCount(spec), spec };
}

function dtypesOf(source: WeightSource): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const [name, shape] of tensorShapes(source.spec)) {
    const dtype = source.storedDtype(name);
    counts[dtype] = (counts[dtype] ?? 0) + shape.reduce((product, size) => product * size, 1);
  }
  return counts;
}

function describeTokenizer(tokenizer: Tokenizer): TokenizerFacts {
  const model = tokenizer.json["model"], uncut = tokenizer.config[UNCUT_KEY];
  return {
    kind: isObject(model) && typeof model["type"] === "string" ? model["type"] : "unknown",
    vocab: tokenizer.vocabSize,
    uncutVocab: typeof uncut === "number" ? uncut : null,
    style: promptStyle(tokenizer),
    chatTemplate: tokenizer.chatTemplate !== null,
  };
}

/** Bytes of a file, or of the files in a folder. Unreadable entries and links to folders do not count. */
async function sizeOf(path: string): Promise<number> {
  const info = await Deno.stat(path).catch(() => null);
  if (!info?.isDirectory) return info?.size ?? 0;
  let total = 0;
  try {
    for await (const { name, isSymlink } of Deno.readDir(path)) {
      const inner = join(path, name), isFolder = isSymlink && (await Deno.stat(inner).catch(() => null))?.isDirectory;
      if (!isFolder) total += await sizeOf(inner);
    }
  } catch { /* a folder that may not be read */ }
  return total;
}

/** Share of the layers' linear weights, and of the vocabulary, that the commands of {@link nextSteps} cut. */
const LAYERS_CUT = 0.2, VOCABULARY_CUT = 0.5;

/** Prunes that this model can take, with what they save. All need weights and a tokenizer. */
function nextSteps({ model, format, spec, prunable, tokenizer }: Omit<Facts, "next" | "experts">): NextStep[] {
  if (!tokenizer || "unread" in tokenizer || spec.router) return [];
  const steps: NextStep[] = [];
  if (tokenizer.uncutVocab === null) {
    const size = String(VOCABULARY_CUT), flags = ["--units", "vocab", "--vocab-size", size, "--vocab-data", "TEXTS"];
    steps.push({
      command: ["prune", model, ...flags, "--out", "runs/words"],
      saves: Math.round(VOCABULARY_CUT * vocabularyCount(spec)),
      cuts: "half of the vocabulary, without training",
    });
  }
  // A GGUF should give a GGUF: without one for layers that differ, all are cut alike.
  const hasCompact = expectedPrograms(spec, { layout: "compact", units: ["kv", "ffn"] }).gguf !== null;
  const layout = format === "gguf" && !hasCompact ? ["--units", "ffn", "--layout", "uniform"] : [];
  const size = ["--sparsity", String(LAYERS_CUT), ...layout];
  steps.push({
    command: ["prune", model, "--data", "ROWS", ...size, "--out", "runs/mine"],
    saves: Math.round(LAYERS_CUT * prunable),
    cuts: `${formatShare(LAYERS_CUT)} of the layers' linear weights, with training`,
  });
  return steps.sort((a, b) => b.saves - a.saves);
}

/** Parameters of embedding and head. */
function vocabularyCount(spec: DecoderSpec): number {
  return spec.vocab * embeddingWidth(spec) * (spec.tied ? 1 : 2);
}

function show(
  { model, format, bytes, parameters, prunable, spec, dtypes, tokenizer, experts: use, next }: Facts,
): void {
  const { layers } = spec;
  const types = Object.entries(dtypes).sort(([, a], [, b]) => b - a).map(([dtype, count]) => {
    const percent = Math.round(100 * count / parameters);
    return `${dtype} ${percent === 0 ? "under 1" : percent} %`;
  });
  print(`model       ${model} (${FORMAT_NAMES[format]}, ${formatBytes(bytes)})`);
  print(`parameters  ${formatCount(parameters)}, ${formatCount(prunable)} of them in the layers' linear weights`);
  if (format !== "config") print(`stored as   ${types.join(", ")}`);
  const { headDim, localHeadDim: local = headDim } = spec;
  const widths = local === headDim ? `${headDim}` : `${headDim} (${local} in layers with a window)`;
  print(`shape       ${layers.length} layers, hidden ${spec.hidden}, head_dim ${widths}, vocabulary ${spec.vocab}`);
  print(`context     ${spec.maxPosition} tokens, ${positionsLine(spec)}`);
  const experts = expertsLine(spec);
  if (experts) print(`experts     ${experts}`);
  const convolution = convolutionLine(spec);
  if (convolution) print(`convolution ${convolution}`);
  const window = windowLine(spec);
  if (window) print(`window      ${window}`);
  const { attention, logits } = spec.softCaps ?? {};
  const caps = [...attention ? [`scores ${attention}`] : [], ...logits ? [`logits ${logits}`] : []];
  if (caps.length > 0) print(`soft caps   ${caps.join(", ")}`);
  print(
    `head        ${spec.tied ? "tied to the embedding" : "separate"}; the vocabulary takes ${
      formatShare(vocabularyCount(spec) / parameters)
    } of the parameters`,
  );
  if (format !== "config") print(`tokenizer   ${tokenizerLine(tokenizer)}`);
  print();
  for (const line of layerBars(layers)) print(line);
  if (use) {
    print();
    for (const line of expertLines(use)) print(line);
  }
  if (next.length === 0) return;
  print();
  print("next");
  for (const { command, saves, cuts } of next) {
    print(`  about ${formatShare(saves / parameters)} fewer parameters: cut ${cuts}`);
    // A command to copy is not wrapped.
    print(`    ${[programAsRun(), ...command.map(shellWord)].join(" ")}`);
  }
}

/** The experts of the layers that have some; null in a dense model. Layers with the same experts are named once. */
function expertsLine({ layers, router }: DecoderSpec): string | null {
  if (!router) return null;
  const kinds = Map.groupBy(
    layers.flatMap(({ experts }) => experts ?? []),
    ({ count, ffn }) => `${count} of ${ffn} columns`,
  );
  const places = [...kinds].map(([kind, those]) => `${kind} in ${those.length} of ${layers.length} layers`);
  return `${places.join(", ")}; ${router.topK} for each token`;
}

/** The short convolutions, with their layers; null in a model without them. */
function convolutionLine({ layers, convolution }: DecoderSpec): string | null {
  if (!convolution) return null;
  const own = [...layers.entries()].filter(([, { conv }]) => conv).map(([index]) => index);
  return `short, of ${convolution.length} tokens, in place of attention in layers ${own.join(", ")}`;
}

/** How positions enter the model. */
function positionsLine({ positions, rope, headDim }: DecoderSpec): string {
  if (positions) return "learned positions";
  const { base, scaling, dims, localBase } = rope,
    part = dims === undefined ? "" : `, ${dims} of ${headDim} dims of a head`;
  const from = scaling.kind === "longrope" ? ` from ${scaling.originalMaxPosition} tokens` : "";
  const local = localBase === undefined ? "" : `; in layers with a window base ${localBase}, scaling none`;
  return `RoPE base ${base}, scaling ${scaling.kind}${from}${part}${local}`;
}

/** The sliding windows, with their layers if not all have one; null if all layers see the whole context. */
export function windowLine(spec: DecoderSpec): string | null {
  const windows = windowsOf(spec);
  if (windows.every((window) => window === undefined)) return null;
  return windows.map((window) => {
    const layers = [...spec.layers.entries()].filter(([, layer]) => layer.heads > 0 && layer.window === window);
    const where = windows.length === 1 ? "every layer" : `layers ${layers.map(([index]) => index).join(", ")}`;
    return `${window === undefined ? "all tokens" : `the last ${window} tokens`} in ${where}`;
  }).join("; ");
}

function tokenizerLine(tokenizer: Facts["tokenizer"]): string {
  if (tokenizer === null) return "none: only token ids can be used";
  if ("unread" in tokenizer) return tokenizer.unread;
  const { kind, vocab, uncutVocab, style } = tokenizer, cut = uncutVocab === null ? "" : ` (cut from ${uncutVocab})`;
  return `${kind}, ${vocab} tokens${cut}, prompts in ${style} style`;
}

const BAR_WIDTH = 24;

/** A line for each layer; bars are relative to the widest layer. */
function layerBars(layers: readonly LayerSpec[]): string[] {
  /** FFN columns of a layer, those of its experts among them. */
  const columns = ({ ffn, experts = { count: 0, ffn: 0 } }: LayerSpec): number => ffn + experts.count * experts.ffn;
  const columnsText = ({ ffn, experts }: LayerSpec): string =>
    experts ? `${ffn > 0 ? `${ffn} + ` : ""}${experts.count} × ${experts.ffn}` : `${ffn}`;
  const heads = Math.max(1, ...layers.map((layer) => layer.heads)), ffn = Math.max(1, ...layers.map(columns));
  const cell = (value: number, most: number): string => {
    const filled = value === 0 ? 0 : Math.max(1, Math.round(BAR_WIDTH * value / most));
    return "█".repeat(filled) + "·".repeat(BAR_WIDTH - filled);
  };
  return [
    `layer  ${"heads / KV heads".padEnd(BAR_WIDTH + 11)}FFN columns`,
    ...layers.map((layer, index) => {
      const counts = `${layer.heads}/${layer.kvHeads}`.padEnd(9);
      const cells = [cell(layer.heads, heads), counts, cell(columns(layer), ffn), columnsText(layer)];
      return `${String(index).padStart(5)}  ${cells.join(" ")}`;
    }),
  ];
}
