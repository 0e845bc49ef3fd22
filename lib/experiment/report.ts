// The data of a report: groups of cells that differ by their seed only, and differences along each axis.
import { charts } from "./charts.ts";
import { messageOfState } from "./failure.ts";
import { areTied, axesOf, goTogether, labelsOfOption } from "./grid.ts";
import { markdown } from "./markdown.ts";
import { experimentPage } from "./page.ts";
import type { CellOptionName } from "./options.ts";
import type { ExperimentPlan } from "./plan.ts";
import { protocolOf } from "./setup_lines.ts";
import { RUN_NUMBERS, UNEVENNESS } from "./run_numbers.ts";
import { differenceOf, distanceOf, meanDistance, type SeedValue, spreadOf } from "./statistics.ts";
import { type Store, valuesOf } from "./store.ts";
import type {
  Cell,
  Contrast,
  ExperimentReport,
  Group,
  Measure,
  NumberName,
  PlannedCell,
  ReportCell,
  ResolvedExperiment,
  Value,
} from "./types.ts";

/** The report of all that is known now. */
export async function makeReport(
  experiment: ResolvedExperiment,
  { all, measures }: ExperimentPlan,
  store: Store,
): Promise<ExperimentReport> {
  const { definition } = experiment, axes = axesOf(definition), place = placesOf(all, axes);
  const cells: ReportCell[] = [], losses: Record<string, readonly number[]> = {};
  const dense: Record<string, readonly Value[]> = {}, unfinished: { cell: string; state: string }[] = [];
  for (const planned of all) {
    const { model, name, folder, state } = planned;
    dense[denseName(model)] ??= withMeans(valuesOf(measures, await store.measured(store.dense(model))));
    const failure = messageOfState(state), isFinished = state.kind === "done" || state.kind === "unmeasured";
    if (failure !== null) unfinished.push({ cell: name, state: `failed: ${failure}` });
    else if (!isFinished) {
      unfinished.push({ cell: name, state: "what" in state ? `${state.kind}: ${state.what}` : state.kind });
    }
    if (!isFinished) continue;
    const found = await reportCell(planned, { at: place(planned), measures, store });
    if (!found) continue;
    cells.push(found);
    losses[name] = (await store.records(folder)).map(({ loss }) => loss);
  }
  const groups = groupsOf(all.map(place), cells, axes), own = await valuesOfCells(all, measures, store);
  return {
    name: definition.name,
    question: definition.question ?? null,
    protocol: protocolOf(experiment, all),
    axes,
    names: namesOf(cells, [...Object.values(dense), ...own].flat()),
    dense,
    truncations: truncationsOf(
      all.flatMap(({ model }, index) =>
        [...dense[denseName(model)] ?? [], ...own[index] ?? []].map((value) => ({ model: model.name, value }))
      ),
    ),
    groups,
    contrasts: contrastsOf(cells, axes, all.map(place)),
    cells,
    unfinished,
    losses,
  };
}

/** Writes report.md, report.json, experiment.html and the charts. Returns their paths. */
export async function writeReport(report: ExperimentReport, store: Store): Promise<readonly string[]> {
  const drawn = charts(report), { losses: _losses, ...data } = report;
  const text = markdown(report, drawn);
  return await store.writeReport({ markdown: text, page: experimentPage(text, drawn), data, charts: drawn });
}

async function reportCell({ name: cell, folder }: PlannedCell, { at, measures, store }: {
  readonly at: Place;
  readonly measures: readonly Measure[];
  readonly store: Store;
}): Promise<ReportCell | null> {
  const outcome = await store.outcome(folder);
  if (!outcome) return null;
  const numbers: Record<string, number> = {}, measuredTokens: Record<string, string> = {};
  for (const { name, value, tokens } of withMeans(valuesOf(measures, await store.measured(store.cell(folder))))) {
    if (tokens !== undefined) measuredTokens[name] = tokens;
    // JSON stores infinities and NaN as null.
    if (Number.isFinite(value)) numbers[name] = value;
  }
  for (const { name, of } of RUN_NUMBERS) {
    const value = of(outcome);
    if (value !== null && Number.isFinite(value)) numbers[name] = value;
  }
  const { cut: { layers }, steps, tokens, adapter, alarms } = outcome;
  return { cell, folder, at, numbers, measuredTokens, layers, steps, tokens, adapter, alarms };
}

async function valuesOfCells(
  all: readonly PlannedCell[],
  measures: readonly Measure[],
  store: Store,
): Promise<Value[][]> {
  const lists: Value[][] = [];
  for (const { folder } of all) lists.push(withMeans(valuesOf(measures, await store.measured(store.cell(folder)))));
  return lists;
}

function denseName({ name, baseDtype }: PlannedCell["model"]): string {
  return baseDtype === "f16" ? name : `${name} (${baseDtype})`;
}

/** Each task once for each model. */
function truncationsOf(
  taken: readonly { readonly model: string; readonly value: Value }[],
): ExperimentReport["truncations"] {
  const found = new Map<string, ExperimentReport["truncations"][number]>();
  for (const { model, value: { task: name, label = "", truncated = 0, n } } of taken) {
    const task = `${name}${label}`, key = JSON.stringify([model, task]);
    if (name === undefined || truncated <= (found.get(key)?.truncated ?? 0)) continue;
    found.set(key, { model, task, truncated, n });
  }
  return [...found.values()];
}

/** Means over the tasks, where there are several. */
function withMeans(values: readonly Value[]): Value[] {
  const labels = [...new Set(values.flatMap(({ task, label = "" }) => task === undefined ? [] : [label]))];
  const wanted = labels.flatMap((label) => ["acc", "acc_norm", "exact_match"].map((metric) => ({ metric, label })));
  const means = wanted.flatMap(({ metric, label }): Value[] => {
    const own = values.filter(({ task, name }) => task !== undefined && name === `${task} ${metric}${label}`);
    if (own.length < 2) return [];
    const total = own.reduce((sum, { value }) => sum + value, 0);
    const errors = own.reduce((sum, { stderr }) => sum + (stderr ?? NaN) ** 2, 0);
    return [{
      name: `mean ${metric} of ${own.length} tasks${label}`,
      tasks: own.length,
      kind: "accuracy",
      value: total / own.length,
      stderr: Number.isFinite(errors) ? Math.sqrt(errors) / own.length : null,
      n: own.reduce((sum, { n }) => sum + n, 0),
    }];
  });
  const isSingle = ({ task }: Value): boolean => task !== undefined && means.length > 0;
  return [...values.filter((value) => !isSingle(value)), ...means, ...values.filter(isSingle)];
}

function namesOf(cells: readonly ReportCell[], values: readonly Value[]): NumberName[] {
  const tasks = new Set(values.flatMap(({ task }) => task ?? []));
  const measured = new Map(values.map(({ name, kind, task }) =>
    [
      name,
      { name, kind, isMeasure: true, ...(task !== undefined && tasks.size > 1 ? { isPart: true } : {}) },
    ] as const
  ));
  const run = RUN_NUMBERS.filter(({ name }) => cells.some(({ numbers }) => numbers[name] !== undefined));
  return [...measured.values(), ...run.map(({ name, kind, isMeasure }) => ({ name, kind, isMeasure }))];
}

/** Labels of a cell's values along the axes; different values have different labels. */
type Place = Readonly<Record<string, string>>;

function placesOf(all: readonly Cell[], axes: readonly CellOptionName[]): (cell: Cell) => Place {
  const labels = axes.map((axis) => [axis, labelsOfOption(axis, all)] as const);
  return ({ options }) => Object.fromEntries(labels.map(([axis, label]) => [axis, label(options[axis])]));
}

function groupsOf(all: readonly Place[], cells: readonly ReportCell[], axes: readonly CellOptionName[]): Group[] {
  const others = axes.filter((axis) => axis !== "seed");
  const key = (at: Place): string => JSON.stringify(others.map((axis) => at[axis]));
  const places = new Map(all.map((at) => [key(at), Object.fromEntries(others.map((axis) => [axis, at[axis] ?? ""]))]));
  return [...places].map(([wanted, at]): Group => {
    const own = cells.filter((cell) => key(cell.at) === wanted);
    const names = [...new Set(own.flatMap(({ numbers }) => Object.keys(numbers)))];
    const layers = own.map((cell) => cell.layers);
    return {
      at,
      cells: own.map(({ cell }) => cell),
      wanted: all.filter((place) => key(place) === wanted).length,
      numbers: Object.fromEntries(names.flatMap((name) => {
        const spread = spreadOf(own.flatMap(({ numbers }) => numbers[name] ?? []));
        return spread ? [[name, spread]] : [];
      })),
      layers: layers[0]?.map((_, layer) => spreadOf(layers.map((shares) => shares[layer] ?? NaN))?.mean ?? NaN) ?? [],
      layerSpread: meanDistance(layers),
    };
  });
}

/**
 * For each axis except the seed: compares every value with the first value that forms pairs with it. The two cells of a
 * pair differ only in that value.
 */
function contrastsOf(
  cells: readonly ReportCell[],
  axes: readonly CellOptionName[],
  places: readonly Place[],
): Contrast[] {
  const free = axes.filter((axis, index) => !axes.slice(0, index).some((other) => areTied(places, other, axis)));
  return free.filter((axis) => axis !== "seed").flatMap((axis) => {
    const rest = free.filter((other) => other !== axis);
    const tied = axes.filter((other) => other !== axis && areTied(places, axis, other));
    // The seed and axes that change with it are not part of a setting.
    const shared = rest.filter((other) => !goTogether(places, "seed", other));
    const key = ({ at }: Pick<ReportCell, "at">): string => JSON.stringify(rest.map((other) => at[other]));
    // In the order of the definition.
    const values = [...new Set(places.map((at) => at[axis] ?? ""))];
    const settings = new Map(
      values.map((value) => [value, new Set(places.filter((at) => at[axis] === value).map((at) => key({ at })))]),
    );
    return values.flatMap((to, index): Contrast[] => {
      // In joined grids the first value may have no pairs.
      const from = values.slice(0, index).find((value) =>
        !settings.get(value)?.isDisjointFrom(settings.get(to) ?? new Set())
      );
      if (from === undefined) return [];
      const first = new Map(cells.filter(({ at }) => at[axis] === from).map((cell) => [key(cell), cell]));
      const pairs = cells.filter(({ at }) => at[axis] === to).flatMap((cell) => {
        const partner = first.get(key(cell));
        return partner ? [[partner, cell] as const] : [];
      });
      return [{ axis: [axis, ...tied].join(" with "), from, to, ...differencesOf(pairs, shared) }];
    });
  });
}

/** Numbers that cannot be compared between two runs: perplexities over different tokens, and then losses too. */
function incomparable(a: ReportCell, b: ReportCell): ReadonlySet<string> {
  const other = Object.keys(a.measuredTokens).filter((name) =>
    b.measuredTokens[name] !== undefined && b.measuredTokens[name] !== a.measuredTokens[name]
  );
  const losses = RUN_NUMBERS.filter(({ kind }) => kind === "loss").map(({ name }) => name);
  return new Set(other.length > 0 ? [...other, ...losses] : []);
}

/** The numbers of the second cells of pairs minus those of the first; `shared` are the axes that form a setting. */
function differencesOf(
  pairs: readonly (readonly [ReportCell, ReportCell])[],
  shared: readonly CellOptionName[],
): Pick<Contrast, "numbers" | "layerDistance"> {
  const names = [...new Set(pairs.flatMap(([, { numbers }]) => Object.keys(numbers)))];
  const placed = ({ at }: ReportCell): Pick<SeedValue, "seed" | "setting"> => ({
    seed: at["seed"] ?? "",
    setting: JSON.stringify(shared.map((axis) => at[axis])),
  });
  const isUniform = ({ at }: ReportCell): boolean => at["layout"] === "uniform";
  // Two uniform layouts have distance 0 by construction.
  const ofLayers = pairs.filter(([a, b]) => !(isUniform(a) && isUniform(b)));
  const both = (name: string): SeedValue[] =>
    (name === UNEVENNESS ? ofLayers : pairs).flatMap(([a, b]) => {
      const x = a.numbers[name], y = b.numbers[name];
      return x === undefined || y === undefined || incomparable(a, b).has(name) ? [] : [{ ...placed(b), value: y - x }];
    });
  return {
    numbers: Object.fromEntries(names.flatMap((name) => {
      const difference = differenceOf(both(name));
      return difference ? [[name, difference]] : [];
    })),
    layerDistance: differenceOf(
      ofLayers.filter(([a, b]) => a.layers.length === b.layers.length)
        .map(([a, b]) => ({ ...placed(b), value: distanceOf(a.layers, b.layers) })),
    ),
  };
}
