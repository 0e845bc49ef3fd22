// The part "step": tokens per second of one training step, alternating with other libraries, and a profile of ours by
// section.
import type { Device } from "../../lib/gpu/device.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import type { BaseDtype } from "../../lib/nn/weights.ts";
import { DTYPES, modelDtypes, type Scale, shares } from "./cases.ts";
import type { Machine } from "./machine.ts";
import type { PeerName, Peers } from "./peers.ts";
import { configOf } from "./random_model.ts";
import { type Clock, type Effort, joined, timed, type Timing, typical } from "./timing.ts";
import { openStep, type StepShape, TRAINING } from "./training_step.ts";

/** One program's step. */
export interface StepRow {
  /** "ours", or the peer. */
  readonly program: string;
  readonly version: string;
  /** Storage of the frozen weights. */
  readonly variant: string;
  readonly timing: Timing;
  readonly typicalSeconds: number;
  readonly tokensPerSecond: number;
  /** GPU memory at its peak; null for peers. */
  readonly peakBytes: number | null;
  /** Each section replayed alone; null for peers. */
  readonly sections: Readonly<Record<string, Timing>> | null;
  /** Wall seconds of dispatches by section, from timestamp queries; null for peers and without them. */
  readonly timestamps: Readonly<Record<string, number>> | null;
  readonly note?: string;
}

/** The step of one model. */
export interface StepResult extends StepShape {
  readonly model: string;
  readonly training: typeof TRAINING;
  /** Ours first. */
  readonly rows: readonly StepRow[];
}

/** Tokens of the measured step. */
export const STEP_SHAPES: Readonly<Record<Scale, StepShape>> = {
  full: { batch: 4, seq: 256 },
  quick: { batch: 2, seq: 128 },
  tiny: { batch: 1, seq: 16 },
};
/** A step is long: fewer repeats than of a kernel. */
const REPEATS: Readonly<Record<Scale, number>> = { full: 5, quick: 3, tiny: 1 };
const STEP_PEERS: readonly PeerName[] = ["torch", "jax-js"];

/** Measures the step with frozen weights of each dtype, and in the peers. */
export async function measureStep(
  device: Device,
  { source, name, machine, effort, scale, peers, log, dtypes = modelDtypes(scale) }: {
    readonly source: WeightSource;
    readonly dtypes?: readonly BaseDtype[];
    readonly name: string;
    readonly machine: Machine;
    readonly effort: Effort;
    readonly scale: Scale;
    readonly peers: Peers;
    readonly log: (line: string) => void;
  },
): Promise<StepResult> {
  const shape = STEP_SHAPES[scale], repeats = REPEATS[scale], tokens = shape.batch * shape.seq;
  const config = configOf(source.spec), { rank, targets } = TRAINING;
  const peerCase = config && { name: "step", kind: "step" as const, config, ...shape, rank, targets, masks: true };
  const rows: StepRow[] = [];
  const add = (row: Omit<StepRow, "typicalSeconds" | "tokensPerSecond">): void => {
    const typicalSeconds = typical(machine.clock, row.timing);
    rows.push({ ...row, typicalSeconds, tokensPerSecond: tokens / typicalSeconds });
  };
  const variants = dtypes.flatMap((dtype) =>
    (dtype === "f32" || dtype === "f16" ? [false, true] : [true]).map((recompute) => ({ dtype, recompute }))
  );
  for (const { dtype, recompute } of variants) {
    const variant = recompute ? dtype : `${dtype}, all kept`;
    log(`step: ${name}, ${shape.batch} × ${shape.seq} tokens, frozen weights in ${variant}`);
    using model = await loadModelFrom(source, { device, baseDtype: dtype });
    using step = await openStep(model, shape, { recompute });
    // Peers keep all activations, so they take turns with the variant that does so too.
    const names = peerCase && dtype === DTYPES[0] && !recompute ? peers.available(STEP_PEERS) : [];
    const parts: Timing[] = [];
    for (const [round, count] of shares(repeats, names.length + 1).entries()) {
      parts.push(await timed(() => step.run(), { repeats: count }));
      const peer = names[round];
      if (!peer || !peerCase) continue;
      log(`step: ${peer}`);
      for (
        const { version, timing, note } of await peers.run(peer, [peerCase], {
          repeats: peer === "jax-js" ? 1 : repeats, // minutes each
        })
      ) {
        const base = {
          program: peer,
          version,
          variant: "f32",
          timing,
          peakBytes: null,
          sections: null,
          timestamps: null,
        };
        add(note === undefined ? base : { ...base, note });
      }
    }
    const timestamps = await step.timestamps();
    const sections = await step.sections({ ...effort, repeats: Math.min(3, effort.repeats) });
    const { peakBytes } = step;
    add({ program: "ours", version: "", variant, timing: joined(...parts), peakBytes, sections, timestamps });
  }
  return {
    ...shape,
    model: name,
    training: TRAINING,
    rows: rows.toSorted((a, b) => Number(a.program !== "ours") - Number(b.program !== "ours")),
  };
}

/** Median seconds of each section by the clock. */
export function sectionSeconds(clock: Clock, sections: Readonly<Record<string, Timing>>): Record<string, number> {
  return Object.fromEntries(Object.entries(sections).map(([name, timing]) => [name, typical(clock, timing)]));
}
