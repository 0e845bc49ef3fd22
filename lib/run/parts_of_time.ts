// The parts of a run's time, and how they are measured.

/** Parts of a run's time, in order. */
export const RUN_PARTS = ["reading", "preparing", "steps", "check", "quality", "writing"] as const;
/** A part of a run's time; see {@link PartSeconds}. */
export type RunPart = typeof RUN_PARTS[number];
/**
 * Seconds of each part of a run:
 *
 * - reading: data and weights, before there is a session;
 * - preparing: rows, calibration texts and the vocabulary's cut, up to the first step;
 * - steps: all stages, with compiling kernels, scoring units and checkpoints;
 * - check: comparing the sliced with the masked model;
 * - quality: measuring the model before and after;
 * - writing: the files.
 */
export type PartSeconds = Readonly<Record<RunPart, number>>;

/** Seconds of a run's parts, as they add up. */
export class PartTimer {
  readonly #seconds = new Map<RunPart, number>();

  /** Does work, and adds its time to a part, even if it fails. */
  async during<T>(part: RunPart, work: () => Promise<T>): Promise<T> {
    const start = performance.now();
    try {
      return await work();
    } finally {
      this.add(part, (performance.now() - start) / 1000);
    }
  }

  /** Adds seconds to a part. */
  add(part: RunPart, seconds: number): void {
    this.#seconds.set(part, (this.#seconds.get(part) ?? 0) + seconds);
  }

  /** Seconds of all parts so far. */
  get seconds(): PartSeconds {
    const of = (part: RunPart): number => this.#seconds.get(part) ?? 0;
    return {
      reading: of("reading"),
      preparing: of("preparing"),
      steps: of("steps"),
      check: of("check"),
      quality: of("quality"),
      writing: of("writing"),
    };
  }
}
