// Exports a model to files for other programs: a Hugging Face folder and a GGUF.
import { CompressoError, option, refuse } from "../core/errors.ts";
import { isObject, type Json } from "../core/guards.ts";
import { holdThreads } from "../core/threads.ts";
import { type FileSystem, isThere, type Staged } from "../files/system.ts";
import { ggufArch, slidingWindows } from "../formats/gguf/architecture.ts";
import { stageGguf } from "../formats/gguf/export.ts";
import { blockOf, type GgufWriteType } from "../formats/gguf/mixes.ts";
import type { ModelfileInput } from "../formats/gguf/modelfile.ts";
import { ggufTokenizerMetadata } from "../formats/gguf/tokenizer_export.ts";
import { stageHf, writtenBiases } from "../formats/hf/export.ts";
import { familyFor, fixedHeads } from "../families/all.ts";
import { keptGeneration } from "../formats/hf/model.ts";
import { ropeConfig } from "../formats/hf/rope_export.ts";
import type { Provenance } from "../spec/provenance.ts";
import type { RowRange, WeightSource } from "../spec/source.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { rowWindow } from "../spec/row_range.ts";
import { checkExport, checkUsed, type ExportFormat, type ExportOptions, ggufDtypeFor } from "./export_options.ts";
import { type DecoderSpec, layersAlike, parameterCount, tensorShapes, withBiases } from "../spec/decoder.ts";
import { padded, shallow } from "./layouts.ts";
import { modelCard, type RunCard } from "./model_card.ts";
import { folderPrograms, ggufPrograms } from "./programs.ts";
import { readTogether, type SharedSource } from "./read_together.ts";

/** Result of an export. */
export interface ExportResult {
  /** Path of the folder; null if it was not requested or was skipped. */
  readonly hf: string | null;
  /** Path of the GGUF; null if it was not requested or was skipped. */
  readonly gguf: string | null;
  /**
   * Path of the Modelfile for Ollama; null if none was written. A new one needs a GGUF and a model that chats. An
   * existing one is replaced only with a GGUF and `replace`.
   */
  readonly modelfile: string | null;
  /**
   * Number of parameters of the folder, or of the GGUF if there is no folder. It can exceed the count of the source.
   * The layout "padded" adds zeros. Biases that config.json implies are written as zeros. A compact GGUF contains a
   * norm and one head or FFN column of zeros for each layer without that part.
   */
  readonly parameters: number;
  /** Type of the matrices in the GGUF; with `ggufSize` the type that most of them are like. Null without a GGUF. */
  readonly ggufDtype: GgufWriteType | null;
  /** Matrices of each type in a GGUF whose types were chosen for `ggufSize`, those of most first; null otherwise. */
  readonly ggufTypes: Readonly<Record<string, number>> | null;
  /**
   * GGUF names of matrices stored as f16 instead of a block type, because their rows are not a multiple of 32 values.
   */
  readonly fellBack: readonly string[];
  /** Programs that load each file. */
  readonly loadableBy: readonly { readonly file: string; readonly programs: readonly string[] }[];
  /** Formats that cannot represent this model or its tokenizer, with the reason. */
  readonly skipped: readonly { readonly format: ExportFormat; readonly error: CompressoError }[];
  /** Paths of earlier exports that `replace` removed: of skipped formats, and the Modelfile of a skipped GGUF. */
  readonly removed: readonly string[];
}

/**
 * Writes `outDir/model/` (Hugging Face) and `outDir/model.gguf` (llama.cpp), first under temporary names. Both have the
 * same layout, and omit layers that have neither heads nor FFN columns (see `shallow`). Next to the GGUF of a model with
 * a chat template lies a Modelfile for Ollama. A format that cannot represent the model or its tokenizer is skipped,
 * with the reason, as long as another format is written.
 *
 * @throws CompressoError("usage") for unknown options, layouts, formats and types, for a `ggufDtype` or `generation`
 * without its format, and for layout "uniform" if layers differ.
 * @throws CompressoError("input") if files already exist or no format can represent the model.
 * @throws CompressoError("numeric") for weights that the dtype cannot represent.
 */
export async function stageModel(
  source: WeightSource,
  outDir: string,
  { files, card: run, provenance = source.provenance, ...options }: ExportOptions & {
    readonly files: FileSystem;
    /** Facts of the run for the model card. Default: the model was written without a run. */
    readonly card?: RunCard;
    /** Origin and licence of the model. Default: those of the source. */
    readonly provenance?: Provenance | undefined;
  },
): Promise<Staged & { readonly result: ExportResult }> {
  checkExport(options);
  checkUsed(options);
  const { layout = "compact", dtype = "f16", tokenizer, replace = false, signal, onProgress } = options;
  const living = shallow(source), laidOut = layout === "padded" ? padded(living) : living, { spec } = laidOut;
  const ggufSize = options.ggufSize ?? null;
  if (layout === "uniform") checkUniform(spec);
  const paths = { hf: `${outDir}/model`, gguf: `${outDir}/model.gguf` }, ollama = `${outDir}/Modelfile`;
  // Everything that can be refused is checked before anything is written.
  const { hf, metadata, skipped } = possibleFormats(spec, options);
  if (metadata && !replace) await refuseFile(files, paths.gguf);
  // An existing file at this path is from another model and would otherwise stay with the new export.
  if (!replace) { for (const { format, error } of skipped) await refuseStale(files, paths[format], error); }

  const isQuantised = ggufSize !== null || blockOf(ggufDtypeFor(source, options)) > 1;
  const importance = metadata && isQuantised ? await options.ggufImportance?.(laidOut, signal) : undefined;
  const name = options.name, { licenseText } = provenance ?? {};
  const card = { "README.md": modelCard({ spec, name, provenance, run }) };
  const texts = licenseText === undefined ? card : { ...card, LICENSE: licenseText };
  const generation = options.generation ?? keptGeneration(source);
  const fitted = metadata && ggufSize !== null
    ? await (await import("../formats/gguf/fit_types.ts")).fitTypes(laidOut, {
      ...{ most: ggufSize, tokenizerMetadata: metadata, name, importance, provenance },
      ...signal ? { signal } : {},
    })
    : null;
  const ggufDtype = fitted?.like ?? ggufDtypeFor(source, options);
  const { folder, file, owned } = await stageTogether(laidOut, {
    signal,
    onProgress,
    folder: hf && ((weights, stop) =>
      stageHf(weights, paths.hf, {
        ...{ dtype, tokenizer, replace, texts, files, ...stop },
        generation,
      })),
    file: metadata && ((weights, stop) =>
      stageGguf(weights, paths.gguf, {
        ...{ dtype: ggufDtype, types: fitted?.types, tokenizerMetadata: metadata, name, importance, provenance },
        ...{ files, ...stop },
      })),
  });
  const loadableBy = [
    ...folder ? [{ file: paths.hf, programs: folderPrograms(folder.family, spec) }] : [],
    ...file
      ? [{
        file: paths.gguf,
        programs: ggufPrograms(file.result.arch, { spec: { ...spec, layers: file.result.layers }, tokenizer }),
      }]
      : [],
  ];
  // With the GGUF, the Modelfile of an earlier one is replaced too, also by one without turns.
  const recipe = file && (await isThere(files, ollama) ? replace : hasTurns(tokenizer))
    ? await stageModelfile(files, ollama, { spec, tokenizer, generation, owned })
    : null;
  const removed: string[] = [];
  return {
    result: {
      hf: folder && paths.hf,
      gguf: file && paths.gguf,
      modelfile: recipe && ollama,
      parameters: parameterCount(folder ? withBiases(spec, writtenBiases(spec)) : spec),
      ggufDtype: file && ggufDtype,
      ggufTypes: file && fitted && fitted.counts,
      fellBack: file?.result.fellBack ?? [],
      loadableBy,
      skipped,
      removed,
    },
    async commit(): Promise<void> {
      await folder?.commit();
      await file?.commit();
      await recipe?.commit();
      // An earlier export here is of another model, since this model cannot be written in this format.
      const remove = async (path: string): Promise<boolean> => {
        const isGone = await files.remove(path).catch(() => false);
        if (isGone) removed.push(path);
        return isGone;
      };
      for (const { format } of skipped) if (await remove(paths[format]) && format === "gguf") await remove(ollama);
    },
    [Symbol.dispose]: () => owned.dispose(),
  };
}

/** Whether a model chats: only then a Modelfile says more than the name of the GGUF. */
function hasTurns(tokenizer: Tokenizer | null): boolean {
  return tokenizer !== null && tokenizer.chatTemplate !== null;
}

/** Stages the Modelfile next to a GGUF. If that fails, nothing stays. */
async function stageModelfile(
  files: FileSystem,
  path: string,
  { spec, tokenizer, generation, owned }:
    & Pick<ModelfileInput, "spec" | "tokenizer">
    & { readonly generation: Json; readonly owned: DisposableStack },
): Promise<Staged> {
  try {
    const recipe = owned.use(await files.stageFile(path));
    const { modelfile } = await import("../formats/gguf/modelfile.ts");
    const text = modelfile({ file: "model.gguf", spec, tokenizer, generation: isObject(generation) ? generation : {} });
    await recipe.write(new TextEncoder().encode(text));
    return recipe;
  } catch (error) {
    owned.dispose();
    throw error;
  }
}

/** Refuses a uniform layout of layers that differ, or that have other heads than the classes of the family. */
function checkUniform(spec: DecoderSpec): void {
  const what = "cannot export with the layout uniform", heads = fixedHeads(spec), own = spec.layers[0]?.heads;
  if (!layersAlike(spec)) {
    refuse("usage", what, {
      rule: "all layers have the same heads, KV heads and FFN columns",
      value: "they differ",
      fix: 'prune with the layout uniform, or export as "padded" or "compact"',
    });
  }
  if (heads === null || own === heads) return;
  refuse("usage", what, {
    rule: `layers have hidden / head_dim = ${heads} heads, as the classes of this family do`,
    value: `${own} heads`,
    fix: 'prune FFN columns or layers alone, or export as "padded" or "compact"',
  });
}

/** What each requested format needs, or why it cannot be written. Throws that reason if no format can be written. */
function possibleFormats(
  spec: DecoderSpec,
  { formats = ["hf", "gguf"], tokenizer }: Pick<ExportOptions, "formats" | "tokenizer">,
): {
  readonly hf: ReturnType<typeof ropeConfig> | null;
  readonly metadata: ReturnType<typeof ggufTokenizerMetadata> | null;
  readonly skipped: readonly { readonly format: ExportFormat; readonly error: CompressoError }[];
} {
  const skipped: { format: ExportFormat; error: CompressoError }[] = [];
  const possible = <T>(format: ExportFormat, prepare: () => T): T | null => {
    if (!formats.includes(format)) return null;
    try {
      return prepare();
    } catch (error) {
      if (!(error instanceof CompressoError) || error.code !== "input") throw error;
      skipped.push({ format, error });
      return null;
    }
  };
  const hf = possible("hf", () => ropeConfig(spec, familyFor(spec).rope));
  const metadata = possible("gguf", () => {
    ggufArch(spec);
    slidingWindows(spec);
    return tokenizer ? ggufTokenizerMetadata(tokenizer, { vocab: spec.vocab }) : new Map<string, never>();
  });
  if (!hf && !metadata && skipped[0]) throw skipped[0].error;
  return { hf, metadata, skipped };
}

/** Writes a format to its temporary place. */
type Stage<T> = (weights: WeightSource, stop: { readonly signal: AbortSignal }) => Promise<T>;

/** Stages both formats from one reading of the model. If one fails, the other stops, and nothing stays. */
async function stageTogether<Folder extends Disposable, File extends Disposable>(
  source: WeightSource,
  { folder, file, signal, onProgress }: {
    readonly folder: Stage<Folder> | null;
    readonly file: Stage<File> | null;
    readonly signal: AbortSignal | undefined;
    readonly onProgress: ((share: number) => void) | undefined;
  },
): Promise<{ readonly folder: Folder | null; readonly file: File | null; readonly owned: DisposableStack }> {
  const times = (folder ? 1 : 0) + (file ? 1 : 0);
  const read = onProgress ? counted(source, { times, onProgress }) : (source: WeightSource): WeightSource => source;
  using pending = new DisposableStack();
  using _threads = holdThreads();
  const failed = new AbortController(), stop = { signal: AbortSignal.any([failed.signal, ...signal ? [signal] : []]) };
  const [forFolder, forFile] = readTogether(source);
  const stageOne = async <T extends Disposable>(shared: SharedSource, stage: Stage<T>): Promise<T> => {
    using _ended = shared;
    try {
      return pending.use(await stage(read(times > 1 ? shared : source), stop));
    } catch (error) {
      failed.abort(error);
      throw error;
    }
  };
  const writing = [folder && stageOne(forFolder, folder), file && stageOne(forFile, file)] as const;
  await Promise.allSettled(writing);
  const [staged, stagedFile] = await Promise.all(writing);
  signal?.throwIfAborted();
  return { folder: staged, file: stagedFile, owned: pending.move() };
}

/** Makes sources that report which share of `times` readings of the model is done. */
function counted(
  { spec }: WeightSource,
  { times, onProgress }: { readonly times: number; readonly onProgress: (share: number) => void },
): (source: WeightSource) => WeightSource {
  const shapes = tensorShapes(spec), all = times * parameterCount(spec);
  let done = 0;
  const count = (name: string, rows?: RowRange): void => {
    const { count, width } = rowWindow(name, shapes.get(name) ?? [], { rows });
    done += count * width;
    onProgress(Math.min(1, done / all));
  };
  return (source) => ({
    spec: source.spec,
    storedDtype: (name) => source.storedDtype(name),
    async read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const values = await source.read(name, rows);
      count(name, rows);
      return values;
    },
    async readStored(name, rows): Promise<Uint8Array<ArrayBuffer> | null> {
      const bytes = await source.readStored?.(name, rows) ?? null;
      if (bytes) count(name, rows);
      return bytes;
    },
  });
}

async function refuseStale(files: FileSystem, path: string, error: CompressoError): Promise<void> {
  if (!(await isThere(files, path))) return;
  refuse("input", `cannot replace ${path}`, {
    rule: "the path is free, or holds files of the exported model",
    value: `this model cannot be written in that format: ${error.message}`,
    fix: "remove it, or choose another folder",
    cause: error,
  });
}

async function refuseFile(files: FileSystem, path: string): Promise<void> {
  if (!(await isThere(files, path))) return;
  refuse("input", `cannot write ${path}`, {
    rule: "no file is there",
    value: "there is one",
    fix: `choose another folder, or allow replacing this one (${option("replace")})`,
  });
}
