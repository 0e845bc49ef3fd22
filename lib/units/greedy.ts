// Greedy cutting: blocks are cut in order until an aim is met, and restored where more were cut than needed.
import type { Block } from "./blocks.ts";
import type { CutState } from "./cut_state.ts";
import type { UnitTable } from "./table.ts";

/** When enough is cut, and when too much; slack is in parameters. */
export interface Aim {
  readonly isMet: () => boolean;
  readonly overshoots: (slack: number) => boolean;
}

/**
 * Cuts blocks in order until the aim is met. Blocks that would overshoot by more than the smallest one are passed over; where that does not reach
 * the aim, cutting starts again with the next larger size, and at last without limit. Returns whether the aim was met.
 */
export function cutUntil(state: CutState, order: readonly Block[], aim: Aim): boolean {
  if (aim.isMet()) return true;
  const sizes = [...new Set(order.map(({ size }) => size))].sort((a, b) => a - b).slice(0, MOST_SLACKS);
  for (const slack of [...sizes, Infinity]) {
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
 * {@link cutUntil} for a share of parameters: where a large block was cut last, smaller blocks that are no longer needed are restored. An excess of
 * less than the smallest block stays.
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

/** Parameters that a block saves at most: the last head of a group takes K and V along. */
function mostOf({ spec, groups, groupOf }: UnitTable, { units, size }: Block): number {
  const group = units.length === 1 ? groups[groupOf[units[0] ?? -1] ?? -1] : undefined;
  return group ? size + (group.cost - group.cost / group.count) * spec.hidden : size;
}

/**
 * Restores blocks, of the highest score first, as long as the aim stays met: first those in no queue, and then queues too, the block that was cut last
 * first, until nothing fits. A head saves less than its parameters, often nothing, where slicing fills up its layer's KV groups: only at the end is it
 * clear which cuts were needed.
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
  // A layer that came back has units to give, and a group that is filled up room for heads.
  while (pass(last));
}

/** Cuts all that may be cut. */
export function cutAll(state: CutState, blocks: readonly Block[]): CutState {
  const stopped = new Set<string>();
  for (const block of blocks) {
    if (block.queue !== null && stopped.has(block.queue)) continue;
    if (!drop(state, block) && block.queue !== null) stopped.add(block.queue);
  }
  return state;
}

/** Drops all units of a block, or none where a rule forbids one. */
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

/** Sizes that are tried as the overshoot, before any overshoot is allowed. */
const MOST_SLACKS = 16;
