// LoRA adapters in PEFT's format: a folder with adapter_config.json and adapter_model.safetensors.
import { type CompressoError, refusal, refuse } from "../../core/errors.ts";
import { checkNames, type NamesOf } from "../../core/check_options.ts";
import { checkLora, type LoraConfig, loraModules, loraScale, type LoraWeights, refuseOthers } from "../../spec/lora.ts";
import { type DecoderSpec, PROJECTIONS } from "../../spec/decoder.ts";
import { folderOf } from "../../files/path.ts";
import { type FileSystem, infoOf, isThere, missing, type Staged, writeFile } from "../../files/system.ts";
import { firstNonFinite } from "../../core/half.ts";
import {
  MERGE_FIRST,
  MODULE_NAMES,
  type ModulePart,
  parsePeftConfig,
  type PeftConfig,
  peftConfig,
  type StoredModule,
  storedModules,
} from "./config.ts";
import { refusePacked } from "./packed.ts";
import { openSafetensors, type SafetensorsEntry, type SafetensorsFile } from "../safetensors/read.ts";
import { type SafetensorsItem, writeSafetensors } from "../safetensors/write.ts";
import { withoutMark } from "../../core/text.ts";

/** An adapter as read. */
export interface PeftAdapter {
  /** Rank, alpha, rsLoRA, targets and dropout. */
  readonly config: LoraConfig;
  /** `lora.<layer>.<projection>.<A|B>`, A [rank, in] and B [out, rank], for every target that the model has. */
  readonly weights: LoraWeights;
  /** Name or path of the base model, as the adapter says it. */
  readonly baseModel: string | null;
}

/** What {@link writePeftAdapter} writes. */
export interface PeftWriteOptions {
  /** Shape of the base model. */
  readonly spec: DecoderSpec;
  /** Rank, alpha, rsLoRA, targets and dropout. */
  readonly config: LoraConfig;
  /** `lora.<layer>.<projection>.<A|B>`, A [rank, in] and B [out, rank], for every target that the model has, and no more. */
  readonly weights: ReadonlyMap<string, Float32Array>;
  /** Name or path of the base model, where PEFT is to find it; null leaves it open. */
  readonly baseModel: string | null;
  /** Text of the folder's README.md, such as which model the adapter belongs to; default none. */
  readonly readme?: string;
  /** Whether a folder that is there may be replaced; default false. */
  readonly replace?: boolean;
}

const NAMES: NamesOf<PeftWriteOptions> = {
  spec: true,
  config: true,
  weights: true,
  baseModel: true,
  readme: "text",
  replace: "switch",
};

/** The two matrices of a module in the file. */
interface Pair {
  A?: SafetensorsEntry;
  B?: SafetensorsEntry;
}

/** A module with LoRA: what the file holds for it, and its own rank and alpha. */
interface Module extends StoredModule {
  readonly pair: Required<Pair>;
  readonly rank: number;
  readonly alpha: number;
}

/** LoRA of one projection, with its own rank and alpha: A [rank, in], B [out, rank]. */
interface PartLora extends ModulePart {
  readonly rank: number;
  readonly alpha: number;
  readonly a: Float32Array;
  readonly b: Float32Array;
}

const CONFIG_FILE = "adapter_config.json";
const WEIGHTS_FILE = "adapter_model.safetensors";

/**
 * Writes LoRA to a temporary folder next to `dir`; the caller moves it into place.
 *
 * @throws CompressoError("usage") for settings out of range.
 * @throws CompressoError("input") if a matrix is missing, has another size or belongs to no target, if the model has no target, and if the
 * folder holds something and not `replace`.
 * @throws CompressoError("numeric") for values that are not finite.
 */
export async function stagePeftAdapter(
  files: FileSystem,
  dir: string,
  options: PeftWriteOptions,
): Promise<Staged> {
  checkNames(options, NAMES, { whose: "writePeftAdapter" });
  const { spec, config, weights, baseModel, readme, replace = false } = options, { rank, targets } = config;
  checkLora(config);
  refusePacked(spec);
  const items: SafetensorsItem[] = [];
  const isTarget = ({ projection }: ModulePart): boolean => targets.includes(projection);
  for (const { path, shape: [rows, cols], parts } of storedModules(spec)) {
    if (!parts.some(isTarget)) continue;
    const whole = rank * parts.length, a = new Float32Array(whole * cols), b = new Float32Array(rows * whole);
    // One block of A's rows and of B's columns a part; those of no target are zeros.
    for (const [place, part] of parts.entries()) {
      if (!isTarget(part)) continue;
      const name = (side: "A" | "B"): string => `lora.${part.layer}.${part.projection}.${side}`;
      const { start, count } = part.rows, nameB = name("B");
      a.set(matrix(weights.get(name("A")), { name: name("A"), shape: [rank, cols] }), place * rank * cols);
      const own = matrix(weights.get(nameB), { name: nameB, shape: [count, rank] });
      for (let row = 0; row < count; row++) {
        b.set(own.subarray(row * rank, (row + 1) * rank), (start + row) * whole + place * rank);
      }
    }
    items.push({ name: tensorName(path, "A"), dtype: "F32", shape: [whole, cols], data: () => a });
    items.push({ name: tensorName(path, "B"), dtype: "F32", shape: [rows, whole], data: () => b });
  }
  if (items.length === 0) {
    refuse("input", "cannot write the adapter", {
      rule: "the model has a target",
      value: targets.join(", "),
    });
  }
  refuseOthers(spec, { targets, weights });
  return await files.stageFolder(dir, async (folder) => {
    const json = JSON.stringify(peftConfig(config, { spec, baseModel }), null, 2);
    await writeFile(files, `${folder}/${CONFIG_FILE}`, `${json}\n`);
    await writeSafetensors(`${folder}/${WEIGHTS_FILE}`, items, { files });
    if (readme !== undefined) await writeFile(files, `${folder}/README.md`, readme);
  }, { replace });
}

/**
 * Reads an adapter in PEFT's format for a model of this shape. `path` is its folder, or its .safetensors file if
 * adapter_config.json is in the same folder. Values are widened to f32.
 *
 * Where modules differ in rank or alpha (`rank_pattern`, `alpha_pattern`), A and B are padded with zeros to the largest rank and B takes up the
 * ratio of the scales: the product is the same. A target that some layers lack (`layers_to_transform`) is zero there.
 *
 * @throws CompressoError("input") for a file that is missing or broken, an adapter that is not plain LoRA (the key is named), a tensor that is
 * missing, has another shape or belongs to no projection of the model.
 * @throws CompressoError("numeric") for values that are not finite.
 */
export async function openPeftAdapter(
  files: FileSystem,
  path: string,
  { spec }: { readonly spec: DecoderSpec },
): Promise<PeftAdapter> {
  const place = await placeOf(files, path);
  const said = parsePeftConfig(await readJson(files, place.config), { path: place.config });
  const file = await openSafetensors(await files.open(place.weights));
  const modules = await Promise.all(modulesOf(file, spec, said).map((module) => partsOf(file, module, said)))
    .then((parts) => parts.flat());
  if (spec.neighbours && modules.some(({ projection }) => projection === "q" || projection === "k")) {
    const value = "the model's folder has the rows of q and k in another order";
    throw broken(file.path, "its rows of q and k are those of the model here", value, MERGE_FIRST);
  }
  const [first] = modules;
  if (!first) {
    throw broken(file.path, "it holds LoRA of a projection", "no tensors", "check that this is the right file");
  }
  const rank = Math.max(...modules.map((module) => module.rank));
  // Where modules agree, these are the adapter's own.
  const alpha = modules.find((module) => module.rank === rank)?.alpha ?? first.alpha;
  const targets = PROJECTIONS.filter((projection) => modules.some((module) => module.projection === projection));
  const config: LoraConfig = { rank, alpha, rsLora: said.rsLora, targets, dropout: said.dropout };
  const weights: LoraWeights = new Map();
  for (const { layer, projection, shape: [rows, cols] } of loraModules(spec, targets)) {
    weights.set(`lora.${layer}.${projection}.A`, new Float32Array(rank * cols));
    weights.set(`lora.${layer}.${projection}.B`, new Float32Array(rows * rank));
  }
  for (const module of modules) {
    const { layer, projection, a, b, rows: { count } } = module;
    const factor = loraScale({ ...module, rsLora: said.rsLora }) / loraScale(config);
    const padded = weights.get(`lora.${layer}.${projection}.B`);
    weights.get(`lora.${layer}.${projection}.A`)?.set(a);
    for (let row = 0; row < count; row++) {
      const values = b.subarray(row * module.rank, (row + 1) * module.rank);
      padded?.set(factor === 1 ? values : values.map((value) => value * factor), row * rank);
    }
  }
  return { config, weights, baseModel: said.baseModel };
}

/**
 * LoRA of each projection that a module holds: the module's A and the projection's rows of B. If B is block-diagonal,
 * as we write it, a projection gets only its block of columns, and a projection whose A is zero gets no LoRA.
 */
async function partsOf(file: SafetensorsFile, module: Module, { rsLora }: PeftConfig): Promise<PartLora[]> {
  const { parts, pair, rank, alpha, shape: [, cols] } = module;
  const a = finite(pair.A.name, await file.read(pair.A.name)), b = finite(pair.B.name, await file.read(pair.B.name));
  const block = rank / parts.length;
  const isApart = parts.length > 1 && Number.isInteger(block) && b.some((value) => value !== 0) &&
    parts.every(({ rows }, place) => {
      for (let row = rows.start; row < rows.start + rows.count; row++) {
        for (let column = 0; column < rank; column++) {
          if (Math.floor(column / block) !== place && b[row * rank + column] !== 0) return false;
        }
      }
      return true;
    });
  if (!isApart) {
    return parts.map((part) => {
      const { start, count } = part.rows;
      return { ...part, rank, alpha, a, b: b.subarray(start * rank, (start + count) * rank) };
    });
  }
  const own = alpha / (rsLora ? Math.sqrt(parts.length) : parts.length);
  return parts.map((part, place): PartLora => {
    const { start, count } = part.rows, first = place * block;
    const columns = Float32Array.from(
      { length: count * block },
      (_, i) => b[(start + Math.floor(i / block)) * rank + first + i % block] ?? NaN,
    );
    return { ...part, rank: block, alpha: own, a: a.subarray(first * cols, (first + block) * cols), b: columns };
  }).filter((part) => part.a.some((value) => value !== 0));
}

/** Every module that has LoRA, checked against the model and the configuration. */
function modulesOf(file: SafetensorsFile, spec: DecoderSpec, said: PeftConfig): Module[] {
  const { pairs, isHeadless, hasOwnNames } = pairsOf(file, spec), modules: Module[] = [];
  for (const module of storedModules(spec)) {
    const { key, path, shape, parts: [part] } = module, { A, B } = pairs.get(key) ?? {};
    if (!part) continue;
    const name = hasOwnNames ? path : key;
    // As PEFT saw it, whose patterns may ask for the whole name.
    const asNamed = isHeadless ? name.replace(/^model\./, "") : name;
    pairs.delete(key);
    const expected = said.expects(asNamed, part.layer);
    if (!A && !B && expected !== true) continue;
    if (expected === false) {
      // PEFT would leave such tensors out without a word.
      throw broken(file.path, `it holds tensors of target_modules in ${CONFIG_FILE} alone`, (A ?? B)?.name ?? name);
    }
    const rank = said.rankOf(asNamed), [rows, cols] = shape;
    const check = (entry: SafetensorsEntry | undefined, side: "A" | "B"): SafetensorsEntry => {
      const tensor = tensorName(name, side), wanted = side === "A" ? [rank, cols] : [rows, rank];
      if (!entry) throw broken(file.path, `it holds the tensor ${tensor}, [${wanted.join(", ")}]`, "no such tensor");
      if (entry.shape.join() === wanted.join()) return entry;
      const rule = `${tensor} is [${wanted.join(", ")}]: its rank is ${rank}, and the model's ${
        name.slice(name.lastIndexOf(".") + 1)
      } is [${rows}, ${cols}]`;
      throw broken(file.path, rule, `[${entry.shape.join(", ")}]`, OTHER_MODEL);
    };
    const pair = { A: check(A, "A"), B: check(B, "B") };
    modules.push({ ...module, pair, rank, alpha: said.alphaOf(asNamed) });
  }
  const [rest] = pairs.keys();
  if (rest !== undefined) {
    throw broken(file.path, "its modules are those of the model", `${rest}, which the model has not`, OTHER_MODEL);
  }
  return modules;
}

/** The file's tensors by module under LLaMA's names. */
interface Pairs {
  readonly pairs: Map<string, Pair>;
  /** Whether names begin at the layers, as those of a base without its head do. */
  readonly isHeadless: boolean;
  /** Whether names are those of a class that is not LLaMA's. */
  readonly hasOwnNames: boolean;
}

function pairsOf(file: SafetensorsFile, spec: DecoderSpec): Pairs {
  const own = new Map(storedModules(spec).map(({ path, key }) => [path, key]));
  const pairs = new Map<string, Pair>();
  let isHeadless = false, hasOwnNames = false;
  for (const entry of file.tensors.values()) {
    const { name, head, side, isOwn } = moduleOf(entry.name, own);
    if (side !== "A" && side !== "B") {
      const rule = `its tensors are lora_A and lora_B of ${MODULE_NAMES.join(", ")} in model.layers`;
      throw broken(file.path, rule, entry.name, MERGE_FIRST);
    }
    const pair = pairs.get(name) ?? {};
    isHeadless ||= head === undefined;
    hasOwnNames ||= isOwn;
    const twin = pair[side];
    if (twin) throw broken(file.path, `a module has one lora_${side}`, `${twin.name} and ${entry.name}`);
    pairs.set(name, { ...pair, [side]: entry });
  }
  return { pairs, isHeadless, hasOwnNames };
}

/** The module of a tensor under LLaMA's name; `own` has the names of the model's class. No side for other tensors. */
function moduleOf(tensor: string, own: ReadonlyMap<string, string>): {
  readonly name: string;
  readonly head: string | undefined;
  readonly side: string | undefined;
  readonly isOwn: boolean;
} {
  // First, as a class may have a module of another name that is like LLaMA's: LFM2 has self_attn.out_proj.
  const [, start, rest = "", ownSide] = OWN_TENSOR.exec(tensor) ?? [], path = `model.${rest}`, found = own.get(path);
  if (found !== undefined) return { name: found, head: start, side: ownSide, isOwn: found !== path };
  const [, head, layer = "", block = "", projection = "", side] = TENSOR.exec(tensor) ?? [];
  return { name: `model.layers.${Number(layer)}.${block}.${projection}`, head, side, isOwn: false };
}

/** PEFT leaves the adapter's name out when it saves; files made from a state dict by hand have it, and lack `model.` where the base had no head. */
const TENSOR =
  /^base_model\.model\.(model\.)?layers\.(\d+)\.(self_attn|mlp)\.(\w+_proj)\.lora_([AB])(?:\.default)?\.weight$/;
const OWN_TENSOR = /^base_model\.model\.(model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight$/;
const OTHER_MODEL = "give the model that the adapter was made for";

function tensorName(module: string, side: "A" | "B"): string {
  return `base_model.model.${module}.lora_${side}.weight`;
}

async function placeOf(
  files: FileSystem,
  path: string,
): Promise<{ readonly config: string; readonly weights: string }> {
  const { isFolder } = await infoOf(files, path);
  const folder = isFolder ? path : folderOf(path);
  const place = { config: `${folder}/${CONFIG_FILE}`, weights: isFolder ? `${folder}/${WEIGHTS_FILE}` : path };
  const has = (name: string): Promise<boolean> => isThere(files, `${folder}/${name}`);
  const rule = (name: string): string => `${name} lies in ${folder}`;
  if (!await has(CONFIG_FILE)) {
    const isModel = await has("config.json");
    const found = isModel ? "config.json instead: a model, not an adapter" : "no such file";
    throw broken(path, rule(CONFIG_FILE), found, "name the folder that PEFT's save_pretrained wrote");
  }
  if (isFolder && !await has(WEIGHTS_FILE)) {
    if (!await has("adapter_model.bin")) throw broken(path, rule(WEIGHTS_FILE), "no such file");
    const fix = "save it again with a PEFT of today, which writes safetensors; pickles run code and are not read";
    throw broken(path, rule(WEIGHTS_FILE), "only a PyTorch file: adapter_model.bin", fix);
  }
  return place;
}

async function readJson(files: FileSystem, path: string): Promise<unknown> {
  const text = await files.text(path);
  if (text === null) throw missing(path);
  try {
    return JSON.parse(withoutMark(text));
  } catch (error) {
    if (error instanceof SyntaxError) throw broken(path, "it is JSON", error.message);
    throw error;
  }
}

function matrix(
  data: Float32Array | undefined,
  { name, shape: [rows, cols] }: { readonly name: string; readonly shape: readonly [number, number] },
): Float32Array {
  if (data?.length === rows * cols) return finite(name, data);
  throw unfit(name, `it is [${rows}, ${cols}]`, data ? `${data.length} values` : "it is missing");
}

function finite<T extends Float32Array>(name: string, values: T): T {
  const bad = firstNonFinite(values);
  if (bad < 0) return values;
  refuse("numeric", `cannot use the LoRA matrix '${name}'`, {
    rule: "its values are finite",
    value: `${values[bad]} at value ${bad}`,
    fix: "train or fetch the adapter again",
  });
}

function unfit(name: string, rule: string, value: string): CompressoError {
  const fix = "give A [rank, in] and B [out, rank] for each target of each layer";
  return refusal("input", `cannot write the LoRA matrix '${name}'`, { rule, value, fix });
}

function broken(path: string, rule: string, value: string, fix = "save or fetch the adapter again"): CompressoError {
  return refusal("input", `cannot use the adapter ${path}`, { rule, value, fix });
}
