// A Hugging Face folder as a source of weights: config.json, safetensors in one file or shards.
import { type CompressoError, option, refusal, refuse } from "../../core/errors.ts";
import { type DecoderSpec, EMBEDDING, embeddingWidth, HEAD, tensorShapes } from "../../spec/decoder.ts";
import { sibling } from "../../files/path.ts";
import { type FileSystem, isThere, missing } from "../../files/system.ts";
import { FUSED_BLOCKS, type Fusion } from "../../families/fusion.ts";
import { fusedModuleName, fusedTensors, rowsWithin } from "../fused.ts";
import { hfProvenance } from "./card.ts";
import { parseHfConfig } from "./config.ts";
import { withExperts } from "./experts.ts";
import { withHeadNorms } from "./head_norms.ts";
import { packedTensors, type TensorFile, unpacked } from "./packed.ts";
import { withTaps } from "./taps.ts";
import { withPlainNorms } from "./plain_norms.ts";
import { withValues } from "./values.ts";
import { IDLE_TENSORS, storedName, storedPlus, withPrefix } from "./stored.ts";
import { shownJson } from "../../core/text.ts";
import { textConfig } from "./text_config.ts";
import { openSafetensors, type SafetensorsFile } from "../safetensors/read.ts";
import type { RowRange, WeightSource } from "../../spec/source.ts";
import { isObject, type Json } from "../../core/guards.ts";

/** Weights of a Hugging Face folder. */
export interface HfSource extends WeightSource {
  readonly format: "hf";
  readonly folder: string;
  /** config.json as parsed, for writers that pass other keys on. */
  readonly config: Readonly<Record<string, unknown>>;
  /** generation_config.json as parsed; empty if the file does not exist. */
  readonly generation: Json;
}

const INDEX = "model.safetensors.index.json";
const SINGLE = "model.safetensors";

/**
 * Opens a folder written by transformers: a family of `MODEL_TYPES`, or the text part of one of `WRAPPERS`. Reads only
 * headers. In a tied model that stores only the head, the head is read as the embedding. If both are stored and differ,
 * reading the embedding throws.
 *
 * @throws CompressoError("input") for an unsupported config, a missing file or tensor, a wrong shape or dtype, and a
 * tensor of the decoder that the config does not announce (such as a bias).
 */
export async function openHfFolder(files: FileSystem, folder: string): Promise<HfSource> {
  const { config, generation, spec } = await readHfConfig(files, `${folder}/config.json`);
  const { text_config: text } = config, { family, json } = textConfig(config, folder);
  const shards = await openShards(files, folder), nameOf = (name: string): string => storedName(family, name);
  const all = isObject(text) ? textTensors(shards) : new Map([...shards].map(([name, file]) => [name, { file, name }]));
  const { isIdle = () => false } = family.tensors ?? {},
    own = new Map([...all].filter(([name]) => !isIdle(name, spec)));
  const context = { family, spec, folder };
  const named = withTaps(
    withExperts(withValues(withPrefix(family, own), { ...context, config: json }), context),
    context,
  );
  const parts = withHeadNorms(unpacked(packedTensors(family, spec), named, context), context);
  const stored = withPlainNorms(parts, context);
  // By canonical name, or by the stored name if there is no canonical one.
  const canonical = new Map([...tensorShapes({ ...spec, tied: false }).keys()].map((name) => [nameOf(name), name]));
  const tensors = new Map([...stored].map(([key, found]) => {
    const name = canonical.get(key);
    return [name ?? key, { ...found, plus: name === undefined ? 0 : storedPlus(family, name) }];
  }));
  checkTensors(spec, tensors, { folder, nameOf });
  const provenance = await hfProvenance(files, folder);
  const fused = fusedTensors(spec, fusionsOf(spec));
  let tied: Promise<void> | null = null;
  return {
    format: "hf",
    folder,
    config,
    generation,
    spec,
    provenance,
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      return await read(...await placeOf(name, rows));
    },
    async readStored(name, rows, into): Promise<Uint8Array<ArrayBuffer> | null> {
      const [{ file, name: stored, plus }, own] = await placeOf(name, rows);
      return plus === 0 ? await file.readRaw?.(stored, own, into) ?? null : null;
    },
    storedDtype(name): string {
      const { file, name: stored } = tensorOf(name);
      return file.tensors.get(stored)?.dtype.toLowerCase() ?? "";
    },
  };

  async function placeOf(name: string, rows: RowRange | undefined): Promise<[Found, RowRange | undefined]> {
    if (name === EMBEDDING) await (tied ??= checkTied(spec, tensors, { folder, nameOf }));
    const part = fused.get(name)?.parts.find((own) => own.name === name)?.rows;
    return [tensorOf(name), part ? rowsWithin(part, rows) : rows];
  }

  function kept(name: string): string {
    const whole = fused.get(name);
    if (whole) return fusedModuleName(whole);
    return name === EMBEDDING && spec.tied && !tensors.has(EMBEDDING) ? HEAD : name;
  }

  function tensorOf(name: string): Found {
    const found = tensors.get(kept(name));
    if (found) return found;
    refuse("input", `cannot read the tensor ${name} of ${folder}`, {
      rule: "the files hold it",
      value: "no such tensor",
    });
  }
}

/** A tensor of the files: its name there, and what is added to its values. */
interface Found {
  readonly file: TensorFile;
  readonly name: string;
  readonly plus: number;
}

async function read({ file, name, plus }: Found, rows?: RowRange): Promise<Float32Array<ArrayBuffer>> {
  const values = await file.read(name, rows);
  return plus === 0 ? values : values.map((value) => value + plus);
}

/** Where the text part of a wrapper has its tensors, and where the rest has its own. */
const TEXT_PART = /^(?:language_model\.(?=model\.|lm_head\.)|(model\.)language_model\.)/;
const OTHER_PARTS = /^(?:model\.)?(?:vision_tower|audio_tower|embed_vision|embed_audio|multi_modal_projector)\./;

/** The tensors of a wrapper's text part, by the names that they have without the wrapper. */
function textTensors(files: ReadonlyMap<string, SafetensorsFile>): Map<string, Pick<Found, "file" | "name">> {
  const own = [...files].filter(([name]) => !OTHER_PARTS.test(name));
  return new Map(own.map(([name, file]) => [name.replace(TEXT_PART, "$1"), { file, name }]));
}

/** Reads a config.json and, if the folder has one, generation_config.json; needs no weights. */
export async function readHfConfig(
  files: FileSystem,
  path: string,
): Promise<Pick<HfSource, "config" | "generation" | "spec">> {
  const config = asObject(await readJson(files, path), path);
  const generation = await readJson(files, sibling(path, "generation_config.json"), { optional: true });
  const spec = parseHfConfig(config, { path, ...(generation === undefined ? {} : { generation }) });
  return { config, generation: isObject(generation) ? generation : {}, spec };
}

/** What a model made of `source` keeps of its generation_config.json: not the token ids, which are the spec's, nor what wrote the file. */
export function keptGeneration(source: WeightSource): Json {
  const own = "generation" in source && isObject(source.generation) ? source.generation : {};
  return Object.fromEntries(Object.entries(own).filter(([key]) => !NOT_KEPT.includes(key)));
}

const NOT_KEPT: readonly string[] = [
  "bos_token_id",
  "eos_token_id",
  "pad_token_id",
  "transformers_version",
  "_from_model_config",
];

/** The file that holds each tensor. */
async function openShards(files: FileSystem, folder: string): Promise<Map<string, SafetensorsFile>> {
  const tensors = new Map<string, SafetensorsFile>();
  if (await isThere(files, `${folder}/${SINGLE}`)) {
    const file = await openSafetensors(await files.open(`${folder}/${SINGLE}`));
    for (const name of file.tensors.keys()) tensors.set(name, file);
    return tensors;
  }
  const path = `${folder}/${INDEX}`;
  if (!await isThere(files, path)) throw await noWeights(files, folder);
  const map = asObject(asObject(await readJson(files, path), path)["weight_map"], `${path} (weight_map)`);
  const opened = new Map<string, SafetensorsFile>();
  for (const [name, value] of Object.entries(map)) {
    // A name with a separator could lead out of the folder.
    if (typeof value !== "string" || !/^[^/\\]+\.safetensors$/.test(value)) {
      throw broken(path, `weight_map names a .safetensors file of the same folder for ${name}`, JSON.stringify(value));
    }
    const shard = `${folder}/${value}`;
    if (!opened.has(value) && !await isThere(files, shard)) {
      const fix = "fetch the missing file into the folder";
      throw broken(`the model ${folder}`, `it holds ${value}, as ${INDEX} says`, "no such file", fix);
    }
    const file = opened.get(value) ?? await openSafetensors(await files.open(shard));
    opened.set(value, file);
    if (!file.tensors.has(name)) throw broken(path, `${value} holds ${name}, as weight_map says`, "no such tensor");
    tensors.set(name, file);
  }
  return tensors;
}

/** A folder, and how its tensors are called. */
interface Names {
  readonly folder: string;
  readonly nameOf: (canonical: string) => string;
}

function checkTensors(
  spec: DecoderSpec,
  files: ReadonlyMap<string, Found>,
  { folder, nameOf }: Names,
): void {
  const shapes = storedShapes(spec, files);
  for (const [canonical, shape] of shapes) {
    const name = nameOf(canonical), found = files.get(canonical), entry = found?.file.tensors.get(found.name);
    if (!entry) {
      refuse("input", `cannot open the model ${folder}`, {
        rule: `it holds the tensor ${name}, [${shape.join(", ")}]`,
        value: "no such tensor",
        fix: canonical === HEAD
          ? "if the head is the embedding, set tie_word_embeddings to true in config.json"
          : "fetch the missing file, or correct config.json",
      });
    }
    if (entry.shape.join() !== shape.join()) {
      const rule = `${name} has the shape [${shape.join(", ")}] that config.json implies`;
      throw broken(`the model ${folder}`, rule, `[${entry.shape.join(", ")}]`);
    }
    if (!["F32", "F16", "BF16"].includes(entry.dtype)) {
      throw broken(
        `the model ${folder}`,
        `${name} is F32, F16 or BF16`,
        entry.dtype,
        "save it as one of these, or give a GGUF",
      );
    }
  }
  for (const name of files.keys()) {
    // Old files carry the RoPE table, which is known to be what the config says.
    if (shapes.has(name) || IDLE_TENSORS.test(name)) continue;
    const fix = name.endsWith(".bias")
      ? "attention_bias and mlp_bias of config.json say which biases there are"
      : undefined;
    throw broken(`the model ${folder}`, "config.json implies each tensor of the files", name, fix);
  }
}

/** The matrices that a folder of this model holds as one. */
export function fusionsOf({ fused }: DecoderSpec): readonly Fusion[] {
  return fused ? FUSED_BLOCKS : [];
}

/** Every tensor of a folder with its shape, in file order: the canonical ones, or the fused ones that hold them. */
export function hfShapes(spec: DecoderSpec): Map<string, readonly number[]> {
  const fused = fusedTensors(spec, fusionsOf(spec));
  return new Map([...tensorShapes(spec)].map(([name, shape]): [string, readonly number[]] => {
    const whole = fused.get(name);
    return whole ? [fusedModuleName(whole), whole.shape] : [name, shape];
  }));
}

/** Shapes of the tensors that files must hold; tied ones hold the embedding, the head, or both. */
function storedShapes(spec: DecoderSpec, files: ReadonlyMap<string, unknown>): Map<string, readonly number[]> {
  const shapes = hfShapes(spec);
  if (spec.tied && files.has(HEAD)) {
    shapes.set(HEAD, [spec.vocab, embeddingWidth(spec)]);
    if (!files.has(EMBEDDING)) shapes.delete(EMBEDDING);
  }
  return shapes;
}

/** Values that are compared at a time. */
const COMPARED = 1 << 20;

/** Refuses a tied model whose stored head differs from its embedding: transformers 5 would not tie them. */
async function checkTied(
  spec: DecoderSpec,
  files: ReadonlyMap<string, Found>,
  { folder, nameOf }: Names,
): Promise<void> {
  const embedding = files.get(EMBEDDING), head = files.get(HEAD), { vocab } = spec, width = embeddingWidth(spec);
  if (!spec.tied || !embedding || !head) return;
  const most = Math.max(1, Math.floor(COMPARED / width));
  for (let start = 0; start < vocab; start += most) {
    const rows = { start, count: Math.min(most, vocab - start) };
    const ours = await read(embedding, rows), theirs = await read(head, rows);
    for (let index = 0; index < ours.length; index++) {
      const a = ours[index], b = theirs[index];
      if (a === b || (Number.isNaN(a) && Number.isNaN(b))) continue;
      const place = `row ${start + Math.floor(index / width)}, column ${index % width}`;
      const rule = `${nameOf(HEAD)} is ${nameOf(EMBEDDING)}, as tie_word_embeddings of config.json says`;
      throw broken(`the model ${folder}`, rule, `${b} instead of ${a} at ${place}`, UNTIE);
    }
  }
}

const UNTIE = "set tie_word_embeddings to false in config.json";

/** The error for a folder that lacks files, after what it holds instead. */
export async function noWeights(
  files: FileSystem,
  folder: string,
  lacking = `${SINGLE} or ${INDEX}`,
): Promise<CompressoError> {
  const names = await files.names(folder);
  const pickle = names.find((name) => /\.(bin|pt|pth)$/.test(name));
  const gguf = names.find((name) => name.endsWith(".gguf"));
  const inner = `${folder}/model`;
  const fix = names.includes("adapter_config.json")
    ? `it is an adapter: give the model that it was made for, and this folder as ${option("adapter")}`
    : await isThere(files, `${inner}/config.json`)
    ? `give the folder in it: ${inner}`
    : pickle
    ? "convert it to safetensors (save_pretrained of transformers does); pickles run code and are not read"
    : gguf
    ? `give the file itself: ${folder}/${gguf}`
    : `fetch ${lacking} into the folder`;
  const value = pickle ? `only PyTorch files: ${pickle}` : names.length === 0 ? "an empty folder" : shownJson(names);
  return broken(`the model ${folder}`, `it holds ${lacking}`, value, fix);
}

async function readJson(
  files: FileSystem,
  path: string,
  { optional = false }: { readonly optional?: boolean } = {},
): Promise<unknown> {
  const text = await files.text(path);
  if (text === null && optional) return undefined;
  if (text === null) throw missing(path);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw broken(path, "it is JSON", error instanceof Error ? error.message : String(error));
  }
}

function asObject(value: unknown, path: string): Record<string, unknown> {
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as Record<string, unknown>;
  throw broken(path, "it is a JSON object", value === undefined ? "not there" : JSON.stringify(value).slice(0, 60));
}

function broken(
  path: string,
  rule: string,
  value: string,
  fix = "fetch the files again, all of one model",
): CompressoError {
  return refusal("input", `cannot open ${path}`, { rule, value, fix });
}
