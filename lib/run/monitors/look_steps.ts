// The steps after which masks are read and states are kept. They depend on the length of the run alone.

/** Periodic steps of a run. */
export interface LookSteps {
  /** Whether the masks are read after a step. */
  readonly looksAt: (step: number) => boolean;
  /** Whether the state after such a step is kept for a rollback. */
  readonly keepsAt: (step: number) => boolean;
}

/**
 * For each largest number of steps: the period of the looks, and the steps of a period that are looked at and kept. A
 * look reads all trained parameters from the GPU. A run of more than 32 steps has 20 to 45 looks, a long run three in
 * nineteen steps. The distances between looks are uneven. At a constant distance, masks that alternate with a period
 * that divides it would look unchanged.
 */
const ROUNDS = [
  { most: 32, round: 4, looks: [0, 1, 2, 3], kept: [0] },
  { most: 64, round: 5, looks: [0, 1, 3], kept: [0] },
  { most: 96, round: 7, looks: [0, 2, 4], kept: [0] },
  { most: 160, round: 11, looks: [0, 2, 6], kept: [0, 6] },
  { most: Infinity, round: 19, looks: [0, 5, 11], kept: [0, 5, 11] },
] as const;

/** The steps of a run of `steps` steps. */
export function lookStepsOf(steps: number): LookSteps {
  const { round, looks, kept } = ROUNDS.find(({ most }) => steps <= most) ?? ROUNDS[4];
  const isIn = (places: readonly number[], step: number): boolean => places.includes(step % round);
  return { looksAt: (step) => isIn(looks, step), keepsAt: (step) => isIn(kept, step) };
}
