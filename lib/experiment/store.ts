// The folder of an experiment: files of each cell, the states that follow from them, and the report.
import { join } from "node:path";
import { CompressoError, option, refusal, refuse } from "../core/errors.ts";
import { isObject } from "../core/guards.ts";
import { makeFolder, writeFileAtomically } from "../files/atomic.ts";
import { exists, namesIn } from "../files/exists.ts";
import { LOCK_FILE } from "../files/lock.ts";
import { textIfThere } from "../files/text_file.ts";
import type { MonitorName } from "../run/monitors/alarm.ts";
import { recordsIn } from "../run/record_file.ts";
import { digestOf } from "../core/digest.ts";
import { CHECKPOINT_FILE, RECORDS_FILE, SUMMARY_FILE } from "../run/folder.ts";
import type { StepRecord } from "../run/contract.ts";
import { readSummary } from "../run/run_json.ts";
import { differences, identityOfRun } from "./identity.ts";
import { outcomeOf } from "./outcome.ts";
import type {
  CellFailure,
  CellFile,
  CellIdentity,
  CellModel,
  CellOutcome,
  CellState,
  Measure,
  Measured,
  Value,
} from "./types.ts";

/** Contents of a report. */
interface ReportFiles {
  readonly markdown: string;
  /** The same as HTML. */
  readonly page: string;
  /** What report.json holds. */
  readonly data: unknown;
  readonly charts: readonly { readonly file: string; readonly svg: string }[];
}

/** Files that an experiment adds to the folder of a cell's run. */
const FILES = { cell: "cell.json", measured: "measures.json" } as const;
/** Files of a report besides its charts; report.json names the experiment. */
const REPORT_FILES = { text: "report.md", data: "report.json", page: "experiment.html" } as const;
/** The charts that every report may have. */
const CHART_FILES = ["measures.svg", "loss.svg", "layers.svg"];
/** Folder of the pruned model within that of its cell. */
const MODEL_FOLDER = "model";

/** Files of an experiment. */
export class Store {
  readonly out: string;

  constructor(out: string) {
    this.out = out;
  }

  /**
   * Throws `CompressoError("usage")` if its path cannot be a folder, for example below a file, and if the report would
   * overwrite the report of another experiment or files of the user.
   */
  async check(experiment: string): Promise<void> {
    let value = "a file";
    try {
      if ((await Deno.stat(this.out)).isDirectory) return await this.#checkReport(experiment);
    } catch (error) {
      if (error instanceof CompressoError) throw error;
      if (error instanceof Deno.errors.NotFound) return;
      value = textOf(error);
    }
    refuse("usage", `cannot write to ${this.out}`, { rule: `${option("out")} is a folder`, value, option: "out" });
  }

  async #checkReport(experiment: string): Promise<void> {
    const fail = (value: string, fix: string): never =>
      refuse("usage", `cannot write the report of ${experiment} to ${this.out}`, {
        rule: "a report in the folder is of the same experiment",
        value,
        fix,
        option: "out",
      });
    const report = await readJson<{ readonly name?: unknown; readonly cells?: unknown }>(
      join(this.out, REPORT_FILES.data),
    ).catch(() => null);
    const writer = Array.isArray(report?.cells) && typeof report.name === "string" ? report.name : null;
    if (writer === experiment) return;
    if (writer !== null) {
      fail(`that of ${writer}`, `choose another ${option("out")}, or remove that report and its charts`);
    }
    // Reports begin with report.json: without it such files are the user's.
    const own = (await namesIn(this.out)).find((name) =>
      [...Object.values(REPORT_FILES), ...CHART_FILES].includes(name)
    );
    if (own !== undefined) fail(`${own}, which no experiment wrote`, `choose another ${option("out")}`);
  }

  /**
   * Writes report.md, report.json, experiment.html and the charts, and removes charts that only the earlier report shows. Returns the
   * written paths. report.json comes first: it marks the other files as the experiment's own.
   */
  async writeReport({ markdown, page, data, charts }: ReportFiles): Promise<readonly string[]> {
    const path = (name: string): string => join(this.out, name), drawn = charts.map(({ file }) => file);
    const before = chartsIn(await textIfThere(path(REPORT_FILES.text)) ?? "");
    await writeJson(path(REPORT_FILES.data), data);
    for (const { file, svg } of charts) await writeFileAtomically(path(file), svg);
    await writeFileAtomically(path(REPORT_FILES.text), markdown);
    await writeFileAtomically(path(REPORT_FILES.page), page);
    for (const file of before.filter((one) => !drawn.includes(one))) {
      await Deno.remove(path(file)).catch(() => undefined);
    }
    return [...Object.values(REPORT_FILES), ...drawn].map(path);
  }

  /** Path of a cell's folder, by the folder's name. */
  cell(name: string): string {
    return join(this.out, "cells", name);
  }

  /** Folder of a model before pruning, for its measures. Other weights of the same name have another one. */
  dense({ name, baseDtype, weights }: Pick<CellModel, "name" | "baseDtype" | "weights">): string {
    return join(this.out, "dense", `${name}-${baseDtype}-${weights.slice(0, 8)}`);
  }

  /** Folder of a cell's pruned model. */
  model(name: string): string {
    return join(this.cell(name), MODEL_FOLDER);
  }

  /** Identities of all cells that have a folder, by its name; unreadable ones are left out. */
  async identities(): Promise<ReadonlyMap<string, CellIdentity>> {
    const found = new Map<string, CellIdentity>();
    for (const name of await namesIn(this.cell(""))) {
      const file = await this.cellFile(name).catch(() => null);
      if (file) found.set(name, file.identity);
    }
    return found;
  }

  /** Folder of the leases of processes that share the experiment. */
  get leases(): string {
    return join(this.out, "leases");
  }

  /** Folder of self-written texts. */
  get data(): string {
    return join(this.out, "data");
  }

  /** The state of a cell, from its folder. */
  async stateOf(name: string, identity: CellIdentity, measures: readonly Measure[]): Promise<CellState> {
    const file = await this.cellFile(name), dir = this.cell(name);
    if (!file) return { kind: "new" };
    const what = differences(file.identity, identity) &&
      differences(file.identity, identity, { raised: await this.#raised(name) });
    if (what !== null) {
      const { next } = file, isThis = next && differences(next.identity, identity) === null;
      return { kind: "changed", what, failure: isThis ? next.failure : null };
    }
    const { isMeasured = false, failure } = file, isFinished = await exists(join(dir, SUMMARY_FILE));
    const hasModel = await hasWeights(this.model(name));
    if (failure && !isFinished) return { kind: "failed", what: failure.message, tries: failure.tries };
    if (!isFinished || (!isMeasured && !failure && !hasModel)) {
      return { kind: await this.isResumable(name) ? "stopped" : "new" };
    }
    if (!isMeasured && !failure) return { kind: "pruned" };
    const missing = missingOf(measures, await this.measured(dir));
    // A measure that failed may no longer be in the definition.
    if (missing.length === 0) return { kind: "done" };
    return {
      kind: "unmeasured",
      missing: missing.map(({ id }) => id),
      hasModel,
      failure: standing(failure ?? null, missing),
    };
  }

  /** The monitors that raised an alarm in a run that has ended; null if they are unknown, as after a rollback: alarms of undone steps are gone. */
  async #raised(name: string): Promise<MonitorName[] | null> {
    const alarms = (await readSummary(this.cell(name)))?.alarms ?? null;
    if (alarms === null || alarms.some(({ restored }) => restored !== null)) return null;
    return [...new Set(alarms.map(({ monitor }) => monitor))];
  }

  /**
   * Makes the folder of a cell; `restarts` empties it, except for the lock of the run that begins. cell.json is replaced last, so that old files are never taken
   * for those of the new run. A folder without cell.json counts as empty.
   */
  async begin(name: string, identity: CellIdentity, { restarts }: { readonly restarts: boolean }): Promise<void> {
    const dir = this.cell(name), path = join(dir, FILES.cell);
    await makeFolder(dir);
    const before = restarts || !await exists(path) ? null : await this.cellFile(name);
    for (const own of before ? [SUMMARY_FILE] : await namesIn(dir)) {
      if (own !== LOCK_FILE && own !== FILES.cell) await removeOld(join(dir, own));
    }
    await this.setCell(name, { ...before, identity });
  }

  /** cell.json of a cell or, for a plain run, the same from its run.json; null if there is neither. */
  async cellFile(name: string): Promise<CellFile | null> {
    const dir = this.cell(name), path = join(dir, FILES.cell), file = await readJson<CellFile>(path);
    if (file === null) {
      const summary = await readSummary(dir), identity = summary && identityOfRun(summary);
      return identity && { identity, keepsModel: true };
    }
    if (isObject(file) && isObject(file.identity)) return file;
    return refuse("input", `cannot continue the cell in ${dir}`, {
      rule: `${FILES.cell} has the identity of its run`,
      value: "it is damaged, or of an earlier version of Compresso",
      fix: `remove the folder to run the cell again, or choose another ${option("out")}`,
    });
  }

  async setCell(name: string, file: CellFile): Promise<void> {
    await writeJson(join(this.cell(name), FILES.cell), file);
  }

  /** Values of a cell or a dense model, by its folder. */
  async measured(dir: string): Promise<Measured> {
    return await readJson<Measured>(join(dir, FILES.measured)) ?? {};
  }

  /** Adds a measure's values. Those of another measure with the same name stay under another key: they may be needed again. */
  async addMeasured(dir: string, { id, identity }: Measure, values: readonly Value[]): Promise<void> {
    const before = await this.measured(dir), other = before[id];
    const kept = other && other.identity !== identity ? { [`${id} (${digestOf([other.identity])})`]: other } : {};
    const all = { ...before, ...kept, [id]: { identity, values } };
    await makeFolder(dir);
    await writeJson(join(dir, FILES.measured), all);
  }

  /** What came of a cell's run, from its folder; null while it is not finished. */
  async outcome(name: string): Promise<CellOutcome | null> {
    const summary = await readSummary(this.cell(name));
    return summary && outcomeOf(summary, await this.records(name));
  }

  /** Records of a cell's run, as far as it came. */
  async records(name: string): Promise<StepRecord[]> {
    return await recordsIn(join(this.cell(name), RECORDS_FILE));
  }

  /** Whether a cell's run has a checkpoint to continue from. */
  async isResumable(name: string): Promise<boolean> {
    return await exists(join(this.cell(name), CHECKPOINT_FILE));
  }

  /** Removes the pruned model's files. */
  async dropModel(name: string): Promise<void> {
    const folder = this.model(name);
    // config.json first: without it the rest is no model.
    await Deno.remove(join(folder, "config.json")).catch(() => undefined);
    await Deno.remove(folder, { recursive: true }).catch(() => undefined);
  }
}

/** Charts that a report shows, by its Markdown. */
function chartsIn(markdown: string): string[] {
  const shown = markdown.matchAll(/^!\[.*\]\(((?:measures|loss|layers)[\w.-]*\.svg)\)$/gm);
  return [...shown].flatMap(([, file]) => file ?? []);
}

/** Measures without values, or with values that were measured with other settings. */
export function missingOf(measures: readonly Measure[], measured: Measured): Measure[] {
  return measures.filter((measure) => takenOf(measure, measured) === null);
}

/** The values of a measure, also where another definition gave it another name; null if there are none. */
function takenOf({ id, identity }: Pick<Measure, "id" | "identity">, measured: Measured): readonly Value[] | null {
  if (measured[id]?.identity === identity) return measured[id].values;
  const same = Object.entries(measured).find(([other, taken]) =>
    kindOf(other) === kindOf(id) && taken.identity === identity
  );
  return same?.[1].values ?? null;
}

/** Kind of a measure, the first word of its id. */
function kindOf(id: string): string {
  return id.replace(/ .*$/s, "");
}

/** A failure, while a measure that was missing then is still missing. The measure that failed may have left the definition. */
function standing(failure: CellFailure | null, missing: readonly Measure[]): CellFailure | null {
  const then = failure?.missing;
  if (!then) return failure;
  const failed = Object.entries(then).map(([id, identity]) => `${kindOf(id)} ${identity}`);
  return missing.some(({ id, identity }) => failed.includes(`${kindOf(id)} ${identity}`)) ? failure : null;
}

/** Valid values, in the order of the measures. */
export function valuesOf(measures: readonly Measure[], measured: Measured): Value[] {
  return measures.flatMap((measure) => measure.named(takenOf(measure, measured) ?? []));
}

/** Writes a value as JSON, whole or not at all. */
async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomically(path, JSON.stringify(value, null, 2) + "\n");
}

async function readJson<T>(path: string): Promise<T | null> {
  const text = await textIfThere(path);
  if (text === null) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw refusal("input", `cannot read ${path}`, {
      rule: "it is a file that this experiment wrote",
      value: textOf(error),
      fix: "remove the cell's folder to run the cell again",
      cause: error,
    });
  }
}

/** Removes a file or folder of the run before. */
async function removeOld(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return;
    throw refusal("input", `cannot remove ${path}`, {
      rule: "files of an earlier run are removed before the cell runs again",
      value: textOf(error),
      fix: "close programs that have it open, or remove the cell's folder",
      cause: error,
    });
  }
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Whether a folder holds a whole model. */
async function hasWeights(folder: string): Promise<boolean> {
  const names = await namesIn(folder);
  return names.includes("config.json") && names.some((name) => name.endsWith(".safetensors"));
}
