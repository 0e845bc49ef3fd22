// What `plan` tells of a cut of experts: which options it has, how many experts stay, and the bytes of the files.
import { CompressoError, option, refuse } from "../../../lib/core/errors.ts";
import { openWeights } from "../../../lib/formats/open.ts";
import type { GgufWriteType } from "../../../lib/formats/gguf/mixes.ts";
import type { ModelView } from "../../../lib/local/open_model.ts";
import { foreseeCut, stateBytes } from "../../../lib/run/experts/foreseen.ts";
import type { MemoryPlan } from "../../../lib/run/memory/plan.ts";
import type { ResolvedMemory, RunOptions } from "../../../lib/run/options/options.ts";
import { resolveOptions } from "../../../lib/run/options/resolve.ts";
import { ggufDtypeFor } from "../../../lib/slice/export_options.ts";
import type { DecoderSpec } from "../../../lib/spec/decoder.ts";
import { fileBytes, type FileKind } from "../../../lib/units/file_size.ts";
import { cutsExperts } from "../../../lib/units/kinds/all.ts";
import { formatBytes, formatCount, print } from "../../terminal/output.ts";

/** Options that `plan` was given. */
interface Given extends Partial<RunOptions> {
  readonly sparsity?: number | undefined;
}

/** What a cut leaves, and what its files and its states take. */
export interface PlannedExperts {
  /** Experts of all layers; null without a share to cut. */
  readonly experts: { readonly before: number; readonly after: number } | null;
  /** Number of experts that each layer keeps; null for a dense layer, or without a share. */
  readonly kept: readonly (number | null)[] | null;
  readonly parameters: { readonly before: number; readonly after: number } | null;
  /** Bytes of the weights in each file, without tokenizer; null for a GGUF that cannot hold the model. */
  readonly files: {
    readonly hf: WrittenBytes;
    readonly gguf: WrittenBytes | null;
  } | null;
  /** Most bytes of main memory that states take. */
  readonly stateBytes: number;
}

interface WrittenBytes {
  readonly dtype: string;
  readonly before: number;
  readonly after: number;
}

/**
 * Refuses options that a cut of experts cannot have, and a share to cut of other units, on which memory does not depend.
 *
 * @throws CompressoError("usage") as `prune` does.
 */
export function checkExpertPlan(spec: DecoderSpec, given: Given, { time }: { readonly time: boolean }): void {
  const { sparsity } = given;
  if (!cutsExperts(given.units)) {
    if (sparsity === undefined) return;
    refuse("usage", `cannot plan with ${option("sparsity")}`, {
      rule: "memory does not depend on the share that is cut, but for experts",
      value: option("sparsity", sparsity),
      fix: `leave it out, or give ${option("units", "experts")}`,
      option: "sparsity",
    });
  }
  if (time) {
    refuse("usage", "cannot predict the time of a cut of experts", {
      rule: "the time of steps is predicted",
      value: option("units", "experts"),
      fix: "leave --time out",
    });
  }
  // As `prune` checks them. The share does not matter where none is given.
  resolveOptions({ ...given, rows: [], steps: given.steps ?? 0, sparsity: sparsity ?? LEAST }, spec);
}

/** A share at which an expert of each layer goes. */
const LEAST = 1e-6;

/** Plans a cut; null for other units. */
export async function planExperts(
  spec: DecoderSpec,
  { sparsity }: Given,
  { run: { units, seq }, view, isGguf }: {
    readonly run: ResolvedMemory;
    readonly view: ModelView;
    readonly isGguf: boolean;
  },
): Promise<PlannedExperts | null> {
  if (!cutsExperts(units)) return null;
  const bytes = stateBytes(spec, { seq, hasText: true });
  if (sparsity === undefined) return { experts: null, kept: null, parameters: null, files: null, stateBytes: bytes };
  const { before, after, kept, parameters, spec: cut } = foreseeCut(spec, { sparsity });
  const written = (kind: FileKind): WrittenBytes => {
    const [whole = NaN, small = NaN] = [spec, cut].map((one) =>
      fileBytes(one, kind, { tokenizer: null, name: "model" })
    );
    return { dtype: kind.dtype, before: whole, after: small };
  };
  const dtype = isGguf ? ggufDtypeFor(await openWeights(view.files, view.path), {}) : "f16";
  const files = { hf: written({ format: "hf", dtype: "f16" }), gguf: ggufBytes(dtype, written) };
  return { experts: { before, after }, kept, parameters, files, stateBytes: bytes };
}

/** Bytes of the GGUF; null where no GGUF can hold the model. */
function ggufBytes(dtype: GgufWriteType, written: (kind: FileKind) => WrittenBytes): WrittenBytes | null {
  try {
    return written({ format: "gguf", dtype });
  } catch (error) {
    if (error instanceof CompressoError && error.code === "input") return null;
    throw error;
  }
}

/** Shows what stays. */
export function showKept(
  spec: DecoderSpec,
  { experts, kept, parameters, files, stateBytes: bytes }: PlannedExperts,
): void {
  const cut = spec.layers.findIndex((layer) => layer.experts), count = spec.layers[cut]?.experts?.count ?? 0;
  const layers = spec.layers.filter((layer) => layer.experts).length;
  if (experts && kept && parameters) {
    print(
      `experts   ${
        kept[cut]
      } of ${count} stay in each of ${layers} layers, ${experts.after} of ${experts.before} in all`,
    );
    print(`cut       ${formatCount(parameters.before)} to ${formatCount(parameters.after)} parameters`);
  } else print(`experts   ${count} in each of ${layers} layers`);
  for (const [name, file] of Object.entries(files ?? {})) {
    if (!file) continue;
    const sizes = `${formatBytes(file.before)} to ${formatBytes(file.after)} of weights`;
    print(`file      ${name === "hf" ? "model" : "model.gguf"} in ${file.dtype}: ${sizes}`);
  }
  print(`states    at most ${formatBytes(bytes)} in main memory`);
}

/** The stages of a cut. */
export function stageLine({ stages: { weights, training, verification } }: MemoryPlan): string {
  return `a part of a layer ${formatBytes(weights)}, going through the layers ${
    formatBytes(training)
  }, measuring at the output head ${formatBytes(verification)}`;
}
