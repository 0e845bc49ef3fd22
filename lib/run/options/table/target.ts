// Options of pruning: how small the model becomes.
import { option } from "../../../core/errors.ts";
import { SPARSITY_BOUNDS } from "../../../schedule/definition.ts";
import { FORMATS } from "../../../slice/export_options.ts";
import { GIVEN, type OptionTable, TARGETS } from "./entry.ts";

/** Their rows. */
export const TARGET_OPTIONS = {
  sparsity: {
    type: "number",
    least: 0,
    ...SPARSITY_BOUNDS,
    everyday: true,
    excludes: TARGETS,
    work: "choosing",
    scope: ["experiment", "plan"],
    help:
      "share of the layers' linear weights to cut, such as 0.3; with the unit experts, share of the experts; 0: nothing is cut, LoRA alone is trained, as by the verb tune",
  },
  "size.parameters": {
    type: "parameters",
    name: "targetParams",
    everyday: true,
    excludes: TARGETS,
    scope: ["plan"],
    help: "most parameters of the smaller model, embedding and head included, such as 5.4B, 120M or 113280192",
  },
  "size.bytes": {
    type: "bytes",
    name: "targetBytes",
    excludes: TARGETS,
    scope: [],
    help: "most bytes of the smaller model's file, such as 200M or 1.5G (powers of 1024)",
  },
  "size.file.format": {
    type: "word",
    words: FORMATS,
    name: "targetFile",
    defaultText: "hf",
    when: { "size.bytes": GIVEN },
    scope: [],
    help: "the file whose bytes count: hf (the folder's safetensors) or gguf (model.gguf)",
  },
  "size.file.dtype": { name: null, type: "value", help: "type of the weights in that file" },
  "size.name": { name: null, type: "text", help: "name of the model within that GGUF" },
  preset: {
    type: "word",
    words: ["paper"],
    work: "choosing",
    scope: ["experiment", "sweep", "plan"],
    help: `paper: the publication's values as defaults, except for ${option("batch")} and ${
      option("seq")
    } (published: 1 and 1024)`,
  },
} as const satisfies OptionTable;
