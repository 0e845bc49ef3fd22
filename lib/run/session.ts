// Pruning as users see it: a stream of records whose run then offers slice() and export(). Owns the way from learned masks to verified files; refuses the loop.
import { checkSessionExport, type OriginFile, type SessionExportOptions } from "../slice/export_options.ts";
import config from "../../deno.json" with { type: "json" };
import { given } from "../core/check_options.ts";
import { makeFolder, writeFileAtomically } from "../files/atomic.ts";
import { disk } from "../files/disk.ts";
import { keptGeneration } from "../formats/hf/model.ts";
import type { WeightSource } from "../spec/source.ts";
import { type DecoderSpec, type LayerSpec, parameterCount } from "../spec/decoder.ts";
import { sliceModel } from "../slice/slice.ts";
import { stageAdapter } from "../slice/export_adapter.ts";
import { type ExportResult, stageModel } from "../slice/export.ts";
import { shapeWritten } from "../slice/layouts.ts";
import {
  type FileBytes,
  fileBytes,
  type MaskSummary,
  maskSummary,
  type ModelBefore,
  modelBefore,
  withSmallerTypes,
} from "./mask_summary.ts";
import type { Model } from "../model/model.ts";
import type { RecordView } from "../schedule/definition.ts";
import { type HeldoutLoss, heldoutLoss } from "./heldout_loss.ts";
import type { RunHooks } from "./hooks.ts";
import { Lifetime } from "../model/lifetime.ts";
import type { Alarm } from "./monitors/alarm.ts";
import type { PruneOptions, ResolvedOptions } from "./options/options.ts";
import { startPrune } from "./loop.ts";
import type { PreparedRun, PruneResult, PruneRun } from "./prune_result.ts";
import { recordsFor } from "./record_lines.ts";
import type { RunChange, StepRecord } from "./contract.ts";
import { checkExportSize, exportDefaults, GGUF_NAME, reachedSize, type SizeResult } from "./size_goal.ts";
import { type VerifyResult, verifyShape, verifySliced } from "../slice/verify.ts";

/** Options of {@link PruneSession.slice}. */
export interface SliceOptions {
  /** Called as the sliced model is compared with the masked one, with the share that is done, from 0 to 1. */
  readonly onProgress?: (share: number) => void;
}

/** A pruned model, physically smaller, not yet written. */
export interface SlicedModel {
  /** Weights of the smaller model. */
  readonly source: WeightSource;
  /** Shape of the smaller model. */
  readonly spec: DecoderSpec;
  /** Parameters of the whole model, before and after. */
  readonly parameters: { readonly before: number; readonly after: number };
  /** The size that was asked for and is reached; null where a sparsity was. */
  readonly size: SizeResult | null;
  /** Masked and sliced model compared on held-out tokens, both in f32. */
  readonly maskedVsSliced: VerifyResult;
}

/** Contents of run.json. */
export interface RunSummary {
  /** Wanted, expected and reached sparsity. */
  readonly sparsity: PruneResult["sparsity"];
  /** Parameters of the whole model, before and after. */
  readonly parameters: SlicedModel["parameters"];
  /** Parameters of the model in `files`, as {@link ExportResult.parameters} says: with the layout "padded" its zeros too. */
  readonly writtenParameters: number;
  /** Matrices of the GGUF that are f16 in place of its type, because their rows are no whole blocks of it. */
  readonly fellBack: number;
  /** The size that was asked for and is reached; null where a sparsity was. */
  readonly size: SlicedModel["size"];
  /** Heads, KV heads and FFN columns of each layer; the files have none of those that are cut whole, and number the others anew. */
  readonly layers: readonly LayerSpec[];
  /** Hidden size. */
  readonly hidden: number;
  /** Largest difference and range of the logits. */
  readonly maskedVsSliced: { readonly maxAbs: number; readonly range: number };
  /** Loss on held-out rows before and after; null where no rows are held out, and for FLAP. */
  readonly heldoutLoss: HeldoutLoss | null;
  /** Seconds by stage. */
  readonly seconds: PruneResult["seconds"];
  /**
   * Seconds from the start of the command or session to the writing of run.json: loading, calibration, compiling, slicing and files included. Of a
   * resumed run those since it was resumed.
   */
  readonly wallSeconds: number;
  /** Steps that were done before the run was resumed last; 0 where it never was. */
  readonly resumedAfter: number;
  /** Tokens a second over all stages. */
  readonly tokensPerSecond: number;
  /** Largest GPU memory of the run, the comparison of masked and sliced model included, bytes. */
  readonly peakGpuBytes: number;
  /** The same as planned before the first step, bytes. */
  readonly plannedGpuBytes: number;
  /** What the monitors said, in order; see {@link PruneResult.alarms}. */
  readonly alarms: readonly Alarm[];
  /** Where the run went on otherwise than it began, such as by another schedule; `options` and `inputs` are those that it ended with. */
  readonly changes: readonly RunChange[];
  /** Adapter that ran it. */
  readonly adapter: string;
  /** Versions of this toolkit and of Deno that ran it. */
  readonly versions: { readonly compresso: string; readonly deno: string };
  /** Rows used, cut and left out. */
  readonly data: PruneResult["data"];
  /** Options with all defaults filled in. */
  readonly options: Omit<ResolvedOptions, "rows">;
  /** Digests and names of what it was made from, as {@link SessionExportOptions.inputs} says. */
  readonly inputs: Readonly<Record<string, string>>;
  /** Names and sizes of the files that it was made from; none where the program did not name them. */
  readonly origin: readonly OriginFile[];
  /** The model as it was. */
  readonly before: ModelBefore;
  /** What was cut of it. */
  readonly masks: MaskSummary;
  /** Sizes of what was written. */
  readonly fileBytes: readonly FileBytes[];
  /** Files and the programs that load them. */
  readonly files: ExportResult["loadableBy"];
  /** Formats that cannot hold the model. */
  readonly skipped: readonly { readonly format: string; readonly reason: string }[];
}

/**
 * A prune run with what follows it. Dispose it to free its GPU memory: at a pause that happens at once, and while it works as soon as that has
 * stopped. From then on it gives `CompressoError("usage")`. Disposing saves no checkpoint.
 */
export class PruneSession implements AsyncIterable<StepRecord>, Disposable {
  readonly #model: Model;
  readonly #run: PruneRun;
  readonly #life: Lifetime;
  readonly #hooks: RunHooks;
  /** As they were given, one for each step. */
  readonly #records: StepRecord[] = [];
  /** The last records that a resumed run had before. */
  #before: readonly RecordView[] = [];
  #stepsBefore = 0;
  readonly #startedAt = performance.now();
  #sliced: SlicedModel | null = null;
  #heldoutLoss: HeldoutLoss | null = null;
  /** Of training and comparison. */
  #peakBytes = 0;

  /** Wraps a run; use {@link prune}. */
  constructor(model: Model, run: PruneRun, { signal, hooks = {} }: Pick<PruneOptions, "signal" | "hooks"> = {}) {
    this.#model = model;
    this.#run = run;
    this.#life = new Lifetime("session", signal);
    this.#hooks = hooks;
  }

  /** Options with all defaults filled in. */
  get options(): ResolvedOptions {
    return this.#run.options;
  }

  /** Steps of all stages. */
  get steps(): number {
    return this.#run.steps;
  }

  /** What became of the rows. */
  get data(): PruneRun["data"] {
    return this.#run.data;
  }

  /** Reads the checkpoint of a resumed run; iteration does it too. Returns the steps and records that were done before. */
  async prepare(): Promise<{ readonly steps: number; readonly records: number }> {
    this.#life.check();
    const { steps, records } = await this.#begin();
    return { steps, records };
  }

  async #begin(): Promise<PreparedRun> {
    const prepared = await this.#run.prepare();
    if (this.#records.length === 0) [this.#before, this.#stepsBefore] = [prepared.recent, prepared.steps];
    return prepared;
  }

  /**
   * Drives the run and yields its records; a loop that is left pauses it, and the next one goes on right there. Leaving it saves nothing: to stop with a
   * checkpoint, fire the option `signal` and let the loop throw.
   *
   * @throws AlarmError ("numeric", of memory "gpu") where an alarm stops the run; CompressoError("gpu") where it does not fit or the device fails,
   * "mismatch" for a checkpoint of another run, "input" for a schedule that fails; and the signal's reason.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StepRecord, void, undefined> {
    this.#life.check();
    if (this.#records.length === 0) await this.#begin();
    for await (const record of this.#run) {
      // A run that went back does steps anew.
      while ((this.#records.at(-1)?.step ?? 0) >= record.step) this.#records.pop();
      this.#records.push(record);
      yield record;
    }
  }

  /**
   * Masks, LoRA and figures of the finished run; throws before a loop over the records has come to its end. {@link slice} and {@link export} cut by these very
   * arrays.
   */
  result(): PruneResult {
    this.#life.check();
    return this.#run.result();
  }

  /**
   * Cuts the model and proves it equal to the masked one. Frees the trainer: the session's GPU memory is the model's again.
   * Throws `CompressoError("mismatch")` where logits differ by more than 1e-3 of their range, naming the layer that first differs.
   */
  async slice({ onProgress }: SliceOptions = {}): Promise<SlicedModel> {
    return await this.#life.during(() => this.#slice(this.#life.signal, onProgress));
  }

  async #slice(signal: AbortSignal, onProgress?: SliceOptions["onProgress"]): Promise<SlicedModel> {
    if (this.#sliced) return this.#sliced;
    const result = this.#run.result(), { masks, lora, heldout, source: base } = result;
    this.#run[Symbol.dispose]();
    const { device, spec } = this.#model;
    const source = sliceModel(base, { masks, lora });
    const maskedVsSliced = await verifySliced(base, source, {
      device,
      adapters: { masks, lora },
      tokens: heldout,
      ...verifyShape(this.options),
      signal,
      ...(onProgress ? { onProgress } : {}),
    });
    // FLAP's compensation is not in the model that was given.
    this.#heldoutLoss = base === this.#model.source
      ? await heldoutLoss(this.#model, result, { adapters: { masks, lora }, seq: this.options.seq, signal })
      : null;
    this.#peakBytes = device.peakBytes;
    const parameters = { before: parameterCount(spec), after: parameterCount(source.spec) };
    const { size: wanted, units } = this.options, { tokenizer } = this.#model;
    const size = wanted && reachedSize(source.spec, wanted, { tokenizer, units });
    return this.#sliced = { source, spec: source.spec, parameters, size, maskedVsSliced };
  }

  /**
   * Writes `dir/model/`, `dir/model.gguf`, with `saveAdapter` the adapter, `dir/records.jsonl` of the records that were given, and, last,
   * `dir/run.json`. Returns what run.json holds. All models lie whole beside their places before any is moved there. `generation` is added to
   * what the base's generation_config.json says beside token ids. Throws `CompressoError("input")` where other files stand there and not `replace`,
   * "usage" for options, layouts, formats and types that do not exist.
   */
  async export(dir: string, options: SessionExportOptions = {}): Promise<RunSummary> {
    return await this.#life.during(() => this.#export(dir, options));
  }

  async #export(dir: string, options: SessionExportOptions): Promise<RunSummary> {
    checkSessionExport(options);
    checkExportSize(this.options.size, options);
    const { saveAdapter = false, inputs = {}, origin = [], startedAt = this.#startedAt, ...files } = given(options);
    const own = this.#life.signal;
    const signal = files.signal ? AbortSignal.any([files.signal, own]) : own;
    signal.throwIfAborted();
    const sliced = await this.#slice(signal), result = this.#run.result();
    await makeFolder(dir);
    await this.#hooks.beforeExport?.(dir);
    const how = {
      layout: this.options.layout,
      name: GGUF_NAME,
      tokenizer: this.#model.tokenizer,
      ...exportDefaults(this.options.size),
      ...files,
      generation: { ...keptGeneration(this.#model.source), ...files.generation },
      signal,
    };
    const { layout, dtype = "f16", tokenizer, generation, replace = false } = how, { masks, lora } = result;
    const recordsPath = `${dir}/records.jsonl`, before = this.#before;
    const records = await recordsFor(recordsPath, this.#records, { replace, before });
    // Nothing is moved to its place before all is written: the model that is read may stand there.
    using staged = await stageModel(sliced.source, dir, { ...how, files: disk });
    using adapter = saveAdapter
      ? await stageAdapter(result.source, dir, {
        masks,
        lora,
        layout,
        dtype,
        tokenizer,
        generation,
        replace,
        files: disk,
        signal,
      })
      : null;
    await staged.commit();
    await adapter?.commit();
    if (records !== null) await writeFileAtomically(recordsPath, records);
    const { loadableBy, skipped } = staged.result;
    const { rows: _rows, ...plain } = this.options;
    const { maxAbs, range } = sliced.maskedVsSliced;
    const summary: RunSummary = {
      sparsity: result.sparsity,
      parameters: sliced.parameters,
      writtenParameters: staged.result.parameters,
      fellBack: staged.result.fellBack.length,
      size: sliced.size,
      layers: sliced.spec.layers,
      hidden: sliced.spec.hidden,
      maskedVsSliced: { maxAbs, range },
      heldoutLoss: this.#heldoutLoss,
      seconds: result.seconds,
      wallSeconds: (performance.now() - startedAt) / 1000,
      resumedAfter: this.#stepsBefore,
      tokensPerSecond: result.tokensPerSecond,
      peakGpuBytes: this.#peakBytes,
      plannedGpuBytes: result.plannedGpuBytes,
      alarms: result.alarms,
      changes: result.changes,
      adapter: this.#model.device.facts.description,
      versions: { compresso: config.version, deno: Deno.version.deno },
      data: result.data,
      options: plain,
      inputs,
      origin,
      before: modelBefore(this.#model.source),
      masks: maskSummary(this.#model.spec, result.masks),
      fileBytes: withSmallerTypes(await fileBytes(loadableBy.map(({ file }) => file)), {
        spec: shapeWritten(sliced.spec, layout),
        content: { tokenizer, name: how.name },
      }),
      files: [...loadableBy, ...adapter?.loadableBy ?? []],
      skipped: skipped.map(({ format, error }) => ({ format, reason: error.message })),
    };
    await writeFileAtomically(`${dir}/run.json`, JSON.stringify(summary, null, 2) + "\n");
    await this.#hooks.afterExport?.(dir);
    return summary;
  }

  /** Frees the trainer; what is under way is stopped first. */
  [Symbol.dispose](): void {
    this.#life.end(() => {});
    this.#run[Symbol.dispose]();
  }
}

/**
 * Prunes a model by the three stages of Compresso: LoRA alone, LoRA and masks under the cubic schedule, LoRA with frozen masks.
 *
 * Iterating the session drives the run; afterwards `slice()` cuts the model and `export()` writes it.
 *
 * @throws CompressoError("usage") for options that do not exist or are out of range; "input" for a model without tokenizer or rows without a response. What a run may throw
 * later comes out of its iteration.
 * @example
 * ```ts
 * import { loadModel, openDevice, prune, readRows } from "compresso";
 * import { demoData } from "compresso/model";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const { rows } = await readRows(demoData("train"));
 * using run = prune(model, { rows, sparsity: 0.2, steps: 2, batch: 1, seq: 96, prompt: null, postfinetune: 0 });
 * for await (const { step, loss, expected } of run) console.log(step, loss, expected);
 * const { parameters } = await run.slice();
 * if (parameters.after >= parameters.before) throw new Error("not smaller");
 * ```
 */
export function prune(model: Model, options: PruneOptions): PruneSession {
  return new PruneSession(model, startPrune(model, options), options);
}
