// The plan of an experiment: its cells with options, identity and state, checked before anything runs.
import { CompressoError, refuse } from "../core/errors.ts";
import { modelPath, openModelFiles } from "../local/open_model.ts";
import { resolveRules } from "../units/rules.ts";
import { stagesOf } from "../run/methods/stages.ts";
import { resolveOptions } from "../run/options/resolve.ts";
import { openSchedule, scriptParts } from "../schedule/host.ts";
import { checkTrust, isScript } from "../schedule/open.ts";
import { checkFollowed, optionNumbers } from "../run/schedule_parts.ts";
import { type CellPlace, placeCells } from "./folders.ts";
import { chooseCells } from "./grid.ts";
import { differences, identityOfCell, scheduleName } from "./identity.ts";
import { checkLengths, measuresOf, promptOf } from "./measures.ts";
import { writtenRoom } from "../generate/self_data.ts";
import { pruneOptions, spellCell } from "./options.ts";
import { RowCache, weightsDigest } from "./rows.ts";
import type { Store } from "./store.ts";
import type {
  Cell,
  CellModel,
  DataSource,
  FileData,
  Filter,
  Measure,
  PlannedCell,
  ResolvedExperiment,
} from "./types.ts";

/** The plan. */
export interface ExperimentPlan {
  /** Cells that were chosen, in the order in which they run. */
  readonly cells: readonly PlannedCell[];
  /** All cells of the experiment, chosen or not. */
  readonly all: readonly PlannedCell[];
  readonly measures: readonly Measure[];
  readonly cache: RowCache;
}

/** The plan with the present states of its cells. */
export async function refreshed(plan: ExperimentPlan, store: Store): Promise<ExperimentPlan> {
  const all = await Promise.all(
    plan.all.map(async (cell) => ({
      ...cell,
      state: await store.stateOf(cell.folder, cell.identity, plan.measures),
    })),
  );
  const chosen = new Set(plan.cells.map(({ name }) => name));
  return { ...plan, all, cells: all.filter(({ name }) => chosen.has(name)) };
}

/**
 * Plans an experiment.
 *
 * @throws CompressoError for options that cannot work in a cell, which it names, for missing files, and for a store that is no folder or holds the report
 * of another experiment
 */
export async function planCells(
  experiment: ResolvedExperiment,
  store: Store,
  { only = new Map() }: { readonly only?: Filter | undefined } = {},
): Promise<ExperimentPlan> {
  await store.check(experiment.definition.name);
  const cache = new RowCache(), measures = await measuresOf(experiment.evaluate, cache);
  const models = new Map<string, CellModel>(), schedules = new Map<string, CellSchedule>(), drafts: CellDraft[] = [];
  const chosen = new Set(chooseCells(experiment.cells, only).map(({ name }) => name));
  for (const cell of experiment.cells) {
    const model = await modelOf(cell, { experiment, models });
    try {
      drafts.push(await planCell(cell, { experiment, cache, model, schedules, isChosen: chosen.has(cell.name) }));
    } catch (error) {
      if (!(error instanceof CompressoError) || error.code !== "usage") throw error;
      throw error.with({ spell: spellCell, at: `cell ${cell.name}` });
    }
  }
  const trusted = experiment.cells.filter(({ options }) => options.trust).map(({ options }) => options.schedule);
  // Trust may be for some of the cells only.
  if (trusted.length > 0 && !trusted.some(isScript)) checkTrust(trusted[0], true);
  for (const model of models.values()) checkLengths(experiment.evaluate, model);
  const places = await placeCells(drafts, { store, measures });
  const all = drafts.flatMap((draft): PlannedCell[] => {
    const place = places.get(draft);
    return place ? [{ ...draft, ...place }] : [];
  });
  return { cells: all.filter(({ name }) => chosen.has(name)), all, measures, cache };
}

/**
 * Refuses a cell whose files changed since it was planned; for a cell that is only `measured`, only the model counts.
 * Files that can no longer be read are refused when the cell reads them.
 *
 * @throws CompressoError("mismatch")
 */
export async function checkUnchanged(
  { name, options: { schedule, trust }, source, calibration, heldOut, model: { path, weights }, identity }: PlannedCell,
  { measured }: { readonly measured: boolean },
): Promise<void> {
  const facts: Readonly<Record<string, () => Promise<string>>> = {
    weights: async () => await weightsDigest(await modelPath(path)),
    ...(measured ? {} : {
      schedule: () => scheduleName(schedule, { trust }),
      data: () => new RowCache().identity(source, weights),
      ...(calibration === null ? {} : { calibration: () => new RowCache().identity(calibration, weights) }),
      ...(heldOut === null ? {} : { valRows: () => new RowCache().identity(heldOut, weights) }),
    }),
  };
  const now = await Promise.all(
    Object.entries(facts).map(async ([fact, read]) => [fact, await read().catch(() => identity[fact] ?? "")]),
  );
  const value = differences(identity, { ...identity, ...Object.fromEntries(now) });
  if (value === null) return;
  refuse("mismatch", `cannot continue cell ${name}`, {
    rule: "data, schedule and model do not change while the experiment runs",
    value,
    fix: "start again, or put them back first; finished cells are kept",
  });
}

type CellDraft = Omit<PlannedCell, keyof CellPlace>;

/** A schedule as cells have it. */
interface CellSchedule {
  /** Its short name, see `scheduleName`. */
  readonly name: string;
  /**
   * The parts that a script steers; null for a built-in schedule, for a script that fails (its cells report that) and
   * for one that may not be run yet.
   */
  readonly script: Awaited<ReturnType<typeof scriptParts>>;
}

async function scheduleOf(schedule: string | undefined, { trust }: { readonly trust: boolean }): Promise<CellSchedule> {
  if (trust && schedule !== undefined && isScript(schedule)) {
    await using opened = await openSchedule(schedule, { trust });
    return { name: opened.identity, script: { name: opened.name, parts: opened.parts } };
  }
  const name = await scheduleName(schedule);
  try {
    return { name, script: await scriptParts(schedule) };
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    return { name, script: null };
  }
}

async function planCell(cell: Cell, { experiment, cache, model, schedules, isChosen }: {
  readonly experiment: ResolvedExperiment;
  readonly cache: RowCache;
  readonly model: CellModel;
  /** Known schedules: each script is read once. */
  readonly schedules: Map<string, CellSchedule>;
  /** Whether it was chosen. */
  readonly isChosen: boolean;
}): Promise<CellDraft> {
  const { options } = cell, { spec, weights } = model;
  const source = limited(pick(experiment.data, options.data, "data"), options.limitRows);
  const calibration = options.calibration === undefined
    ? null
    : pick(experiment.data, options.calibration, "calibration");
  const heldOut = options.valData === undefined ? null : pick(experiment.data, options.valData, "valData");
  for (const one of [source, calibration, heldOut]) if (one !== null) checkWrittenLength(one, model);
  const prune = pruneOptions(options, { prompt: await promptOf(options.prompt), layers: spec.layers.length });
  const resolved = resolveOptions({ ...prune, rows: [] }, spec);
  const { trust = false } = options, key = `${trust} ${options.schedule ?? ""}`;
  const schedule = schedules.get(key) ?? await scheduleOf(options.schedule, { trust });
  schedules.set(key, schedule);
  const identity = identityOfCell({
    options,
    resolved,
    weights,
    data: await cache.identity(source, weights),
    calibration: calibration === null ? null : await cache.identity(calibration, weights),
    heldOut: heldOut === null ? null : await cache.identity(heldOut, weights),
    schedule: schedule.name,
  });
  if (isChosen && schedule.script) checkFollowed(schedule.script, { given: optionNumbers(prune), options: resolved });
  resolveRules(spec, resolved.rules); // before a cell is spent on what no model of this shape can have
  const steps = stagesOf(resolved).reduce((sum, stage) => sum + stage.steps, 0);
  return {
    ...cell,
    model,
    source,
    calibration,
    heldOut,
    prune,
    identity,
    steps,
    tokens: steps * resolved.batch * resolved.accumulate * resolved.seq,
  };
}

async function modelOf({ options }: Cell, { experiment, models }: {
  readonly experiment: ResolvedExperiment;
  readonly models: Map<string, CellModel>;
}): Promise<CellModel> {
  const path = pick(experiment.models, options.model, "model"), baseDtype = options.baseDtype ?? "f16";
  const names = Object.keys(experiment.models);
  const name = options.model ?? names[0] ?? "model", key = `${name} ${baseDtype}`;
  const known = models.get(key);
  if (known) return known;
  const weights = await weightsDigest(await modelPath(path)),
    { source: { spec }, tokenizer } = await openModelFiles(path);
  const model = { name, path, baseDtype, spec, weights, room: writtenRoom(spec, tokenizer) };
  models.set(key, model);
  return model;
}

/** Refuses texts or answers that are longer than the model's context. Throws `CompressoError("usage")`. */
function checkWrittenLength(source: DataSource, { name, room }: CellModel): void {
  if (typeof source === "string" || "file" in source) return;
  const [what, { tokens }] = "answers" in source ? ["answers", source.answers] : ["generate", source.generate];
  if (tokens <= room) return;
  refuse("usage", `cannot have the model ${name} write texts`, {
    rule: `${what}'s tokens are at most ${room}, as many as fit into the model's context`,
    value: tokens,
  });
}

/** The first rows of a source. */
function limited(source: DataSource, limit: number | undefined): DataSource {
  if (limit === undefined) return source;
  const file = typeof source === "string" ? { file: source } : source;
  const first = (rows: FileData): { limit: number } => ({ limit: Math.min(limit, rows.limit ?? limit) });
  if ("answers" in file && file.answers.last === undefined) {
    return { answers: { ...file.answers, ...first(file.answers) } };
  }
  if ("file" in file && file.last === undefined) return { ...file, ...first(file) };
  refuse("usage", "cannot use limitRows with these data", {
    rule: "it takes the first rows of a file",
    value: "generate" in file ? "the model writes them itself" : "the last rows are asked for",
    fix: "leave limitRows out, or set limit of the data",
  });
}

/** One of several by its name; a single one needs no name. */
function pick<T>(parts: Readonly<Record<string, T>>, name: string | undefined, option: string): T {
  const names = Object.keys(parts), found = parts[name ?? (names.length === 1 ? names[0] ?? "" : "")];
  if (found !== undefined) return found;
  refuse("usage", `cannot choose the ${option} of a cell`, {
    rule: `base or grid set '${option}' where there are several`,
    value: `${names.join(", ")}; ${name ?? "none"} is set`,
  });
}
