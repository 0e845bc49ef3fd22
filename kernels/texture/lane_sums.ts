// WGSL of sums over the lanes of a subgroup of eight.
import { range } from "../shared/range.ts";

const LANES = 8;

/**
 * Statements that define `name`: in lane i, the sum over all lanes of the i-th value, in the order of the lanes. Lanes
 * whose numbers differ in one bit exchange half of their values, for each bit; `lane` is a lane's number.
 */
export function laneSums(name: string, values: readonly string[]): string {
  let held = range(LANES).map((i) => values[i] ?? values[0]);
  const lines: string[] = [];
  for (const bit of [1, 2, 4]) {
    const next = [...held], isLow = `(lane & ${bit}u) == 0u`;
    for (const i of range(LANES).filter((i) => (i & bit) === 0)) {
      const j = i | bit, own = `${name}_${bit}_${i}`, other = `${name}_${bit}_${j}`;
      lines.push(
        `      let ${own} = select(subgroupShuffleXor(${held[j]}, ${bit}u), ${held[i]}, ${isLow});`,
        `      let ${other} = select(${held[j]}, subgroupShuffleXor(${held[i]}, ${bit}u), ${isLow});`,
      );
      next[i] = own;
      next[j] = other;
    }
    held = next;
  }
  return [...lines, `      let ${name} = ${held.join(" + ")};`].join("\n");
}
