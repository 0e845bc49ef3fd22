// The part "growth": how time and memory of a training step grow with each of its sizes, with fits and the theoretical
// growth.
import type { Device } from "../../lib/gpu/device.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import type { Scale } from "./cases.ts";
import type { Machine } from "./machine.ts";
import { type DecoderConfig, randomModel, specOf } from "./random_model.ts";
import { type Fit, logLogExponent, polynomialFit } from "./stats.ts";
import { type Effort, timed, type Timing, typical } from "./timing.ts";
import { openStep } from "./training_step.ts";

/** What is varied. */
export type Axis = "sequence" | "batch" | "layers" | "vocabulary";

/** One size. */
export interface GrowthPoint {
  readonly x: number;
  readonly timing: Timing;
  readonly peakBytes: number;
  /** Each section replayed alone. */
  readonly sections: Readonly<Record<string, Timing>>;
}

/** How one quantity grows along an axis. */
export interface Growth {
  /** "time", "memory", or a section. */
  readonly quantity: string;
  readonly x: readonly number[];
  /** Seconds or bytes. */
  readonly y: readonly number[];
  readonly unit: "s" | "B";
  readonly fit: Fit;
  /** p of y ∝ x^p over all points, and over the three largest sizes, where constants count least. */
  readonly exponent: number;
  readonly lastExponent: number;
  /** Largest exponent that the mathematics requires. */
  readonly allowed: number;
}

/** One axis. */
export interface AxisResult {
  readonly axis: Axis;
  readonly fixed: Readonly<Record<string, number>>;
  readonly points: readonly GrowthPoint[];
  readonly growths: readonly Growth[];
}

/** All axes, and what grows faster than it must. */
export interface GrowthResult {
  readonly model: DecoderConfig;
  readonly axes: readonly AxisResult[];
  readonly findings: readonly string[];
}

const MODEL: DecoderConfig = {
  hidden: 192,
  layers: 2,
  heads: 6,
  kvHeads: 2,
  headDim: 32,
  ffn: 512,
  vocab: 2048,
  tied: true,
};
const SEQ = 128, BATCH = 2;
const NO_TIMING: Timing = { seconds: [], cpuSeconds: [] };

const SIZES: Readonly<Record<Scale, Readonly<Record<Axis, readonly number[]>>>> = {
  full: {
    sequence: [128, 256, 512, 1024, 2048],
    batch: [1, 2, 4, 6, 8],
    layers: [1, 2, 4, 8, 12],
    vocabulary: [1024, 4096, 8192, 16384, 32768],
  },
  quick: {
    sequence: [128, 256, 512, 1024],
    batch: [1, 2, 4, 8],
    layers: [1, 2, 4, 8],
    vocabulary: [1024, 4096, 8192, 16384],
  },
  tiny: { sequence: [16, 32, 64], batch: [], layers: [], vocabulary: [64, 128, 192] },
};
const REPEATS: Readonly<Record<Scale, number>> = { full: 7, quick: 3, tiny: 1 };
const SECTION_EFFORT: Readonly<Record<Scale, Effort>> = {
  full: { repeats: 3, repeatSeconds: 0.1 },
  quick: { repeats: 2, repeatSeconds: 0.03 },
  tiny: { repeats: 1, repeatSeconds: 0.001 },
};

/** Exponents that the mathematics requires; a quantity that does not depend on the size has 0. */
const REQUIRED: Readonly<Record<Axis, Readonly<Record<string, number>>>> = {
  sequence: { time: 2, memory: 1, attention: 2, products: 1, head: 1, lora: 1, elementwise: 1, copies: 1 },
  batch: { time: 1, memory: 1, attention: 1, products: 1, head: 1, lora: 1, elementwise: 1, copies: 1 },
  layers: { time: 1, memory: 1, attention: 1, products: 1, head: 0, lora: 1, elementwise: 1, copies: 1 },
  vocabulary: { time: 1, memory: 1, attention: 0, products: 0, head: 1, lora: 0, elementwise: 0, copies: 1 },
};
/** An exponent that is larger than required by this is named; noise of a few per cent over a factor of two to four stays below it. */
const TOLERANCE = 0.2;
/** Sections below this share of the step are not judged: they are noise. */
const LEAST_SHARE = 0.02;

/** Measures all axes. */
export async function measureGrowth(
  device: Device,
  { machine, scale, log }: {
    readonly machine: Machine;
    readonly scale: Scale;
    readonly log: (line: string) => void;
  },
): Promise<GrowthResult> {
  const axes: AxisResult[] = [];
  for (const axis of Object.keys(SIZES[scale]) as Axis[]) {
    if (SIZES[scale][axis].length === 0) continue;
    log(`growth: ${axis} ${SIZES[scale][axis].join(", ")}`);
    const points: GrowthPoint[] = [];
    for (const x of SIZES[scale][axis]) points.push(await measurePoint(device, axis, { x, scale }));
    const { batch, seq, config } = sizesAt(axis, null, scale);
    const { layers, vocab } = config;
    axes.push({
      axis,
      fixed: { sequence: seq, batch, layers, vocabulary: vocab },
      points,
      growths: fits(axis, points, machine),
    });
  }
  return { model: MODEL, axes, findings: axes.flatMap(findings) };
}

async function measurePoint(
  device: Device,
  axis: Axis,
  { x, scale }: { readonly x: number; readonly scale: Scale },
): Promise<GrowthPoint> {
  const { config, batch, seq } = sizesAt(axis, x, scale);
  using model = await loadModelFrom(randomModel(specOf(config), { seed: 1 }), { device });
  using step = await openStep(model, { batch, seq });
  await step.run();
  const timing = await timed(() => step.run(), { repeats: REPEATS[scale] });
  const sections = await step.sections(SECTION_EFFORT[scale]);
  return { x, timing, peakBytes: step.peakBytes, sections };
}

function sizesAt(
  axis: Axis,
  x: number | null,
  scale: Scale,
): { readonly config: DecoderConfig; readonly batch: number; readonly seq: number } {
  const tiny = scale === "tiny" ? { hidden: 32, heads: 2, kvHeads: 1, headDim: 16, ffn: 64, vocab: 64 } : {};
  const config = { ...MODEL, ...tiny };
  const seq = scale === "tiny" ? 16 : SEQ, batch = axis === "sequence" ? 1 : BATCH;
  if (x === null) return { config, batch, seq };
  switch (axis) {
    case "sequence":
      return { config, batch, seq: x };
    case "batch":
      return { config, batch: x, seq };
    case "layers":
      return { config: { ...config, layers: x }, batch, seq };
    case "vocabulary":
      return { config: { ...config, vocab: x }, batch, seq };
  }
}

/** Fits of time, memory and every section that is more than nothing. */
export function fits(axis: Axis, points: readonly GrowthPoint[], { clock }: Pick<Machine, "clock">): Growth[] {
  const x = points.map((point) => point.x);
  const make = (quantity: string, unit: "s" | "B", y: readonly number[]): Growth => {
    const allowed = REQUIRED[axis][quantity] ?? 1;
    // The quadratic term is fitted wherever time is, to see whether it is there at all.
    const degree = axis === "sequence" && unit === "s" ? 2 : 1;
    return {
      quantity,
      x,
      y,
      unit,
      fit: polynomialFit(x, y, { degree }),
      exponent: logLogExponent(x, y),
      lastExponent: logLogExponent(x.slice(-3), y.slice(-3)),
      allowed,
    };
  };
  const growths = [
    make("time", "s", points.map(({ timing }) => typical(clock, timing))),
    make("memory", "B", points.map(({ peakBytes }) => peakBytes)),
  ];
  for (const name of Object.keys(REQUIRED[axis])) {
    const y = points.map(({ sections }) => typical(clock, sections[name] ?? NO_TIMING));
    if (y.every((value) => value > 0)) growths.push(make(name, "s", y));
  }
  return growths;
}

/** What grows faster than it must, a sentence each. */
export function findings({ axis, growths }: Pick<AxisResult, "axis" | "growths">): string[] {
  const last = ({ y }: Growth): number => y.at(-1) ?? 0;
  const total = growths.find(({ quantity }) => quantity === "time");
  return growths.flatMap((growth) => {
    const { quantity, unit, lastExponent, allowed } = growth;
    const isSmall = unit === "s" && total !== undefined && last(growth) < LEAST_SHARE * last(total);
    if (isSmall || lastExponent <= allowed + TOLERANCE) return [];
    return [
      `${quantity} grows with ${axis} as x^${lastExponent.toFixed(2)} at its largest sizes; x^${allowed} is required`,
    ];
  });
}
