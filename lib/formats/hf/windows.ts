// Sliding windows in config.json: which layers see a part of the context only, as transformers reads and writes it.
import { z } from "../../core/packages.ts";
import { type DecoderSpec, windowsOf } from "../../spec/decoder.ts";
import type { Json } from "../../core/guards.ts";

const count = z.int().positive();

/** The keys that say it, and those of layers without RoPE; `layer_windows` is that of `compresso`. */
export const WINDOW_KEYS = {
  sliding_window: count.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.int().nonnegative().nullish(),
  layer_types: z.array(z.enum(["full_attention", "sliding_attention"])).nullish(),
  sliding_window_pattern: count.nullish(),
  layer_windows: z.array(count.nullable()).nullish(),
  // 1 for a layer with RoPE, 0 for one without.
  no_rope_layers: z.array(z.union([z.literal(0), z.literal(1)])).nullish(),
  no_rope_layer_interval: count.nullish(),
};

/** What windows follow from. */
export type WindowConfig =
  & {
    readonly [Key in keyof typeof WINDOW_KEYS]?: z.infer<typeof WINDOW_KEYS[Key]>;
  }
  & { readonly model_type: string; readonly num_hidden_layers: number };

/**
 * The window of each layer in tokens, or undefined where it sees the whole context: also where the window is no shorter than that. `fail` is called with a
 * key and its rule where transformers has no such model.
 */
export function windowsIn(
  config: WindowConfig,
  maxPosition: number,
  fail: (key: string, rule: string) => never,
): (number | undefined)[] {
  const { layer_types: types, layer_windows: own, num_hidden_layers: length } = config;
  for (const [key, list] of [["layer_types", types], ["layer_windows", own]] as const) {
    if (list && list.length !== length) fail(key, `it has an entry for each of num_hidden_layers = ${length} layers`);
  }
  if (own && config.model_type !== "compresso") {
    fail("layer_windows", 'only model_type "compresso" has it: others ignore it');
  }
  const shown = (window: number | null | undefined): number | undefined =>
    window && window < maxPosition ? window : undefined;
  if (own) return own.map(shown);
  const window = windowOf(config);
  if (types?.includes("sliding_attention") && !window) {
    const { model_type: type } = config;
    const keys = type.startsWith("qwen") || type === "smollm3"
      ? "use_sliding_window and sliding_window"
      : "sliding_window";
    fail("layer_types", type in WHOLE ? `a ${type} has full_attention alone` : `sliding_attention needs ${keys}`);
  }
  return slidingLayers(config).map((slides) => slides ? shown(window) : undefined);
}

/** Which layers have the window, where there is one. */
export function slidingLayers(config: WindowConfig): readonly boolean[] {
  return Array.from({ length: config.num_hidden_layers }, (_, layer) => slides(config, layer));
}

/** Whether a layer of a SmolLM3 has RoPE: by the list, or all but each nth. */
export function layerHasRope(
  { no_rope_layers: list, no_rope_layer_interval: interval }: Pick<
    WindowConfig,
    "no_rope_layers" | "no_rope_layer_interval"
  >,
  layer: number,
): boolean {
  return list ? list[layer] === 1 : (layer + 1) % (interval ?? DEFAULT_ROPE_INTERVAL) !== 0;
}

/** The window of layers that have one; transformers' default where an old file leaves it out. */
function windowOf(
  { model_type: type, sliding_window: window, use_sliding_window: isUsed }: WindowConfig,
): number | null {
  switch (type) {
    case "mistral":
    case "ministral":
    case "gemma2":
    case "gemma3_text":
      return window === undefined ? DEFAULT_WINDOW : window;
    case "phi3":
      return window ?? null;
    case "smollm3":
      return isUsed ? window ?? null : null;
    case "qwen2":
    case "qwen3":
      return isUsed ? window === undefined ? DEFAULT_WINDOW : window : null;
    default:
      return null;
  }
}

/** Model types whose layers all see the whole context, but for `layer_windows`. */
const WHOLE = {
  llama: true,
  gemma: true,
  opt: true,
  gpt2: true,
  gpt_neox: true,
  stablelm: true,
  phi: true,
  compresso: true,
};
const DEFAULT_ROPE_INTERVAL = 4, DEFAULT_WINDOW = 4096, DEFAULT_FULL_LAYERS = 28;
/** Of as many layers of a Gemma the last sees the whole context. */
const GEMMA2_PERIOD = 2, GEMMA3_PERIOD = 6;

/** Whether a layer has the window, where there is one. */
function slides(
  { model_type: type, layer_types: types, max_window_layers: full, sliding_window_pattern: period, ...config }:
    WindowConfig,
  layer: number,
): boolean {
  if (types) return types[layer] === "sliding_attention";
  if (type === "smollm3") return !layerHasRope(config, layer);
  if (type === "gemma3_text") return (layer + 1) % (period ?? GEMMA3_PERIOD) !== 0;
  if (type === "gemma2") return (layer + 1) % GEMMA2_PERIOD !== 0;
  return type.startsWith("qwen") ? layer >= (full ?? DEFAULT_FULL_LAYERS) : true;
}

/** The keys of a configuration of one of these forms for the windows of a model, of which it can say one. */
export function windowKeys(
  form: "mistral" | "ministral" | "qwen2" | "qwen3" | "gemma2" | "gemma3_text" | "phi3" | "smollm3",
  spec: DecoderSpec,
): Json {
  const window = windowsOf(spec).find((one) => one !== undefined) ?? null;
  if (form === "mistral" || form === "phi3") return { sliding_window: window };
  if (form === "gemma2") {
    const types = spec.layers.map((layer) => layer.window === undefined ? "full_attention" : "sliding_attention");
    return { sliding_window: window ?? spec.maxPosition, layer_types: types };
  }
  // Its layers with a window are those with the local RoPE, also where the context is no longer than the window.
  if (form === "gemma3_text") {
    const types = spec.layers.map(({ rope }) => rope === "local" ? "sliding_attention" : "full_attention");
    return { sliding_window: window ?? spec.maxPosition, layer_types: types };
  }
  const types = spec.layers.map((layer) => layer.window === undefined ? "full_attention" : "sliding_attention");
  if (form === "ministral") return { sliding_window: window, layer_types: types };
  if (window === null) return { use_sliding_window: false };
  return { use_sliding_window: true, sliding_window: window, layer_types: types };
}
