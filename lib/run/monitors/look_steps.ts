// The steps at which a run's masks are looked at and its state is kept, by the length of the run alone.

/** Steps that come again and again. */
export interface LookSteps {
  /** Whether the masks are looked at after a step. */
  readonly looksAt: (step: number) => boolean;
  /** Whether the state after a step that was looked at is kept to go back to. */
  readonly keepsAt: (step: number) => boolean;
}

/**
 * By the number of steps up to which it holds: how often the looks repeat, and which steps of such a round are looked at and kept. A look reads
 * all that is trained from the GPU, so a run of more than 32 steps has 20 to 45 of them, or three in nineteen steps where it is long. Their
 * distances are uneven: masks that turn at each step, or with any other small period, would stand still at looks of one distance that the period
 * divides.
 */
const ROUNDS = [
  { most: 32, round: 4, looks: [0, 1, 2, 3], kept: [0] },
  { most: 64, round: 5, looks: [0, 1, 3], kept: [0] },
  { most: 96, round: 7, looks: [0, 2, 4], kept: [0] },
  { most: 160, round: 11, looks: [0, 2, 6], kept: [0, 6] },
  { most: Infinity, round: 19, looks: [0, 5, 11], kept: [0, 5, 11] },
] as const;

/** The steps for a run of so many. */
export function lookStepsOf(steps: number): LookSteps {
  const { round, looks, kept } = ROUNDS.find(({ most }) => steps <= most) ?? ROUNDS[4];
  const isIn = (places: readonly number[], step: number): boolean => places.includes(step % round);
  return { looksAt: (step) => isIn(looks, step), keepsAt: (step) => isIn(kept, step) };
}
