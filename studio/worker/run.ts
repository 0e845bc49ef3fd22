// One run in the worker: it prunes, draws as it goes, can be paused and stopped, and keeps the files.
import { openModelFiles } from "../../lib/browser/open.ts";
import { pruneInMemory } from "../../lib/browser/prune.ts";
import { respelled, stopped } from "../../lib/core/errors.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { keptRecords, secondsLeft } from "../../lib/report/derived.ts";
import { figuresOf } from "../../lib/report/figures.ts";
import type { ReportRun } from "../../lib/report/read_run.ts";
import { tilesOf } from "../../lib/report/tiles.ts";
import type { StepRecord } from "../../lib/run/contract.ts";
import { allAlarms } from "../../lib/run/monitors/shown_alarms.ts";
import type { RunSummary } from "../../lib/run/result.ts";
import type { Choices, DrawnFigure, ResultFacts, Saved } from "../messages.ts";
import type { ChosenModel, ChosenRows } from "./desk.ts";
import { spellField, tell } from "./tell.ts";
import { zipOf } from "./zip.ts";

/** What a run is made from. */
export interface RunInputs {
  readonly device: Device;
  readonly model: ChosenModel;
  readonly rows: ChosenRows;
  readonly choices: Choices;
  /** Pixels that figures are drawn wide. */
  readonly width: number;
}

/** Milliseconds between two drawings of the figures. */
const DRAW_MS = 1000;

const PHASES = { measure: "Measuring the model", slice: "Comparing the smaller model", export: "Writing the files" };

/** A run, from its start until another one replaces it. */
export class StudioRun {
  readonly #inputs: RunInputs;
  readonly #abort = new AbortController();
  #gate: PromiseWithResolvers<void> | null = null;
  #records: StepRecord[] = [];
  #live: Pick<ReportRun, "liveMasks" | "options"> = { liveMasks: null, options: null };
  #drawnAt = -Infinity;
  #finished: { readonly summary: RunSummary; readonly files: ReadonlyMap<string, Uint8Array<ArrayBuffer>> } | null =
    null;
  #models: { readonly dense: Model; readonly pruned: Model } | null = null;

  /** Prepares a run; `work` starts it. */
  constructor(inputs: RunInputs) {
    this.#inputs = inputs;
  }

  /** Fires when the user stops the run. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** The dense and the smaller model, once the run has finished. */
  get models(): { readonly dense: Model; readonly pruned: Model } | null {
    return this.#models;
  }

  /** Stops the run. */
  stop(): void {
    this.#abort.abort(stopped("the run was stopped"));
    this.#gate?.resolve();
  }

  /** Holds the run after the steps that are under way, or lets it go on. */
  pause(isPaused: boolean): void {
    if (isPaused) this.#gate ??= Promise.withResolvers<void>();
    else {
      this.#gate?.resolve();
      this.#gate = null;
    }
    tell({ kind: "paused", isPaused });
  }

  /**
   * Loads the model, prunes it, and loads the smaller one beside it.
   *
   * @throws what `pruneInMemory` and loading throw.
   */
  async work(): Promise<ResultFacts> {
    const { device, model: { source, tokenizer, facts }, rows, choices } = this.#inputs, { signal } = this;
    const { baseDtype, writesTexts, ...options } = choices;
    const doing = (text: string) => (share: number): void => tell({ kind: "doing", text, share });
    const loading = { device, tokenizer, signal };
    using stack = new DisposableStack();
    const dense = stack.use(
      await loadModelFrom(source, { ...loading, baseDtype, onProgress: doing("Loading the weights") }),
    );
    tell({ kind: "doing", text: "Encoding the rows, compiling kernels", share: null });
    this.#finished = await pruneInMemory(dense, {
      ...options,
      rows: rows.rows,
      ...(writesTexts ? {} : { calibration: "none" }),
      signal,
      onStart: (session) => void (this.#live = { ...this.#live, options: { ...session.options } }),
      onCalibration: doing("The model writes texts for calibration"),
      onScoring: doing("Scoring what can be cut"),
      onMasks: (step, masks) => void (this.#live = { ...this.#live, liveMasks: { step, masks } }),
      onRecord: (record) => this.#take(record),
      onPhase: (phase, share) => doing(PHASES[phase])(share),
      export: {
        name: `${facts.name.replace(/\.gguf$/i, "")} pruned by Compresso`,
        origin: [
          { role: "model", name: facts.name, bytes: facts.bytes },
          { role: "data", name: rows.facts.name, bytes: rows.bytes },
        ],
      },
    });
    tell({ kind: "doing", text: "Loading the smaller model", share: null });
    const gguf = this.#finished.files.get("model.gguf");
    const written = await openModelFiles(gguf ?? this.#folder());
    const pruned = stack.use(
      await loadModelFrom(written.source, { ...loading, tokenizer: written.tokenizer, baseDtype }),
    );
    stack.move();
    this.#models = { dense, pruned };
    this.#draw();
    return this.#result();
  }

  /** A file to download. Null before the run has finished, and for what could not be written. */
  async save(what: Saved): Promise<{ readonly name: string; readonly blob: Blob } | null> {
    if (!this.#finished) return null;
    const { files } = this.#finished, name = this.#inputs.model.facts.name.replace(/\.gguf$/i, "");
    const gguf = files.get("model.gguf"), json = files.get("run.json");
    if (what === "gguf") return gguf ? { name: `${name}-pruned.gguf`, blob: new Blob([gguf]) } : null;
    if (what === "run") return json ? { name: "run.json", blob: new Blob([json], { type: "application/json" }) } : null;
    if (what === "report") {
      const { renderReport } = await import("../../lib/report/report.ts");
      return { name: "report.html", blob: new Blob([renderReport([this.#report()])], { type: "text/html" }) };
    }
    const packed = new Map([...files].filter(([path]) => path !== "model.gguf"));
    return { name: `${name}-pruned.zip`, blob: zipOf(packed) };
  }

  /** Frees the models. */
  free(): void {
    this.#models?.dense[Symbol.dispose]();
    this.#models?.pruned[Symbol.dispose]();
    this.#models = null;
  }

  async #take(record: StepRecord): Promise<void> {
    this.#records = keptRecords([...this.#records, record]);
    const { step, steps, stage, loss, expected, target, tokensPerSecond } = record, records = this.#records;
    const alarms = allAlarms([records.flatMap((one) => one.alarms)]);
    tell({
      kind: "step",
      step: {
        ...{ step, steps, stage, loss, expected, target, tokensPerSecond },
        secondsLeft: secondsLeft(records),
        alarms: alarms.map(({ step, message, change, options }) =>
          `Step ${step}: ${message}. ${respelled(change, options, spellField)}`
        ),
      },
    });
    if (performance.now() - this.#drawnAt >= DRAW_MS || step === steps) this.#draw();
    await this.#gate?.promise;
  }

  #draw(): void {
    this.#drawnAt = performance.now();
    const wanted = ["loss", "sparsity", "masks-0"], { width } = this.#inputs;
    const figures = figuresOf([this.#report()]).filter(({ id }) => wanted.includes(id));
    const drawn = figures.map(({ id, title, caption, draw }): DrawnFigure => ({
      id,
      title,
      caption,
      svg: draw(width),
    }));
    tell({ kind: "figures", figures: drawn });
  }

  #report(): ReportRun {
    const { device, model, rows } = this.#inputs, summary = this.#finished?.summary ?? null, records = this.#records;
    return {
      name: `${model.facts.name} in a browser`,
      folder: null,
      records,
      summary,
      options: summary ? { ...summary.options } : this.#live.options,
      origin: summary?.origin ?? [
        { role: "model", name: model.facts.name, bytes: model.facts.bytes },
        { role: "data", name: rows.facts.name, bytes: rows.bytes },
      ],
      adapter: device.facts.description,
      evaluations: [],
      unread: [],
      alarms: summary?.alarms ?? allAlarms([records.flatMap(({ alarms }) => alarms)]),
      liveMasks: this.#live.liveMasks,
    };
  }

  #result(): ResultFacts {
    const { files, summary } = this.#finished ?? { files: new Map<string, Uint8Array<ArrayBuffer>>(), summary: null };
    const skipped = summary?.skipped.find(({ format }) => format === "gguf")?.reason ?? "";
    const folder = [...files].filter(([path]) => path !== "model.gguf").reduce(
      (sum, [, { length }]) => sum + length,
      0,
    );
    return {
      tiles: tilesOf(this.#report(), { isLive: false }),
      files: [
        { what: "gguf", bytes: files.get("model.gguf")?.length ?? null, reason: skipped },
        { what: "folder", bytes: folder, reason: "" },
        { what: "run", bytes: files.get("run.json")?.length ?? null, reason: "" },
        { what: "report", bytes: null, reason: "" },
      ],
    };
  }

  #folder(): Readonly<Record<string, Uint8Array<ArrayBuffer>>> {
    const files = [...this.#finished?.files ?? []].filter(([path]) => path.startsWith("model/"));
    return Object.fromEntries(files.map(([path, bytes]) => [path.slice("model/".length), bytes]));
  }
}
