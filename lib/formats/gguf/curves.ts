// The curves of xIELU in the header of a GGUF, a list of numbers for each part, and as tensors of the model.
import { refuse } from "../../core/errors.ts";
import { CURVE_PARTS, curveName, type CurvePart, curveParts, type DecoderSpec } from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { GgufFile } from "./file.ts";
import { ggufError } from "./types.ts";

/** Key of a part; it does not begin with the name of the architecture. */
function keyOf(part: CurvePart): string {
  return `xielu.${part}`;
}

/**
 * The curves of a file, by the canonical names of their tensors. A number stands for all layers.
 *
 * @throws CompressoError("input") for a key that is missing, of another kind or of another length than the layers.
 */
export function ggufCurves(
  { path, metadata }: GgufFile,
  spec: DecoderSpec,
): ReadonlyMap<string, Float32Array<ArrayBuffer>> {
  const curves = new Map<string, Float32Array<ArrayBuffer>>(), { length } = spec.layers;
  if (spec.activation !== "xielu") return curves;
  for (const part of CURVE_PARTS) {
    const key = keyOf(part), value = metadata.get(key);
    const list = typeof value === "number"
      ? Array.from(spec.layers, () => value)
      : value instanceof Float32Array
      ? Array.from(value)
      : [];
    if (list.length !== length || !list.every(Number.isFinite)) {
      const shown = value === undefined ? "not given" : `${list.length} numbers, ${list.slice(0, 4).join(", ")}`;
      throw ggufError(path, { rule: `${key} is a finite number, or one for each of ${length} layers`, value: shown });
    }
    list.forEach((own, layer) => curves.set(curveName(layer, part), Float32Array.of(own)));
  }
  return curves;
}

/**
 * The keys of a model's curves.
 *
 * @throws CompressoError("numeric") for a number that is not finite.
 */
export async function curveEntries(source: WeightSource): Promise<[string, Float32Array][]> {
  const { spec } = source, curves = emptyCurves(spec);
  for (const [at, layer] of spec.layers.entries()) {
    for (const part of curveParts(spec, layer)) {
      const name = curveName(at, part), [value = NaN] = await source.read(name);
      if (!Number.isFinite(value)) {
        refuse("numeric", `cannot write '${name}'`, { rule: "it is finite", value: `${value}` });
      }
      curves.find(([key]) => key === keyOf(part))?.[1].set([value], at);
    }
  }
  return curves;
}

/** The same with numbers of 0, which need as many bytes. */
export function emptyCurves({ activation, layers }: DecoderSpec): [string, Float32Array][] {
  return activation === "xielu" ? CURVE_PARTS.map((part) => [keyOf(part), new Float32Array(layers.length)]) : [];
}
