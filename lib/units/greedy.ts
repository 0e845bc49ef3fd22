// Greedy cutting: cuts blocks in order until an aim is met, and restores blocks if more were cut than needed.
import type { Block } from "./blocks.ts";
import type { CutState } from "./cut_state.ts";
import type { UnitTable } from "./table.ts";

/** When enough has been cut, and when too much has been cut; slack is in parameters. */
export interface Aim {
  readonly isMet: () => boolean;
  readonly overshoots: (slack: number) => boolean;
  /** Whether blocks that overshoot are skipped while smaller ones may do. Default: true. */
  readonly skips?: boolean | undefined;
}

/**
 * Cuts blocks in order until the aim is met. If the aim allows it, skips blocks that would overshoot by more than the
 * smallest block; if that does not meet the aim, cutting restarts with the next larger allowed overshoot, and finally
 * without a limit. Returns whether the aim was met.
 */
export function cutUntil(state: CutState, order: readonly Block[], aim: Aim): boolean {
  if (aim.isMet()) return true;
  const sizes = [...new Set(order.map(({ size }) => size))].sort((a, b) => a - b).slice(0, MOST_SLACKS);
  for (const slack of aim.skips === false ? [Infinity] : [...sizes, Infinity]) {
    const cut: Block[] = [], stopped = new Set<string | null>();
    for (const block of order) {
      if (block.queue !== null && stopped.has(block.queue)) continue;
      const fell = drop(state, block);
      if (fell && !aim.overshoots(slack)) cut.push(block);
      else {
        if (fell) restore(state, block);
        stopped.add(block.queue);
        continue;
      }
      if (aim.isMet()) return true;
    }
    if (slack !== Infinity) { for (const block of cut.reverse()) restore(state, block); }
  }
  return false;
}

/**
 * {@link cutUntil} for a share of parameters. If a large block was cut last, smaller blocks that are no longer needed
 * are restored. An excess smaller than the smallest block remains.
 */
export function cutTo(table: UnitTable, order: readonly Block[], { state, aim }: {
  readonly state: CutState;
  readonly aim: Aim;
}): boolean {
  if (!cutUntil(state, order, aim)) return false;
  const smallest = order.reduce((least, block) => Math.min(least, mostOf(table, block)), Infinity);
  if (aim.overshoots(smallest)) giveBack(table, order, { state, isMet: aim.isMet });
  return true;
}

/** Largest number of parameters that a block saves: the last head of a group also removes K and V. */
function mostOf({ spec, groups, groupOf }: UnitTable, { units, size }: Block): number {
  const group = units.length === 1 ? groups[groupOf[units[0] ?? -1] ?? -1] : undefined;
  return group ? size + (group.cost - group.cost / group.count) * spec.hidden : size;
}

/**
 * Restores blocks, highest score first, as long as the aim stays met. Blocks outside of queues come first, then also
 * queues, last cut block first, until nothing fits. A head saves fewer parameters than it has, often none, if slicing
 * pads the KV groups of its layer. Which cuts were needed is therefore only known at the end.
 */
export function giveBack(table: UnitTable, order: readonly Block[], { state, isMet }: {
  readonly state: CutState;
  readonly isMet: () => boolean;
}): void {
  const last = order.toReversed();
  const pass = (blocks: readonly Block[]): boolean => {
    const stopped = new Set<string>();
    let isChanged = false;
    for (const block of blocks) {
      const { units, queue, layer } = block, gate = layer === null ? -1 : table.layers[layer]?.gate ?? -1;
      const isDead = gate >= 0 && !state.kept[gate] && units[0] !== gate;
      if (isDead || (queue !== null && stopped.has(queue)) || units.some((unit) => state.kept[unit])) continue;
      restore(state, block);
      if (isMet()) isChanged = true;
      else {
        for (const unit of units) state.drop(unit);
        if (queue !== null) stopped.add(queue);
      }
    }
    return isChanged;
  };
  pass(last.filter(({ queue }) => queue === null));
  // A restored layer has units that can be restored, and a padded group has room for heads.
  while (pass(last));
}

/** Cuts everything that may be cut. */
export function cutAll(state: CutState, blocks: readonly Block[]): CutState {
  const stopped = new Set<string>();
  for (const block of blocks) {
    if (block.queue !== null && stopped.has(block.queue)) continue;
    if (!drop(state, block) && block.queue !== null) stopped.add(block.queue);
  }
  return state;
}

/** Drops all units of a block, or none if a rule forbids one of them. */
export function drop(state: CutState, { units }: Pick<Block, "units">): boolean {
  for (const [index, unit] of units.entries()) {
    if (!state.allows(unit)) {
      restore(state, { units: units.slice(0, index) });
      return false;
    }
    state.drop(unit);
  }
  return true;
}

function restore(state: CutState, { units }: Pick<Block, "units">): void {
  for (let index = units.length - 1; index >= 0; index--) state.restore(units[index] ?? 0);
}

/** Overshoots to try, before any overshoot is allowed. */
const MOST_SLACKS = 16;
