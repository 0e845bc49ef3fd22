// The architecture of llama.cpp that a model is written as, and why another one cannot hold it.
import { type CompressoError, refusal } from "../../core/errors.ts";
import { GGUF_ARCHS, ggufArchOf } from "../../families/all.ts";
import { fits, misfits, nearness } from "../../families/fit.ts";
import type { GgufArch } from "../../families/gguf_arch.ts";
import { type DecoderSpec, windowsOf } from "../../spec/decoder.ts";

/**
 * The architecture that a model of this shape is written as: the one of the name `wanted`, or by default the first that holds
 * the model.
 *
 * @throws CompressoError("usage") if `wanted` cannot.
 * @throws CompressoError("input") if none can.
 */
export function ggufArch(spec: DecoderSpec, wanted = "auto"): GgufArch {
  const chosen = GGUF_ARCHS.find((arch) => arch.isChosen?.(spec) !== false && fits(spec, arch));
  if (wanted === "auto") {
    if (chosen) return chosen;
    throw unwritable(spec, GGUF_ARCHS);
  }
  const arch = ggufArchOf(wanted), what = `cannot export as arch ${wanted}`;
  if (!arch) throw refusal("usage", what, { rule: GGUF_ARCHS.map(({ arch }) => arch).join(", "), value: wanted });
  const [misfit] = misfits(spec, arch);
  if (!misfit) return arch;
  const fix = misfit.fix ?? (chosen ? `take arch ${chosen.arch}, or leave it out` : undefined);
  throw refusal("usage", what, { rule: `arch ${wanted} ${misfit.rule}`, value: misfit.value, fix });
}

/**
 * Refuses a model whose GGUF cannot have layers that differ, before it is known how they will. `fix` says what to do.
 *
 * @throws CompressoError("input") if no architecture with layers that differ holds the model.
 */
export function refuseUnlike(spec: DecoderSpec, fix: string): void {
  const uneven = GGUF_ARCHS.filter((arch) => arch.uneven);
  if (uneven.some((arch) => fits(spec, arch))) return;
  throw unwritable(spec, uneven, fix);
}

/** The error for a model that no architecture can hold: it names what the nearest architecture lacks. */
function unwritable(
  spec: DecoderSpec,
  archs: readonly GgufArch[],
  usual = "export as a Hugging Face folder",
): CompressoError {
  const [nearest] = archs.toSorted((a, b) => nearness(spec, b) - nearness(spec, a));
  const [{ rule, value, fix = usual } = { rule: "", value: "" }] = nearest ? misfits(spec, nearest) : [];
  return refusal("input", "cannot write a GGUF", { rule: `arch ${nearest?.arch} ${rule}`, value, fix });
}

/** The distinct window sizes of the layers. Throws `CompressoError("input")` for more than one: GGUF has one key. */
export function slidingWindows(spec: DecoderSpec): number[] {
  const windows = windowsOf(spec).filter((window) => window !== undefined);
  if (windows.length < 2) return windows;
  throw refusal("input", "cannot export a GGUF", {
    rule: "all layers with a sliding window have the same one",
    value: `windows of ${windows.join(", ")} tokens`,
    fix: "export a folder of Hugging Face alone",
  });
}
