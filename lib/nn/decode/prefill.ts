// Plans that read many tokens of a sequence at once, at its start or after cached tokens.
import { expertRows } from "../experts.ts";
import { existing } from "../../core/guards.ts";
import type { DeviceBuffer } from "../../gpu/types.ts";
import type { Device } from "../../gpu/device.ts";
import { Plan } from "../../gpu/plan.ts";
import { createActivations, widest } from "../activations.ts";
import { recordDecodeAttention, recordTextureDecodeAttention } from "./attention.ts";
import { type CacheState, pagesFor, pagesOf, recordCacheFill, tokensOf } from "./cache.ts";
import type { DecoderContext } from "../context.ts";
import { recordCachedConv } from "./convolution.ts";
import { recordSelfAttention, recordTurn } from "../decoder.ts";
import { ROW_ALIGN, strideOf } from "../padding.ts";
import type { Lora } from "../lora.ts";
import type { MaskKind, MaskSlots } from "../mask_slots.ts";
import { recordForward } from "../pass.ts";
import { layerTable, recordRope, type RopeTables } from "../rope.ts";
import { type DecoderSpec, headDimOf } from "../../spec/decoder.ts";
import type { Weights } from "../weights.ts";
import { WINDOW_PART } from "./windows.ts";

/** A sequence and what it is read with. */
export interface PrefillState extends CacheState {
  readonly weights: Weights;
  readonly masks: MaskSlots;
  /** One row for each cache position. */
  readonly rope: RopeTables;
}

/** Input of {@link runPrefill}. */
export interface PrefillOptions {
  readonly tokens: readonly number[];
  /** Number of tokens already in the caches. */
  readonly start: number;
  readonly lora: Lora | null;
  readonly stepState: DecoderContext["state"];
  readonly signal: AbortSignal | undefined;
  /** See `RunOptions`. */
  readonly turn?: (() => Promise<void>) | undefined;
}

/**
 * Fills rows start … start + tokens − 1 of the caches, in as few plans as the device limits allow. Afterwards
 * `state.position` is start + tokens.
 */
export async function runPrefill(device: Device, state: PrefillState, options: PrefillOptions): Promise<void> {
  const { tokens, start } = options, most = prefillRows(device, state.weights.spec);
  const hasRings = [...state.pages.values()].some(({ ring = Infinity, perRow }) => ring < perRow);
  for (let first = 0; first < tokens.length;) {
    const end = first + (hasRings && start + first > 0 ? Math.min(most, WINDOW_PART) : most);
    await runSlice(device, state, { ...options, tokens: tokens.slice(first, end), start: start + first });
    first = end;
  }
}

/**
 * Largest number of tokens of one plan, also if the limits allow more. Activations take memory, and the attention of
 * many tokens can keep a GPU busy for longer than some systems allow.
 */
const MOST_ROWS = 4096;

/**
 * Largest number of tokens of one plan. Each activation [tokens, width] must fit one binding. On CPU adapters it must
 * also fit a texture with one row per token. Row-wise kernels dispatch one workgroup per token.
 */
export function prefillRows({ limits, facts }: Pick<Device, "limits" | "facts">, spec: DecoderSpec): number {
  const { hidden } = spec, { q, kv, ffn, conv } = widest(spec);
  const width = strideOf(Math.max(hidden, q, kv, ffn, 3 * conv));
  const bytes = Math.min(limits.maxStorageBufferBindingSize, limits.maxBufferSize);
  const texels = facts.isCpu ? limits.maxTextureDimension2D : Infinity;
  const fitting = Math.min(Math.floor(bytes / (4 * width)), expertRows(spec, bytes));
  const rows = Math.min(fitting, limits.maxComputeWorkgroupsPerDimension, texels, MOST_ROWS);
  return Math.max(ROW_ALIGN, Math.floor(rows / ROW_ALIGN) * ROW_ALIGN);
}

async function runSlice(device: Device, state: PrefillState, options: PrefillOptions): Promise<void> {
  const { weights, masks, rope, position } = state, { tokens, start, lora, stepState, signal, turn } = options;
  using act = createActivations(device, weights.spec, {
    batch: 1,
    seq: tokens.length,
    backward: false,
    rank: lora?.config.rank ?? 0,
    headRows: 1,
  });
  const heads = Math.max(1, ...weights.layers.map(({ spec }) => spec.heads));
  using open = device.uploadBuffer("open masks", new Float32Array(heads).fill(1));
  using plan = new Plan(device);
  recordForward({
    convolve: (own, index) => recordCachedConv(own, state, { index, own: false }),
    plan,
    weights,
    act,
    masks,
    lora,
    rope,
    position,
    state: stepState,
    dropout: false,
    maskGrads: new Set<MaskKind>(),
    attend: start === 0
      ? (own, index) => recordFirstAttention(own, state, index)
      : (own, index) => recordLaterAttention(own, state, { index, open }),
  });
  device.write(act.tokens, Uint32Array.from(tokens));
  device.write(position, Uint32Array.of(start));
  await plan.run({ signal, turn });
  device.write(position, Uint32Array.of(start + tokens.length));
}

/** Attention among the new tokens alone. Keys and values are copied before the next layer overwrites them. */
function recordFirstAttention(context: DecoderContext, state: CacheState, index: number): void {
  const { plan, act, weights: { spec } } = context;
  recordSelfAttention(context, index);
  const { k, v } = existing(act.layers[index], `buffers of layer ${index}`).forward, { rows } = act;
  const pages = pagesFor(state, spec.layers[index]?.window), { ring = Infinity } = pages;
  // Of tokens that have the same place in a ring the last one stays.
  const first = Math.max(0, tokensOf(pagesOf(rows) - ring));
  recordCacheFill(plan, { ...state, pages }, { spec, layer: index, k, v, rows, first });
}

/** Attention over the caches, after the tokens' own keys and values are appended. */
function recordLaterAttention(
  context: DecoderContext,
  state: CacheState,
  { index, open }: { readonly index: number; readonly open: DeviceBuffer },
): void {
  const { plan, act, weights, rope } = context;
  const { caches, capacity, position } = state;
  const cache = existing(caches.layers[index], `cache of layer ${index}`);
  const layer = existing(weights.layers[index], `layer ${index}`);
  const { q, k, v, o } = existing(act.layers[index], `buffers of layer ${index}`).forward;
  const { spec } = weights, { rope: { dims } } = spec, { heads, kvHeads, window } = layer.spec;
  const headDim = headDimOf(spec, layer.spec);
  const { rows } = act;
  recordTurn(context, index, ({ of, width, ...part }) => {
    const cosSin = layerTable(rope, layer.spec, of), stride = strideOf(width);
    recordRope(plan, { ...part, rows, seq: rows, headDim, dims, cosSin, stride, positionBuffer: position });
  });
  const pages = pagesFor(state, layer.spec.window);
  recordCacheFill(plan, { ...state, pages }, { spec, layer: index, k, v, rows });
  const shape = { heads, kvHeads, headDim, window, capacity, rows, scale: spec.scales?.attention };
  if (cache.placement === "buffer") {
    recordDecodeAttention(plan, { ...shape, softCap: spec.softCaps?.attention }, {
      q,
      kCache: cache.k,
      vCache: cache.v,
      o,
      position,
      pages,
    });
    return;
  }
  plan.clear(o); // the padding may hold values of layers of other widths
  recordTextureDecodeAttention(plan, shape, {
    q,
    kCache: cache.k,
    vCache: cache.v,
    o: { buffer: o },
    position,
    pages,
    z: open,
  });
}
