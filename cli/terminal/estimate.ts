// The time that work still takes, from how fast it went so far.

/** When an estimate is given, and from what. */
export interface EstimateRules {
  /** Advance, in the units of the work, that has to be measured before anything is said. */
  readonly leastAdvance: number;
  /** Seconds that have to be measured. */
  readonly leastSeconds: number;
  /** The speed is that of the last so many units. */
  readonly span: number;
  /**
   * Whether steps are reported in groups. Only the last step of a group is current, so speed is measured over finished groups. The speed is the
   * median, because single steps wait for a compilation or a checkpoint. Default: the mean speed.
   */
  readonly inSteps?: boolean;
}

/** A running estimate. */
export interface Estimate {
  /** Where the work stood last; 0 before. */
  readonly last: number;
  /** Says where the work stands, at a time in milliseconds. */
  add(position: number, time: number): void;
  /** Seconds until the work stands at `end`; null as long as nothing can be said. */
  secondsLeft(end: number): number | null;
  /** A new estimate by the same rules. */
  restart(): Estimate;
}

interface Mark {
  readonly position: number;
  readonly time: number;
}

/** Positions that come within this many milliseconds come in one group. */
const GROUP_MILLISECONDS = 2;

/** Creates an estimate. What comes before the first position does not count. */
export function createEstimate(rules: EstimateRules): Estimate {
  const { leastAdvance, leastSeconds, span, inSteps = false } = rules;
  const marks: Mark[] = [];
  return {
    get last(): number {
      return marks.at(-1)?.position ?? 0;
    },
    add(position, time): void {
      const last = marks.at(-1);
      if (last && time - last.time < GROUP_MILLISECONDS) marks.pop();
      marks.push({ position, time });
      while (marks.length > 2 && position - (marks[1]?.position ?? position) >= span) marks.shift();
    },
    secondsLeft(end): number | null {
      const measured = inSteps ? marks.slice(0, -1) : marks, [first] = measured, last = measured.at(-1);
      if (!first || !last) return null;
      const advance = last.position - first.position, seconds = (last.time - first.time) / 1000;
      if (advance < leastAdvance || seconds < leastSeconds) return null;
      const pace = inSteps ? medianPace(measured) : seconds / advance;
      return pace * Math.max(0, end - (marks.at(-1)?.position ?? end));
    },
    restart: () => createEstimate(rules),
  };
}

/** Seconds a unit that half of the units took at most. */
function medianPace(marks: readonly Mark[]): number {
  const parts = marks.slice(1).map(({ position, time }, index) => {
    const before = marks[index], advance = position - (before?.position ?? 0);
    return { advance, pace: (time - (before?.time ?? 0)) / 1000 / advance };
  }).sort((a, b) => a.pace - b.pace);
  const half = parts.reduce((sum, { advance }) => sum + advance, 0) / 2;
  let sum = 0;
  for (const { advance, pace } of parts) if ((sum += advance) >= half) return pace;
  return NaN;
}
