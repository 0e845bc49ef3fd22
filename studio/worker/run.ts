// One run in the worker: it prunes, draws as it goes, can be paused and stopped, and keeps the files.
import { openModelFiles } from "../../lib/browser/open.ts";
import { pruneInMemory, pruneToFiles } from "../../lib/browser/prune.ts";
import { respelled, stopped } from "../../lib/core/errors.ts";
import { memoryFiles } from "../../lib/files/memory.ts";
import type { FileSystem } from "../../lib/files/system.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { keptRecords, secondsLeft } from "../../lib/report/derived.ts";
import { figuresOf } from "../../lib/report/figures.ts";
import type { ReportRun } from "../../lib/report/read_run.ts";
import { tilesOf } from "../../lib/report/tiles.ts";
import type { StepRecord } from "../../lib/run/contract.ts";
import { allAlarms } from "../../lib/run/monitors/shown_alarms.ts";
import type { RunSummary } from "../../lib/run/result.ts";
import { RECORDS_FILE } from "../../lib/run/folder.ts";
import { linesUpTo } from "../../lib/run/record_lines.ts";
import type { RunIntoOptions } from "../../lib/run/run_into.ts";
import type { Unsaved } from "../../lib/run/sink/files.ts";
import type { Choices, DrawnFigure, ResultFacts, Saved } from "../messages.ts";
import type { ChosenModel, ChosenRows } from "./desk.ts";
import { RUN, type StudioStorage } from "./storage.ts";
import { spellField, tell } from "./tell.ts";

/** What a run is made from. */
export interface RunInputs {
  readonly device: Device;
  readonly model: ChosenModel;
  readonly rows: ChosenRows;
  readonly choices: Choices;
  /** Pixels that figures are drawn wide. */
  readonly width: number;
  /** Where the run is saved; null for nowhere. */
  readonly storage: StudioStorage | null;
  /** Whether the run that is saved there goes on. */
  readonly resume: boolean;
}

/** A run that has ended. */
interface Finished {
  readonly summary: RunSummary;
  /** The files by their names: those of the browser's storage are not read. */
  readonly files: ReadonlyMap<string, Blob>;
}

/** What is told where the storage is full. */
const FULL: Readonly<Record<Unsaved, string>> = {
  checkpoint:
    "The browser has no storage left for this page. The run goes on without being saved: keep this tab open. To make room, free space on the disk or remove what other pages have stored; the run then saves itself again.",
  files:
    "The browser has no storage left for this page. The files below are in the memory of this tab: download them before you close it.",
};

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
  #finished: Finished | null = null;
  /** Step of the last record, and of the last checkpoint. */
  #step = 0;
  #savedAt: number | null = null;
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
   * @throws what `pruneToFiles` and loading throw.
   */
  async work(): Promise<ResultFacts> {
    const { device, model: { source, tokenizer, facts }, rows, choices } = this.#inputs, { signal } = this;
    const { baseDtype, writesTexts, ...options } = choices;
    const doing = (text: string) => (share: number): void => tell({ kind: "doing", text, share });
    const loading = { device, tokenizer, signal };
    const { model, storage, resume } = this.#inputs;
    if (!resume) {
      const kept = { model: { ...model, name: facts.name }, rows: { ...rows, name: rows.facts.name }, choices };
      await storage?.begin(kept, { signal, onProgress: doing("Keeping a copy of the files, for a closed tab") });
    }
    using stack = new DisposableStack();
    const dense = stack.use(
      await loadModelFrom(source, { ...loading, baseDtype, onProgress: doing("Loading the weights") }),
    );
    tell({ kind: "doing", text: "Encoding the rows, compiling kernels", share: null });
    this.#finished = await this.#pruned(dense, {
      ...options,
      rows: rows.rows,
      ...(writesTexts ? {} : { calibration: "none" }),
      signal,
      onStart: async (session, doneBefore) => {
        this.#live = { ...this.#live, options: { ...session.options } };
        await this.#takeUp(session.steps, doneBefore);
      },
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
    // The GGUF of a model that came as one has its types. Else both have the same values, and GGUFs need not be read.
    const gguf = tokenizer?.ggufMetadata ? this.#finished.files.get("model.gguf") : undefined;
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
    if (what === "gguf") return gguf ? { name: `${name}-pruned.gguf`, blob: gguf } : null;
    if (what === "run") return json ? { name: "run.json", blob: json } : null;
    if (what === "report") {
      const { renderReport } = await import("../../lib/report/report.ts");
      return { name: "report.html", blob: new Blob([renderReport([this.#report()])], { type: "text/html" }) };
    }
    const { zipOf } = await import("./zip.ts");
    const packed = new Map([...files].filter(([path]) => path !== "model.gguf"));
    return { name: `${name}-pruned.zip`, blob: await zipOf(packed) };
  }

  /** Frees the models. */
  free(): void {
    this.#models?.dense[Symbol.dispose]();
    this.#models?.pruned[Symbol.dispose]();
    this.#models = null;
  }

  /** Prunes into the storage, or into memory where there is none. */
  async #pruned(dense: Model, options: RunIntoOptions): Promise<Finished> {
    const { storage, resume } = this.#inputs;
    if (!storage) {
      const { summary, files } = await pruneInMemory(dense, options);
      return { summary, files: new Map([...files].map(([path, bytes]) => [path, new Blob([bytes])])) };
    }
    const { files } = storage, spare = memoryFiles();
    let isSpare = false;
    const summary = await pruneToFiles(dense, {
      ...{ ...options, files, spare, out: RUN, resume },
      export: { ...options.export, replace: true },
      onSaved: () => this.#tellSaved(),
      onFull: (what) => {
        if (what === "files") isSpare = true;
        this.#tellSaving(FULL[what]);
      },
    });
    const open = async (path: string): Promise<Blob> =>
      isSpare ? new Blob([spare.files.get(path) ?? new Uint8Array()]) : await files.file(path);
    return { summary, files: await blobsIn(isSpare ? spare : files, open) };
  }

  /** Shows the records that a run had before it goes on. */
  async #takeUp(steps: number, doneBefore: number): Promise<void> {
    const { storage } = this.#inputs;
    await storage?.noteSteps(steps);
    if (!storage || doneBefore === 0) return;
    const path = `${RUN}/${RECORDS_FILE}`, text = linesUpTo(await storage.files.text(path) ?? "", doneBefore);
    const { parseRecords } = await import("../../lib/run/run_json.ts");
    this.#records = keptRecords(parseRecords(text, { path, isFinished: true }));
    this.#step = doneBefore;
    this.#tellSaved();
    this.#draw();
  }

  #tellSaved(): void {
    this.#savedAt = this.#step;
    this.#tellSaving(null);
  }

  #tellSaving(problem: string | null): void {
    const step = this.#savedAt;
    void this.#inputs.storage?.bytes().then((bytes) => tell({ kind: "saving", saving: { step, bytes, problem } }));
  }

  async #take(record: StepRecord): Promise<void> {
    this.#step = record.step;
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
    const { files, summary } = this.#finished ?? { files: new Map<string, Blob>(), summary: null };
    const skipped = summary?.skipped.find(({ format }) => format === "gguf")?.reason ?? "";
    const folder = [...files].reduce((sum, [path, { size }]) => sum + (path === "model.gguf" ? 0 : size), 0);
    return {
      tiles: tilesOf(this.#report(), { isLive: false }),
      files: [
        { what: "gguf", bytes: files.get("model.gguf")?.size ?? null, reason: skipped },
        { what: "folder", bytes: folder, reason: "" },
        { what: "run", bytes: files.get("run.json")?.size ?? null, reason: "" },
        { what: "report", bytes: null, reason: "" },
      ],
    };
  }

  #folder(): Readonly<Record<string, Blob>> {
    const files = [...this.#finished?.files ?? []].filter(([path]) => path.startsWith("model/"));
    return Object.fromEntries(files.map(([path, bytes]) => [path.slice("model/".length), bytes]));
  }
}

/** The files of a run by their names in its folder. */
async function blobsIn(
  files: FileSystem,
  open: (path: string) => Promise<Blob>,
  folder = "",
): Promise<Map<string, Blob>> {
  const found = new Map<string, Blob>();
  for (const name of await files.names(RUN + folder)) {
    const path = `${folder}/${name}`, info = await files.info(RUN + path);
    if (info?.isFolder) { for (const [inner, blob] of await blobsIn(files, open, path)) found.set(inner, blob); }
    else found.set(path.slice(1), await open(RUN + path));
  }
  return found;
}
