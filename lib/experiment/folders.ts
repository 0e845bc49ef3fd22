// Finds the folder of each cell: the folder of its name, or a folder that an earlier grid named differently.
import { digestOf } from "../core/digest.ts";
import { differences } from "./identity.ts";
import type { Store } from "./store.ts";
import type { CellIdentity, CellState, Measure } from "./types.ts";

/** The folder of a cell and its state. */
export interface CellPlace {
  /** Name of its folder. */
  readonly folder: string;
  /** How far it is. */
  readonly state: CellState;
}

/** A cell without its folder. */
export interface UnplacedCell {
  readonly name: string;
  readonly identity: CellIdentity;
}

/**
 * The folder of each cell. A name holds only the options that differ in the present grid, so a folder with a cell's
 * identity belongs to that cell under any name. No two cells share a folder.
 */
export async function placeCells(
  cells: readonly UnplacedCell[],
  { store, measures }: { readonly store: Store; readonly measures: readonly Measure[] },
): Promise<ReadonlyMap<UnplacedCell, CellPlace>> {
  const places = new Map<UnplacedCell, CellPlace>(), taken = new Set<string>(), folded = new Set<string>();
  const at = async (cell: UnplacedCell, folder: string): Promise<CellPlace> => ({
    folder,
    state: await store.stateOf(folder, cell.identity, measures),
  });
  const settle = (cell: UnplacedCell, place: CellPlace): void => {
    places.set(cell, place);
    taken.add(place.folder);
    // Some file systems ignore case.
    folded.add(place.folder.toLowerCase());
  };
  for (const cell of cells) {
    const place = await at(cell, cell.name);
    if (isBegun(place)) settle(cell, place);
  }
  if (places.size === cells.length) return places;
  const folders = [...await store.identities()];
  // Cells may differ in options outside their identity, such as recompute: each first looks for a folder whose name
  // agrees. Actions of alarms count only for some runs; the state of a run decides.
  const always = (): boolean => true;
  for (const [fits, raised] of [[agree, null], [always, null], [always, []]] as const) {
    for (const cell of cells.filter((one) => !places.has(one))) {
      const equal = folders.filter(([folder, identity]) =>
        !taken.has(folder) && fits(folder, cell.name) &&
        differences(identity, cell.identity, { raised }) === null
      );
      const found = (await Promise.all(equal.map(([folder]) => at(cell, folder)))).filter(isBegun);
      const [furthest] = found.sort((a, b) => ORDER.indexOf(a.state.kind) - ORDER.indexOf(b.state.kind));
      if (furthest) settle(cell, furthest);
    }
  }
  for (const cell of cells.filter((one) => !places.has(one))) {
    // Another cell's results may lie in the folder of this name, and must not be removed.
    const isFree = !folded.has(cell.name.toLowerCase());
    settle(cell, await at(cell, isFree ? cell.name : `${cell.name},${digestOf([JSON.stringify(cell.identity)])}`));
  }
  return places;
}

const ORDER: readonly CellState["kind"][] = ["done", "unmeasured", "pruned", "stopped", "failed"];

/** Whether a folder holds work of the cell. */
function isBegun({ state: { kind } }: CellPlace): boolean {
  return ORDER.includes(kind);
}

/** Whether two names agree on every axis that both have. */
function agree(folder: string, name: string): boolean {
  const parts = (text: string): Map<string, string> =>
    new Map(
      text.split(",").flatMap((part) => {
        const [, axis, value] = /^(\w+)=(.*)$/.exec(part) ?? [];
        return axis === undefined || value === undefined ? [] : [[axis, value] as const];
      }),
    );
  const own = parts(name);
  return [...parts(folder)].every(([axis, value]) => (own.get(axis) ?? value) === value);
}
