// Plans the GPU memory of a prune run, by running it on a device that only counts.
import { CompressoError, type ErrorParts } from "../../core/errors.ts";
import type { MemoryUse } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { DEFAULT_LIMITS, openDryDevice } from "../../gpu/dry.ts";
import type { WeightSource } from "../../spec/source.ts";
import { checkLora, type LoraConfig, loraModules, type LoraWeights } from "../../spec/lora.ts";
import {
  type DecoderSpec,
  EXPERT_MATRICES,
  expertsName,
  type LayerSpec,
  presentProjections,
  projectionName,
  tensorShapes,
} from "../../spec/decoder.ts";
import { IDLE_STATE } from "../../nn/train/step_state.ts";
import { withOutputBiases } from "../../masks/baselines_bias.ts";
import { tableOf } from "../../units/uniform.ts";
import { cutsExperts, recordOf } from "../../units/kinds/all.ts";
import { checkTakenRules } from "../../units/kinds/checks.ts";
import { cannotCut } from "../../units/kinds/kind.ts";
import type { UnitTable } from "../../units/table.ts";
import { type Batch } from "../../data/batches.ts";
import { checkContext } from "../../data/encode_rows.ts";
import { checkMemoryOptions } from "../options/check.ts";
import type { MemoryPart } from "../../gpu/memory_parts.ts";
import { bytesByPart } from "./parts.ts";
import { createAgreementPass } from "../../nn/agreement.ts";
import { createPass } from "../../nn/pass.ts";
import { bytesOfRow } from "../../nn/products/matrix_stored.ts";
import { shareLayers } from "../../nn/weights.ts";
import { isBlocked } from "../../../kernels/mod.ts";
import { loadModelFrom, Model } from "../../model/model.ts";
import { compensates, methodOf } from "../methods/all.ts";
import { measuresActivations } from "../methods/method.ts";
import { CUTTING_STEPS } from "../methods/stages.ts";
import { withCompensation } from "../methods/compensation.ts";
import { Trainer } from "../trainer.ts";
import { rehearseVerify, verifyShape } from "../../slice/verify.ts";
import type { PlannedAdapter } from "../contract.ts";
import { resolveMemory } from "../options/resolve.ts";
import type { MemoryOptions, ResolvedMemory } from "../options/options.ts";

/** What a run would take. */
export interface MemoryPlan {
  /** Largest number of bytes in use at once, over all stages. */
  readonly peakBytes: number;
  /** Bytes at the peak by what they are for; they add up to it. */
  readonly parts: Readonly<Record<MemoryPart, number>>;
  /**
   * Bytes of the frozen weights alone; peak of training; and peak of comparing the pruned model with the masked and the
   * dense one. Both peaks include the weights. Where experts are cut: the most weights at once; peak of going through the
   * layers; and peak of measuring at the output head.
   */
  readonly stages: { readonly weights: number; readonly training: number; readonly verification: number };
  /** The largest storage buffer, and the size that the adapter allows for one. */
  readonly largestBuffer: { readonly label: string; readonly bytes: number; readonly limit: number };
  /** What the adapter's limits refuse; empty if the run can start. */
  readonly excesses: readonly ErrorParts[];
}

/**
 * Plans the GPU memory of a prune run of a model of this shape. All allocations run on a device that only counts (see
 * `openDryDevice`), so the plan equals the later `Device.peakBytes`. Needs no weights and no adapter.
 *
 * @throws CompressoError("usage") for options out of range.
 * @example
 * ```ts
 * import type { DecoderSpec } from "compresso/model";
 * import { planMemory } from "compresso/run";
 *
 * const layer = { heads: 9, kvHeads: 3, ffn: 1536 };
 * const spec: DecoderSpec = {
 *   vocab: 49152,
 *   hidden: 576,
 *   headDim: 64,
 *   layers: Array.from({ length: 30 }, () => layer),
 *   normEps: 1e-5,
 *   rope: { base: 100_000, scaling: { kind: "none" } },
 *   tied: true,
 *   maxPosition: 8192,
 *   bosId: 1,
 *   eosIds: [2],
 *   padId: null,
 * };
 * const { peakBytes, parts } = await planMemory(spec, { batch: 1, seq: 1024 });
 * if (peakBytes > 2 ** 30 || parts.base > peakBytes) throw new Error(`${peakBytes} bytes`);
 * ```
 */
export async function planMemory(spec: DecoderSpec, options: MemoryOptions = {}): Promise<MemoryPlan> {
  checkMemoryOptions(options, { whose: "planMemory" });
  using device = openDryDevice(adapterFor(options));
  return await plannedBy(spec, options)(device, options);
}

/** Options that advice may change. */
export type MemoryChange = Pick<MemoryOptions, "batch" | "seq" | "baseDtype" | "recompute" | "lora">;

/**
 * Returns a function that plans a run with some options changed; null if the plan exceeds the budget or the adapter's
 * limits. Faster than {@link planMemory}: units are counted once, and a plan ends at its first excess.
 *
 * @throws CompressoError("usage") for options out of range.
 */
export function plannerWithin(
  spec: DecoderSpec,
  options: MemoryOptions,
  { memoryLimit = Infinity }: { readonly memoryLimit?: number | undefined },
): (change: MemoryChange) => Promise<MemoryPlan | null> {
  const planned = plannedBy(spec, options);
  return async (change) => {
    using device = openDryDevice({ ...adapterFor(options), memoryLimit });
    try {
      return await planned(device, { ...options, ...change });
    } catch (error) {
      if (error instanceof CompressoError && error.code === "gpu") return null;
      throw error;
    }
  };
}

/** The facts of a device that a plan needs. */
export function adapterOf(
  { limits, facts: { isCpu }, subgroups }: Pick<Device, "limits" | "facts" | "subgroups">,
): PlannedAdapter {
  return { limits, isCpu, subgroupSize: subgroups?.size ?? null };
}

/** The adapter that a plan is for; without one, any GPU. */
export function adapterFor(
  { adapter = { limits: DEFAULT_LIMITS, isCpu: false } }: Pick<MemoryOptions, "adapter">,
): PlannedAdapter {
  return adapter;
}

/** The options that memory depends on, out of all options of a run. */
function resolved(spec: DecoderSpec, options: MemoryOptions): ResolvedMemory {
  const shape = resolveMemory(options, spec);
  checkLora(shape.lora);
  checkTakenRules(shape.units, shape.rules);
  checkContext(shape.seq, spec);
  return shape;
}

/** How runs of these units are planned. Units are counted once. */
function plannedBy(
  spec: DecoderSpec,
  options: MemoryOptions,
): (device: Device, options: MemoryOptions) => Promise<MemoryPlan> {
  const run = resolved(spec, options);
  if (cutsExperts(run.units)) return (device, changed) => planExperts(device, spec, changed);
  const table = tableOf(spec, run);
  return (device, changed) => planOn(device, spec, { ...changed, table });
}

/** A cut of experts: the weights of half a layer, or the output head, are on the GPU at a time. */
async function planExperts(
  device: Device,
  spec: DecoderSpec,
  { baseDtype = "f16", storedDtype, ...options }: MemoryOptions,
): Promise<MemoryPlan> {
  const { misfit } = recordOf("experts"), run = { ...resolved(spec, options), baseDtype };
  if (misfit?.isFor(spec)) throw cannotCut(misfit, "cannot plan a cut of experts");
  const source = zeros(...distinctLayers(spec, storedDtype));
  const { rehearseHead, rehearseLayers } = await import("../experts/rehearse.ts");
  const weights = await rehearseLayers(device, source, run), walk = measured(device);
  device.resetPeak();
  await rehearseHead(device, source, run);
  return planOf(device, { weights, training: walk, verification: measured(device) });
}

async function planOn(
  device: Device,
  whole: DecoderSpec,
  { table, baseDtype = "f16", storedDtype, ...options }: MemoryOptions & { readonly table: UnitTable },
): Promise<MemoryPlan> {
  const run = resolved(whole, options);
  using dense = await loadModelFrom(zeros(whole, storedDtype), { device, baseDtype });
  using cut = await withVocabulary(dense, run);
  const model = cut ?? dense, { spec } = model;
  const weights = device.bytes;
  await dryTraining(model, table, run);
  const training = measured(device);
  device.resetPeak();
  // Layers are compared one after the other, so one layer of each shape suffices.
  const distinct = zeros(...distinctLayers(spec));
  const { rank, alpha, targets } = run.lora;
  await rehearseVerify(compensates(run.method) ? withOutputBiases(distinct) : distinct, {
    device,
    adapters: { lora: { rank, alpha, targets, weights: zeroLora(distinct.spec, run.lora) } },
    ...verifyShape(run),
  });
  rehearseMeasures(model, dense, run);
  return planOf(device, { weights, training, verification: measured(device) });
}

/** What was measured of a stage. */
interface Stage {
  readonly bytes: number;
  readonly uses: readonly MemoryUse[];
}

function planOf(device: Device, { weights, training, verification }: {
  readonly weights: number;
  readonly training: Stage;
  readonly verification: Stage;
}): MemoryPlan {
  const peak = training.bytes >= verification.bytes ? training : verification;
  const buffers = [...training.uses, ...verification.uses].filter(({ kind }) => kind === "storage");
  const largest = buffers.reduce((most, use) => use.bytes > most.bytes ? use : most, { label: "none", bytes: 0 });
  const { maxBufferSize, maxStorageBufferBindingSize } = device.limits;
  return {
    peakBytes: peak.bytes,
    parts: bytesByPart(peak.uses),
    stages: { weights, training: training.bytes, verification: verification.bytes },
    largestBuffer: {
      label: largest.label,
      bytes: largest.bytes,
      limit: Math.min(maxBufferSize, maxStorageBufferBindingSize),
    },
    excesses: device.excesses.map(({ parts }) => parts),
  };
}

/** Allocates what comparing the pruned model with the dense one takes on rows. */
function rehearseMeasures(model: Model, dense: Model, { seq }: Pick<ResolvedMemory, "seq">): void {
  using pass = createPass(model.device, model.weights, { batch: 1, seq });
  const ids = model === dense ? null : Int32Array.from({ length: model.spec.vocab }, (_, id) => id);
  using _agreement = createAgreementPass(pass, { weights: dense.weights, ids });
}

/** The model with a cut vocabulary; null if it is not cut. The whole embedding and head stay allocated. */
async function withVocabulary(dense: Model, { vocab }: Pick<ResolvedMemory, "vocab">): Promise<Model | null> {
  const { device, weights, spec } = dense, size = vocab?.size ?? null;
  if (size === null) return null;
  const count = Math.max(1, Math.round(size < 1 ? size * spec.vocab : size));
  const source = zeros({ ...spec, vocab: count }, (name) => dense.source.storedDtype(name));
  return new Model(device, source, { weights: await shareLayers(device, weights, { source }), tokenizer: null });
}

/** Calibrates, trains one step of each kind, and reads what a run reads, so that the trainer records all its plans. */
async function dryTraining(model: Model, table: UnitTable, options: ResolvedMemory): Promise<void> {
  const { batch, accumulate, seq, documentMask, lora, recompute, method, focus, objective, optimizer, evalEvery } =
    options;
  using compensated = compensates(method) ? await withCompensation(model) : null;
  const trained = compensated ?? model;
  using trainer = new Trainer(trained, {
    ...{ batch, accumulate, seq, documentMask, seed: 1, lora, table, recompute, objective, optimizer },
  });
  const count = batch * seq;
  // A dry device takes no data.
  const data: Batch = { tokens: new Uint32Array(0), labels: new Int32Array(0), realTokens: count, labelTokens: count };
  const state = { state: IDLE_STATE };
  const how = methodOf(method), from = how.kind === "one-shot" ? how.from : [], cutting = CUTTING_STEPS[how.kind];
  const shape = { batch, seq, documentMask };
  if (how.kind === "one-shot" && measuresActivations(how)) {
    const { calibrate } = await import("../methods/calibrate.ts");
    await calibrate(trained, { batches: [], ...shape });
  }
  if (from.includes("influence")) {
    const { measureInfluence } = await import("../methods/influence.ts");
    await measureInfluence(trained, { batches: [data], ...shape });
  }
  await trainer.step("lora", data, state);
  if (from.includes("firstOrder")) await trainer.weightTerms(data, state);
  if (how.kind === "learned" || from.includes("fisher")) await trainer.maskGradients(data, state);
  if (cutting) await trainer.step(cutting, data, state);
  if (focus < 1) await trainer.step("lora", data, { ...state, focus });
  if (evalEvery > 0) await trainer.loss(data, state);
  await trainer.numbers(0, 1);
  // The state includes LoRA, which a run also reads alone. Beyond the limits it may be too large for the host.
  if (model.device.excesses.length === 0) await trainer.save();
}

function measured(device: Device): Stage {
  return { bytes: device.peakBytes, uses: device.peakUsage() };
}

/**
 * The shape with one layer of each kind, and the types of its tensors: layers that run one after the other take the same
 * memory if their shapes and types are the same.
 */
function distinctLayers(
  spec: DecoderSpec,
  storedDtype: WeightSource["storedDtype"] = ofNoBlocks,
): [DecoderSpec, WeightSource["storedDtype"]] {
  const kept = new Map<string, number>();
  for (const [index, layer] of spec.layers.entries()) {
    const types = presentProjections(spec, layer).map((part) => storedDtype(projectionName(index, part)));
    const experts = layer.experts ? EXPERT_MATRICES.map((part) => storedDtype(expertsName(index, part))) : [];
    const key = [shapeKey(layer), ...types, ...experts].join(" ");
    if (!kept.has(key)) kept.set(key, index);
  }
  return ofLayers(spec, { storedDtype, places: [...kept.values()] });
}

/** The shape with the layers at these places alone, and the types of its tensors. */
export function ofLayers(
  spec: DecoderSpec,
  { storedDtype = ofNoBlocks, places }: {
    readonly storedDtype?: WeightSource["storedDtype"] | undefined;
    readonly places: readonly number[];
  },
): [DecoderSpec, WeightSource["storedDtype"]] {
  const own = (name: string): string =>
    name.replace(LAYER_NAME, (_, at) => `model.layers.${places[Number(at)] ?? at}.`);
  const layers = places.flatMap((index) => spec.layers[index] ?? []);
  return [{ ...spec, layers }, (name) => storedDtype(own(name))];
}

const LAYER_NAME = /^model\.layers\.(\d+)\./;
const ofNoBlocks = (): string => "f32";

/** What tells the shapes of layers apart. */
function shapeKey({ heads, kvHeads, ffn, experts, conv }: LayerSpec): string {
  return `${heads} ${kvHeads} ${ffn} ${experts?.count} ${experts?.ffn} ${conv}`;
}

/** LoRA of this shape that is 0: all matrices are parts of one. */
function zeroLora(spec: DecoderSpec, { rank, targets }: Pick<LoraConfig, "rank" | "targets">): LoraWeights {
  const modules = loraModules(spec, targets);
  const matrix = new Float32Array(rank * modules.reduce((most, { shape }) => Math.max(most, ...shape), 0));
  return new Map(modules.flatMap(({ layer, projection, shape: [outputs, inputs] }) => [
    [`lora.${layer}.${projection}.A`, matrix.subarray(0, rank * inputs)] as const,
    [`lora.${layer}.${projection}.B`, matrix.subarray(0, rank * outputs)] as const,
  ]));
}

/** A model of this shape whose weights are 0, stored in these types. */
export function zeros(spec: DecoderSpec, storedDtype: WeightSource["storedDtype"] = ofNoBlocks): WeightSource {
  const shapes = tensorShapes(spec);
  return {
    spec,
    read(name, rows): Promise<Float32Array<ArrayBuffer>> {
      const [count = 0, ...others] = shapes.get(name) ?? [];
      return Promise.resolve(new Float32Array(others.reduce((size, side) => size * side, rows?.count ?? count)));
    },
    readStored(name, rows): Promise<Uint8Array<ArrayBuffer> | null> {
      const [count = 0, cols = 0] = shapes.get(name) ?? [], type = storedDtype(name);
      return Promise.resolve(
        isBlocked(type) ? new Uint8Array((rows?.count ?? count) * bytesOfRow(type, cols)) : null,
      );
    },
    storedDtype,
  };
}
