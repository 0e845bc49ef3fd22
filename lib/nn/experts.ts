// The experts of a layer: router, choice, products of the chosen pairs alone, and their sum.
import { expertCombine, expertOrder, expertProduct, routerChoice } from "../../kernels/mod.ts";
import { option, refuse } from "../core/errors.ts";
import { existing } from "../core/guards.ts";
import type { Device } from "../gpu/device.ts";
import type { DeviceBuffer } from "../gpu/types.ts";
import { compileKernel, sourceOf } from "../gpu/kernel.ts";
import { f32, type Plan, u32 } from "../gpu/plan.ts";
import type { DecoderSpec, ExpertCounts, Router } from "../spec/decoder.ts";
import { recordGated } from "./ops.ts";
import { paddedRows, strideOf } from "./padding.ts";
import type { Matrix } from "./products/matrix.ts";
import type { ExpertWeights } from "./weights.ts";

/** Slots of a tile where many pairs have the same expert. */
const TILE = 8;
/** Columns of a workgroup of the products: on a CPU the width of a vector. */
const LANES = 64, CPU_LANES = 8;

/**
 * Refuses a model with experts: their gradients and their cuts are not computed.
 *
 * @throws CompressoError("usage") for a model with experts.
 */
export function refuseExperts({ router, layers }: Pick<DecoderSpec, "router" | "layers">, what: string): void {
  const count = Math.max(0, ...layers.map(({ experts }) => experts?.count ?? 0));
  if (!router) return;
  refuse("usage", what, {
    rule: "its layers are dense: experts have no gradients here",
    value: `${count} experts in a layer, ${router.topK} for each token`,
    fix: `cut whole experts: ${option("units", "experts")} with ${option("steps", 0)}`,
  });
}

/** Numbers of the experts that each layer keeps, ascending; null for a dense layer. */
export type KeptExperts = readonly (readonly number[] | null)[];

/**
 * Checks which experts the layers of a model keep.
 *
 * @throws CompressoError("usage") unless each layer with experts keeps some of its experts, each once and in order, and as many as a token has at least.
 */
export function checkKeptExperts(spec: Pick<DecoderSpec, "layers" | "router">, kept: KeptExperts): void {
  if (kept.length !== spec.layers.length) {
    refuse("usage", "cannot cut experts", {
      rule: `there is an entry for each of ${spec.layers.length} layers`,
      value: `${kept.length} entries`,
    });
  }
  for (const index of kept.keys()) checkKept(spec, { index, own: kept[index] ?? null });
}

function checkKept(
  { layers, router }: Pick<DecoderSpec, "layers" | "router">,
  { index, own }: { readonly index: number; readonly own: readonly number[] | null },
): void {
  const { experts } = layers[index] ?? {},
    fail = (rule: string, value: string): never =>
      refuse("usage", `cannot cut experts of layer ${index}`, { rule, value });
  if (!experts) {
    if (own) fail("the layer has experts", "it is dense");
    return;
  }
  if (!own) return fail("the experts that it keeps are given", "null");
  const isOrdered = own.every((expert, at) =>
    Number.isInteger(expert) && expert > (own[at - 1] ?? -1) && expert < experts.count
  );
  if (!isOrdered) fail(`experts are ascending numbers from 0 to ${experts.count - 1}`, own.join(", "));
  const least = router?.topK ?? 1;
  if (own.length < least) fail(`as many experts are kept as a token has, ${least}`, String(own.length));
}

/** Sizes of the routing of `rows` tokens. */
export interface Routing {
  /** Tokens and choices: rows · topK. */
  readonly pairs: number;
  /** Slots of a tile, all of one expert. */
  readonly tile: number;
  /** Tiles at most. */
  readonly tiles: number;
}

/** Sizes of the routing of `rows` tokens to some of `count` experts. Tiles of one slot where most would be padding. */
export function routingOf(rows: number, { topK }: Pick<Router, "topK">, count: number): Routing {
  const pairs = rows * topK, tile = pairs < 2 * count ? 1 : TILE;
  // Each expert with a pair has less than one tile of padding.
  const tiles = tile === 1 ? pairs : Math.floor((pairs - Math.min(pairs, count)) / tile) + Math.min(pairs, count);
  return { pairs, tile, tiles };
}

/** Largest number of tokens whose slots fit bindings of this many bytes, and one dispatch; Infinity for a dense model. */
export function expertRows({ router, hidden, layers }: DecoderSpec, bytes: number): number {
  const all = layers.flatMap(({ experts }) => experts ?? []);
  if (!router || all.length === 0) return Infinity;
  const width = strideOf(Math.max(hidden, ...all.map(({ ffn }) => ffn)));
  const padding = Math.max(...all.map(({ count }) => count)) * (TILE - 1);
  return Math.floor((Math.min(bytes / (4 * width), MOST_GROUPS) - padding) / router.topK);
}

/** Workgroups of a dimension that WebGPU promises. */
const MOST_GROUPS = 65535;

/** Buffers of the experts, for one layer at a time. */
export interface ExpertActivations {
  /** Logits of the router [paddedRows, strideOf(experts)], and of the shared expert's gate [paddedRows, 64]. */
  readonly logits: DeviceBuffer;
  readonly shared: DeviceBuffer;
  /** Experts of each token in the order of the choice [rows, topK] u32, and their weights. */
  readonly choice: DeviceBuffer;
  readonly weights: DeviceBuffer;
  /** See `expert_order.wgsl`. */
  readonly counts: DeviceBuffer;
  readonly starts: DeviceBuffer;
  readonly slots: DeviceBuffer;
  readonly slotOf: DeviceBuffer;
  readonly tiles: DeviceBuffer;
  /** Values of the slots: [slots, strideOf(ffn)], and the output of the experts [slots, strideOf(hidden)]. */
  readonly gate: DeviceBuffer;
  readonly up: DeviceBuffer;
  readonly a: DeviceBuffer;
  readonly out: DeviceBuffer;
  /** Mask of the columns: ones. */
  readonly ones: DeviceBuffer;
  /** Zeros [experts], the bias of a choice without bias. */
  readonly noBias: DeviceBuffer;
  /** 1 for each expert that tokens may choose [experts of all layers] u32; all at first. */
  readonly open: DeviceBuffer;
}

/** Allocates the buffers for passes of `rows` tokens; null for a dense model. */
export function createExpertActivations(
  device: Device,
  spec: DecoderSpec,
  { rows, own }: { readonly rows: number; readonly own: <T extends Disposable>(resource: T) => T },
): ExpertActivations | null {
  const { router } = spec, all = spec.layers.flatMap(({ experts }) => experts ?? []);
  if (!router || all.length === 0) return null;
  const most = Math.max(...all.map(({ count }) => count)), wide = strideOf(Math.max(...all.map(({ ffn }) => ffn)));
  const routings = all.map(({ count }) => routingOf(rows, router, count));
  const slots = Math.max(...routings.map(({ tile, tiles }) => tile * tiles));
  const floats = (name: string, count: number): DeviceBuffer => own(device.createBuffer(`experts: ${name}`, 4 * count));
  return {
    logits: floats("logits", paddedRows(rows) * strideOf(most)),
    shared: floats("shared", paddedRows(rows) * strideOf(1)),
    choice: floats("choice", rows * router.topK),
    weights: floats("weights", rows * router.topK),
    counts: floats("counts", most),
    starts: floats("starts", most),
    slots: floats("slots", slots),
    slotOf: floats("slot of", rows * router.topK),
    tiles: floats("tiles", Math.max(...routings.map(({ tiles }) => tiles))),
    gate: floats("gate", slots * wide),
    up: floats("up", slots * wide),
    a: floats("activation", slots * wide),
    out: floats("output", slots * strideOf(spec.hidden)),
    ones: own(device.uploadBuffer("experts: ones", new Float32Array(wide).fill(1))),
    noBias: floats("no bias", most),
    open: own(device.uploadBuffer("experts: open", openExperts(spec, null))),
  };
}

/** Number of experts before a layer. */
function expertsBefore({ layers }: Pick<DecoderSpec, "layers">, index: number): number {
  return layers.slice(0, index).reduce((sum, { experts }) => sum + (experts?.count ?? 0), 0);
}

/** 1 for each expert that is kept, 0 for the others [experts of all layers]; null keeps all. */
export function openExperts(spec: DecoderSpec, kept: KeptExperts | null): Uint32Array<ArrayBuffer> {
  if (kept) checkKeptExperts(spec, kept);
  return Uint32Array.from(spec.layers.flatMap(({ experts }, index) => {
    const own = kept?.[index];
    return Array.from({ length: experts?.count ?? 0 }, (_, expert) => !own || own.includes(expert) ? 1 : 0);
  }));
}

/** What the record functions of experts have in common. */
export interface ExpertRecord {
  readonly act: ExpertActivations;
  readonly routing: Routing;
  readonly counts: ExpertCounts;
}

/** choice and weights (=) from logits [rows, strideOf(experts)]; see `router_choice.wgsl`. */
export function recordChoice(
  plan: Plan,
  io: Pick<ExpertActivations, "logits" | "open" | "noBias" | "choice" | "weights">,
  { rows, count, first, bias, router: { topK, renormalised, scores, scale = 1 } }: {
    readonly rows: number;
    /** Number of experts before the layer. */
    readonly first: number;
    readonly count: number;
    /** Bias of the choice [count]; null for none. */
    readonly bias: DeviceBuffer | null;
    readonly router: Router;
  },
): void {
  const flags = [renormalised ? 1 : 0, first, scores === "sigmoid" ? 1 : 0, bias ? 1 : 0];
  const params = [...[rows, strideOf(count), count, topK, ...flags].map(u32), f32(scale)];
  plan.dispatch(
    compileKernel(plan.device, routerChoice),
    [io.logits, io.open, bias ?? io.noBias, io.choice, io.weights, { params }],
    { groups: [Math.ceil(rows / 64)], cost: (topK + 4) * rows * count },
  );
}

/** slots, slotOf, tiles and counts (=) from choice; see `expert_order.wgsl`. */
export function recordOrder(
  plan: Plan,
  { act, routing: { pairs, tile, tiles }, counts: { count } }: ExpertRecord,
): void {
  const params = [pairs, count, tile, tiles].map(u32);
  plan.dispatch(
    compileKernel(plan.device, expertOrder),
    [act.choice, act.counts, act.starts, act.slots, act.slotOf, act.tiles, { params }],
    { groups: [1], cost: 2 * pairs * count },
  );
}

/**
 * y [slots, strideOf(columns)] (=) W of each slot's expert times x, which has a row for each token with `perRow` pairs,
 * or one for each slot with `perRow` 0. W holds `columns` rows for each expert.
 */
export function recordExpertProduct(
  plan: Plan,
  { act: { slots, tiles: experts }, routing: { tile, tiles, pairs } }: Pick<ExpertRecord, "act" | "routing">,
  { matrix, x, y, columns, perRow }: {
    readonly matrix: Matrix;
    readonly x: DeviceBuffer;
    readonly y: DeviceBuffer;
    readonly columns: number;
    readonly perRow: number;
  },
): void {
  const lanes = plan.device.facts.isCpu ? CPU_LANES : LANES, { placement, dtype, stride, shards } = matrix;
  const kernel = compileKernel(plan.device, sourceOf(expertProduct, { placement, dtype, tile, lanes }));
  const strideY = strideOf(columns), cost = 2 * pairs * columns * stride;
  for (const { row0, rows, resources } of shards) {
    const params = [columns, row0, rows, stride / 4, stride / 4, stride / 4, strideY, perRow].map(u32);
    plan.dispatch(kernel, [x, ...resources, slots, experts, y, { params }], {
      groups: [tiles, Math.ceil(strideY / lanes)],
      cost: cost * rows / matrix.rows,
    });
  }
}

/** y [rows, strideOf(hidden)] := the experts' sum, added to the shared expert's output in y if there is one. */
export function recordCombine(
  plan: Plan,
  act: Pick<ExpertActivations, "weights" | "slotOf" | "out">,
  { y, gate, mode, rows, hidden, topK }: {
    readonly y: DeviceBuffer;
    /** Logits of the shared expert's gate [rows, strideOf(1)]; read with the mode "gated". */
    readonly gate: DeviceBuffer;
    readonly mode: "alone" | "added" | "gated";
    readonly rows: number;
    readonly hidden: number;
    readonly topK: number;
  },
): void {
  const stride4 = strideOf(hidden) / 4, modes = { alone: 0, added: 1, gated: 2 } as const;
  const params = [stride4, topK, modes[mode], strideOf(1)].map(u32);
  plan.dispatch(compileKernel(plan.device, expertCombine), [act.weights, act.slotOf, act.out, gate, y, { params }], {
    groups: [Math.ceil(stride4 / 64), rows],
    cost: 2 * topK * rows * hidden,
  });
}

/**
 * y := what the experts of a layer add for its input h [rows, strideOf(hidden)], with the shared expert's output, which y
 * holds where there is one. `multiply` records y = W·x of each row.
 */
export function recordExperts(
  plan: Plan,
  weights: ExpertWeights,
  { act, spec, index, counts, rows, h, y, hasShared, multiply }: {
    readonly act: ExpertActivations | null;
    readonly spec: DecoderSpec;
    /** The layer. */
    readonly index: number;
    readonly counts: ExpertCounts;
    readonly rows: number;
    readonly h: DeviceBuffer;
    readonly y: DeviceBuffer;
    readonly hasShared: boolean;
    readonly multiply: (matrix: Matrix, y: DeviceBuffer) => void;
  },
): void {
  const own = existing(act, "buffers of experts"), router = existing(spec.router, "router"), { topK } = router;
  const { hidden } = spec, { ffn, count } = counts;
  const routing = routingOf(rows, router, count), record = { act: own, routing, counts };
  plan.section("products");
  multiply(weights.router, own.logits);
  if (weights.sharedGate) multiply(weights.sharedGate, own.shared);
  plan.section("experts");
  recordChoice(plan, own, { rows, count, first: expertsBefore(spec, index), bias: weights.choiceBias, router });
  recordOrder(plan, record);
  for (const [matrix, to] of [[weights.gate, own.gate], [weights.up, own.up]] as const) {
    recordExpertProduct(plan, record, { matrix, x: h, y: to, columns: ffn, perRow: topK });
  }
  const { ones: z, gate, up, a } = own;
  recordGated(plan, { gate, up, z, a }, {
    rows: routing.tile * routing.tiles,
    width: ffn,
    activation: spec.activation,
  });
  recordExpertProduct(plan, record, { matrix: weights.down, x: a, y: own.out, columns: hidden, perRow: 0 });
  const mode = !hasShared ? "alone" : weights.sharedGate ? "gated" : "added";
  recordCombine(plan, own, { y, gate: own.shared, mode, rows, hidden, topK });
}
