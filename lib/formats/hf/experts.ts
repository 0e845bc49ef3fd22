// Tensors of folders that hold the experts of a layer: one for each expert, or some of all; read and written as the canonical ones.
import type { Family } from "../../families/family.ts";
import {
  choiceBiasName,
  type DecoderSpec,
  EXPERT_MATRICES,
  type ExpertCounts,
  expertsName,
  projectionName,
  routerName,
  tensorShapes,
} from "../../spec/decoder.ts";
import type { RowRange } from "../../spec/source.ts";
import { badTensor, type FolderContext, type TensorFile, type TensorPlace } from "./packed.ts";

/** A tensor of a folder that is made of rows of canonical tensors. */
export interface ExpertTensor {
  readonly name: string;
  /** Shape in the file. */
  readonly shape: readonly number[];
  /** Rows of canonical tensors, one after another. */
  readonly parts: readonly { readonly name: string; readonly rows: RowRange }[];
  /** It is f32 in folders of all dtypes. */
  readonly isExact?: true;
}

/** The tensors of a folder of a family whose layers have experts; those of dense layers are the canonical ones. */
export function expertTensors({ tensors: { experts: modules } = {} }: Family, spec: DecoderSpec): ExpertTensor[] {
  if (!modules) return [];
  const { hidden } = spec, shapes = tensorShapes(spec);
  return spec.layers.flatMap((layer, index): ExpertTensor[] => {
    const { experts } = layer, at = (module: string): string => `model.layers.${index}.${module}.weight`;
    if (!experts) return [];
    const whole = (canonical: string, name: string): ExpertTensor => {
      const shape = shapes.get(canonical) ?? [];
      return { name, shape, parts: [{ name: canonical, rows: { start: 0, count: shape[0] ?? 0 } }] };
    };
    const { choiceBias } = modules, bias = choiceBiasName(index), { count } = experts;
    const biases: ExpertTensor[] = !choiceBias || !spec.router?.choiceBias ? [] : [{
      ...whole(bias, at(choiceBias.name).replace(/\.weight$/, "")),
      ...choiceBias.isRow ? { shape: [1, count] } : {},
      isExact: true,
    }];
    const shared = modules.shared !== undefined && layer.ffn > 0
      ? EXPERT_MATRICES.map((one) => whole(projectionName(index, one), at(`${modules.shared}.${one}_proj`)))
      : [];
    return [
      whole(routerName(index), at(modules.router)),
      ...biases,
      ...shared,
      ...modules.each ? eachExpert(modules.each, { index, experts, hidden }) : [],
      ...modules.all ? allExperts(modules.all, { index, experts, hidden }) : [],
    ];
  });
}

interface Place {
  readonly index: number;
  readonly experts: ExpertCounts;
  readonly hidden: number;
}

function eachExpert(
  modules: Readonly<Record<"gate" | "up" | "down", string>>,
  { index, experts: { count, ffn }, hidden }: Place,
): ExpertTensor[] {
  return Array.from({ length: count }, (_, expert) =>
    EXPERT_MATRICES.map((matrix): ExpertTensor => {
      const [rows, columns] = matrix === "down" ? [hidden, ffn] : [ffn, hidden];
      return {
        name: `model.layers.${index}.${modules[matrix].replace("#", String(expert))}.weight`,
        shape: [rows, columns],
        parts: [{ name: expertsName(index, matrix), rows: { start: expert * rows, count: rows } }],
      };
    })).flat();
}

function allExperts(
  modules: { readonly gateUp: string; readonly down: string },
  { index, experts: { count, ffn }, hidden }: Place,
): ExpertTensor[] {
  const gateUp = Array.from({ length: count }, (_, expert) =>
    (["gate", "up"] as const).map((matrix) => ({
      name: expertsName(index, matrix),
      rows: { start: expert * ffn, count: ffn },
    }))).flat();
  return [
    { name: `model.layers.${index}.${modules.gateUp}.weight`, shape: [count, 2 * ffn, hidden], parts: gateUp },
    {
      name: `model.layers.${index}.${modules.down}.weight`,
      shape: [count, hidden, ffn],
      parts: [{ name: expertsName(index, "down"), rows: { start: 0, count: count * hidden } }],
    },
  ];
}

/** A run of rows of a canonical tensor: where it begins there, and in the file. */
interface Run extends RowRange {
  readonly place: TensorPlace;
  readonly from: number;
}

/**
 * The tensors of a folder with those of experts replaced by the canonical ones.
 *
 * @throws CompressoError("input") for a tensor of experts that is missing or has another shape.
 */
export function withExperts(
  places: ReadonlyMap<string, TensorPlace>,
  { family, spec, folder }: FolderContext,
): Map<string, TensorPlace> {
  const tensors = expertTensors(family, spec);
  if (tensors.length === 0) return new Map(places);
  const all = new Map(places), shapes = tensorShapes(spec), runs = new Map<string, Run[]>();
  const dtypes = new Map<string, ReturnType<TensorFile["tensors"]["get"]>>();
  for (const { name, shape, parts } of tensors) {
    const place = places.get(name), entry = place?.file.tensors.get(place.name), wanted = `[${shape.join(", ")}]`;
    if (!place || !entry) throw badTensor(folder, `it holds the tensor ${name}, ${wanted}`, "no such tensor");
    if (entry.shape.join() !== shape.join()) {
      throw badTensor(
        folder,
        `${name} has the shape ${wanted} that config.json implies`,
        `[${entry.shape.join(", ")}]`,
      );
    }
    all.delete(name);
    let from = 0;
    for (const part of parts) {
      const own = runs.get(part.name);
      if (own) own.push({ ...part.rows, place, from });
      else runs.set(part.name, [{ ...part.rows, place, from }]);
      // One canonical tensor can have parts of several dtypes; the first is said, and each is read as it is.
      if (!dtypes.has(part.name)) dtypes.set(part.name, entry);
      from += part.rows.count;
    }
  }
  for (const [name, own] of runs) {
    const entry = dtypes.get(name), shape = shapes.get(name) ?? [], [total = 0, width = 1] = shape;
    if (!entry) continue;
    const file: TensorFile = {
      tensors: new Map([[name, { ...entry, name, shape }]]),
      read: async (_, rows = { start: 0, count: total }) => await readRuns(own, rows, width),
    };
    all.set(name, { file, name });
  }
  return all;
}

/** Rows of a canonical tensor from the tensors that hold them. */
async function readRuns(
  runs: readonly Run[],
  { start, count }: RowRange,
  width: number,
): Promise<Float32Array<ArrayBuffer>> {
  const out = new Float32Array(count * width);
  for (const run of runs) {
    const first = Math.max(start, run.start), end = Math.min(start + count, run.start + run.count);
    if (first >= end) continue;
    const rows = { start: run.from + first - run.start, count: end - first };
    out.set(await readRows(run.place, rows, width), (first - start) * width);
  }
  return out;
}

/** Rows of a matrix, or of matrices that stand one after another in a stack. */
async function readRows({ file, name }: TensorPlace, rows: RowRange, width: number): Promise<Float32Array> {
  const shape = file.tensors.get(name)?.shape ?? [], [, height = 1] = shape;
  // A vector that stands as one row.
  if (shape.length === 2 && shape[0] === 1 && width === 1) {
    return (await file.read(name)).subarray(rows.start, rows.start + rows.count);
  }
  if (shape.length < 3) return await file.read(name, rows);
  const first = Math.floor(rows.start / height), end = Math.ceil((rows.start + rows.count) / height);
  const whole = await file.read(name, { start: first, count: end - first });
  const skipped = rows.start - first * height;
  return whole.subarray(skipped * width, (skipped + rows.count) * width);
}
