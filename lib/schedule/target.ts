// The sparsity at which a schedule ends by itself, for a run that is given no target.
import { option, refuse } from "../core/errors.ts";
import type { OpenSchedule } from "./open.ts";

/** Two targets for a schedule's input. A schedule that sets the sparsity itself returns the same for both. */
const SHOWN = [0.25, 0.75] as const;

/**
 * The sparsity that a schedule holds at the last step, asked with no records and uncut layers.
 *
 * @throws CompressoError("usage") if the schedule sets none, or follows the target of the run
 */
export async function endSparsity(
  schedule: OpenSchedule,
  { steps, layers }: { readonly steps: number; readonly layers: number },
): Promise<number> {
  const fail = (value: string): never => {
    refuse("usage", `cannot take the target from the schedule ${schedule.name}`, {
      rule: "its sparsity at the last step is above 0, and does not follow the target of the run",
      value,
      fix: `give ${option("sparsity")}, or set the end of the schedule's sparsity`,
    });
  };
  if (!schedule.parts.includes("sparsity")) return fail("it sets no sparsity");
  const ends: (number | null)[] = [];
  for (const sparsity of SHOWN) {
    const output = await schedule.evaluate({
      stage: "prune",
      progress: 1,
      step: Math.max(0, steps - 1),
      steps: Math.max(1, steps),
      sparsity,
      records: [],
      layers: Array.from({ length: layers }, () => ({ heads: 0, ffn: 0, sparsity: 0 })),
    });
    ends.push(output.sparsity);
  }
  const [end, other] = ends;
  if (end === null || end === undefined || end === 0) return fail("it ends at 0");
  return end === other ? end : fail("it follows the target of the run");
}
