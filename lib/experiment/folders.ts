// Which folder each cell has: that of its name, or one to which another grid gave another name. Owns the choice; refuses to write.
import { digestOf } from "../core/digest.ts";
import { differences } from "./identity.ts";
import type { Store } from "./store.ts";
import type { CellIdentity, CellState, Measure } from "./types.ts";

/** Where a cell lies and how far it is. */
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
 * The place of each cell. Names say only what differs in the present grid, so a folder whose facts are a cell's is its own whatever it is
 * called; no two cells have the same one.
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
    // Some file systems take names that differ in capitals for one.
    folded.add(place.folder.toLowerCase());
  };
  for (const cell of cells) {
    const place = await at(cell, cell.name);
    if (isBegun(place)) settle(cell, place);
  }
  if (places.size === cells.length) return places;
  const folders = [...await store.identities()];
  // Cells may differ in what is no fact, such as recompute: each first looks for the folder that says the same of it. What alarms do is none of
  // some runs, as their state will tell.
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
    // Another cell's results may lie in the folder of this name: --redo must not remove them.
    const isFree = !folded.has(cell.name.toLowerCase());
    settle(cell, await at(cell, isFree ? cell.name : `${cell.name},${digestOf([JSON.stringify(cell.identity)])}`));
  }
  return places;
}

const ORDER: readonly CellState["kind"][] = ["done", "unmeasured", "pruned", "stopped", "failed"];

/** Whether a folder holds some of the cell's own work. */
function isBegun({ state: { kind } }: CellPlace): boolean {
  return ORDER.includes(kind);
}

/** Whether two names say nothing different of the same axis. */
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
