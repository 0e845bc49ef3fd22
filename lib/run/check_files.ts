// Checks before a run that its files can be written.
import { option, refuse } from "../core/errors.ts";
import { ggufArch, refuseUnlike } from "../formats/gguf/architecture.ts";
import { ggufTokenizerMetadata } from "../formats/gguf/tokenizer_export.ts";
import { familyFor } from "../families/all.ts";
import { ropeConfig } from "../formats/hf/rope_export.ts";
import { refusePacked } from "../formats/peft/packed.ts";
import type { Model } from "../model/model.ts";
import type { DecoderSpec } from "../spec/decoder.ts";
import { checkSessionExport, FORMATS, type SessionExportOptions } from "../slice/export_options.ts";
import { expectedPrograms } from "../slice/programs.ts";
import { ggufFix, type Shape, writesGguf } from "./options/fitting.ts";
import type { PruneOptions } from "./options/options.ts";
import { checkExportSize } from "./size_goal.ts";

/** Refuses layers that will differ in a model with convolutions: no class and no architecture of such a model has them. */
function refuseUnlikeConvolutions(spec: DecoderSpec, shape: Shape): void {
  if (!spec.convolution || !expectedPrograms(spec, shape).differ) return;
  refuse("input", "cannot write the files of this run", {
    rule: "layers of a model with short convolutions are alike, as its classes have them",
    value: `the layout ${shape.layout}`,
    fix: `take ${option("layout", "uniform")} or ${option("layout", "padded")}`,
    option: "layout",
  });
}

/**
 * Refuses files that the model cannot be written as, before the first step: not every positional encoding has a config, which a folder that has to be
 * written needs, and a GGUF neither takes every tokenizer nor layers that differ of every architecture.
 */
export function checkFiles(
  files: SessionExportOptions,
  { size, shape, model: { source: { spec }, tokenizer } }: {
    readonly size: PruneOptions["size"] | undefined;
    readonly shape: Shape;
    readonly model: Pick<Model, "source" | "tokenizer">;
  },
): void {
  checkSessionExport(files);
  checkExportSize(size, files);
  const { formats = FORMATS, saveAdapter } = files, isAlone = formats.length === 1;
  const isSized = size && "file" in size && size.file.format === "hf";
  if (saveAdapter || isSized || (isAlone && formats.includes("hf"))) ropeConfig(spec, familyFor(spec).rope);
  // Layers that differ have classes of their own, with a module for each projection.
  if (saveAdapter && shape.layout !== "compact") refusePacked(spec);
  refuseUnlikeConvolutions(spec, shape);
  if (!files.formats?.includes("gguf")) return;
  if (!writesGguf(spec, shape)) {
    if (expectedPrograms(spec, shape).differ) refuseUnlike(spec, ggufFix(spec, shape));
    ggufArch(spec);
  }
  if (tokenizer) ggufTokenizerMetadata(tokenizer, { vocab: spec.vocab });
}
