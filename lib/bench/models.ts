// How fast models read and write, side by side in one run.
//
// All figures are by wall clock, because that is what a user waits for. Models take turns within every repeat, and the order turns with each repeat, so
// that a machine that grows slower affects all alike. A ratio is the median of the ratios within the repeats.
import { refuse } from "../core/errors.ts";
import { checkNames, count, type NamesOf } from "../core/check_options.ts";
import { existing } from "../core/guards.ts";
import type { AdapterFacts } from "../gpu/types.ts";
import { createDecodePass } from "../nn/decode/pass.ts";
import { type BatchRow, DecodeBatch, MOST_SEQUENCES } from "../nn/decode/batch.ts";
import { createPass } from "../nn/pass.ts";
import { createTopPass } from "../nn/top_pass.ts";
import { type DecoderSpec, parameterCount } from "../spec/decoder.ts";
import { randomU32 } from "../core/random.ts";
import type { Model } from "../model/model.ts";
import { type Repeats, repeatsOf } from "./stats.ts";
import { bytesOfToken } from "./token_bytes.ts";

/** Options of {@link benchModels}. */
export interface ModelBenchOptions {
  /** Tokens of a prompt. Default 128. */
  readonly prompt?: number | undefined;
  /** Tokens written after the prompt, at least 2. Default 32. */
  readonly tokens?: number | undefined;
  /** Sequences at once in figures of "many", at most 32. Default 8. */
  readonly batch?: number | undefined;
  /** Measurements of each figure, after a warm-up that does not count. Default 5. */
  readonly repeats?: number | undefined;
  /** Stops the work. */
  readonly signal?: AbortSignal | undefined;
  /** Called after each repeat of each model. */
  readonly onProgress?: ((done: number, total: number) => void) | undefined;
}

const NAMES: NamesOf<ModelBenchOptions> = {
  prompt: count(1),
  tokens: count(2),
  batch: count(1, MOST_SEQUENCES),
  repeats: count(1),
  signal: true,
  onProgress: true,
};

/** What is measured of a model. Rates are tokens a second. */
export interface ModelFigures<T> {
  /** Seconds from a prompt's token ids to the first token after it, allocation included. */
  readonly firstToken: T;
  /** Seconds of each token after the first, one sequence. */
  readonly nextToken: T;
  /** Tokens of one prompt read, up to the likeliest token after it. */
  readonly promptRate: T;
  /** The same with many prompts in one pass. */
  readonly promptRateMany: T;
  /** Tokens written, one sequence. */
  readonly decodeRate: T;
  /** Tokens written in all by many sequences, which share the steps of the model. */
  readonly decodeRateMany: T;
}

/** One model. */
export interface ModelBenchRow {
  /** As it was given. */
  readonly name: string;
  /** All weights, embeddings included. */
  readonly parameters: number;
  /** Bytes of weights that one token reads. */
  readonly tokenBytes: number;
  /** Medians with their range. */
  readonly figures: ModelFigures<Repeats>;
  /** How many times as fast as the first model, repeat by repeat; null for the first. */
  readonly faster: ModelFigures<Repeats> | null;
}

/** What was measured. */
export interface ModelBenchResult {
  /** What it was measured on. */
  readonly adapter: AdapterFacts;
  /** Tokens of a prompt. */
  readonly prompt: number;
  /** Tokens written after the prompt. */
  readonly tokens: number;
  /** Sequences at once where it says "many". */
  readonly batch: number;
  /** Measurements of each. */
  readonly repeats: number;
  /** One a model, in the order given. */
  readonly rows: readonly ModelBenchRow[];
}

/** A model to measure. */
export interface NamedModel {
  /** For the result. */
  readonly name: string;
  /** Loaded; all lie on one device. */
  readonly model: Model;
}

const FIGURES = ["firstToken", "nextToken", "promptRate", "promptRateMany", "decodeRate", "decodeRateMany"] as const;
type Figure = typeof FIGURES[number];
/** Figures that are seconds; of the others more is better. */
const SECONDS: ReadonlySet<Figure> = new Set<Figure>(["firstToken", "nextToken"]);

/**
 * Measures models on one device: latency of the first token and of later tokens, and throughput of reading and writing, for one
 * sequence and for many. Prompts are random tokens, and end tokens end nothing.
 *
 * @throws CompressoError("usage") for no model and options out of range, or if prompt and tokens do not fit a model's context.
 */
export async function benchModels(
  models: readonly NamedModel[],
  options: ModelBenchOptions = {},
): Promise<ModelBenchResult> {
  checkNames(options, NAMES, { whose: "benchModels" });
  const { prompt = 128, tokens = 32, batch = 8, repeats = 5, signal, onProgress } = options;
  const [first] = models;
  if (!first) {
    const rule = "there is at least one model";
    refuse("usage", "cannot measure", { rule, value: "none" });
  }
  checkSizes(models.map(({ name, model: { spec } }) => ({ name, spec })), { prompt, tokens, batch, repeats });
  using stack = new DisposableStack();
  const benches = models.map(({ model }) => stack.use(createBench(model, { prompt, tokens, batch, signal })));
  const samples = benches.map(() => new Map<Figure, number[]>(FIGURES.map((figure) => [figure, []])));
  let done = 0;
  for (let repeat = 0; repeat <= repeats; repeat++) {
    const order = benches.map((_, index) => index);
    for (const index of repeat % 2 === 0 ? order : order.reverse()) {
      signal?.throwIfAborted();
      const measured = await benches[index]?.measure();
      // The first round compiles kernels.
      for (const figure of FIGURES) if (measured && repeat > 0) samples[index]?.get(figure)?.push(measured[figure]);
      onProgress?.(++done, (repeats + 1) * models.length);
    }
  }
  const rows = models.map(({ name, model }, index): ModelBenchRow => {
    const own = (figure: Figure): readonly number[] => samples[index]?.get(figure) ?? [];
    const ratios = (figure: Figure): readonly number[] =>
      own(figure).map((value, repeat) => {
        const base = samples[0]?.get(figure)?.[repeat] ?? NaN;
        return SECONDS.has(figure) ? base / value : value / base;
      });
    return {
      name,
      parameters: parameterCount(model.spec),
      tokenBytes: bytesOfToken(model),
      figures: figuresOf((figure) => repeatsOf(own(figure))),
      faster: index === 0 ? null : figuresOf((figure) => repeatsOf(ratios(figure))),
    };
  });
  return { adapter: first.model.device.facts, prompt, tokens, batch, repeats, rows };
}

/** One model with its recorded passes. */
interface Bench extends Disposable {
  measure(): Promise<ModelFigures<number>>;
}

interface Sizes {
  readonly prompt: number;
  readonly tokens: number;
  readonly batch: number;
  readonly signal: AbortSignal | undefined;
}

function createBench(model: Model, { prompt, tokens, batch, signal }: Sizes): Bench {
  const { device, weights, spec } = model;
  const ids = (stream: number): number[] =>
    Array.from({ length: prompt }, (_, index) => randomU32(1, stream, index) % spec.vocab);
  const owned = new DisposableStack();
  owned.use(model.enter());
  try {
    const readers = [1, batch].map((count) => {
      const pass = owned.use(createPass(device, weights, { batch: count, seq: prompt }));
      const top = owned.use(createTopPass(pass, { top: 1 }));
      const all = Array.from({ length: count }, (_, index) => ids(index)).flat();
      // Asks only for the token after the last one of each prompt, as generation does.
      const wanted = Int32Array.from(all, (_, index) => (index + 1) % prompt === 0 ? 0 : -1);
      return async (): Promise<number> => {
        const seconds = await timed(async () => {
          device.write(pass.act.tokens, Uint32Array.from(all));
          await top.run(wanted, { signal });
        });
        return count * prompt / seconds;
      };
    });
    const open = (): ReturnType<typeof createDecodePass> =>
      createDecodePass(device, weights, { capacity: prompt + tokens });
    const begin = async (pass: ReturnType<typeof open>, stream: number): Promise<void> => {
      const own = ids(stream);
      await pass.prefill(own.slice(0, -1), { signal });
      await pass.next(own.at(-1) ?? 0, { count: 1, signal });
    };
    /** Seconds of the tokens after the first ones of all sequences. The first ones take a step that is not timed. */
    const decodeMany = async (): Promise<number> => {
      using many = new DecodeBatch(device, weights, { sequences: batch, capacity: prompt + tokens });
      const rows: BatchRow[] = [];
      for (let index = 0; index < batch; index++) {
        const own = ids(index), sequence = existing(many.open(prompt + tokens), "pages of a sequence");
        await sequence.prefill(own.slice(0, -1), { signal });
        rows.push({ sequence, token: own.at(-1) ?? 0 });
      }
      await many.next(rows, { count: 1, signal });
      return await timed(() => many.next(null, { count: tokens - 1, signal }));
    };
    return {
      async measure(): Promise<ModelFigures<number>> {
        using single = new DisposableStack();
        const start = performance.now();
        const pass = single.use(open());
        await begin(pass, 0);
        const firstToken = (performance.now() - start) / 1000;
        const nextToken = await timed(() => pass.next(null, { count: tokens - 1, signal })) / (tokens - 1);
        single.dispose();
        const seconds = await decodeMany();
        const [promptRate = NaN, promptRateMany = NaN] = [await readers[0]?.(), await readers[1]?.()];
        return {
          firstToken,
          nextToken,
          promptRate,
          promptRateMany,
          decodeRate: 1 / nextToken,
          decodeRateMany: batch * (tokens - 1) / seconds,
        };
      },
      [Symbol.dispose]: () => owned.dispose(),
    };
  } catch (error) {
    owned.dispose();
    throw error;
  }
}

async function timed(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

function figuresOf<T>(of: (figure: Figure) => T): ModelFigures<T> {
  return {
    firstToken: of("firstToken"),
    nextToken: of("nextToken"),
    promptRate: of("promptRate"),
    promptRateMany: of("promptRateMany"),
    decodeRate: of("decodeRate"),
    decodeRateMany: of("decodeRateMany"),
  };
}

/** Refuses sizes that are none, or beyond a model's context. Throws `CompressoError("usage")`. */
export function checkSizes(
  models: readonly { readonly name: string; readonly spec: Pick<DecoderSpec, "maxPosition"> }[],
  sizes: { readonly prompt: number; readonly tokens: number; readonly batch: number; readonly repeats: number },
): void {
  checkNames(sizes, NAMES, { whose: "benchModels" });
  for (const { name, spec: { maxPosition } } of models) {
    const { prompt, tokens } = sizes;
    if (prompt + tokens <= maxPosition) continue;
    refuse("usage", "cannot measure with these sizes", {
      rule: `prompt and tokens fit the context of ${name}, ${maxPosition} tokens`,
      value: `${prompt} + ${tokens}`,
    });
  }
}
