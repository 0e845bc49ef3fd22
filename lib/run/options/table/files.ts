// Options of pruning: what a run writes.
import { option } from "../../../core/errors.ts";
import { DTYPES, FORMATS, GGUF_DTYPES } from "../../../slice/export_options.ts";
import { CHECKS } from "../../../slice/verify.ts";
import { LAYOUTS } from "../../../units/layout.ts";
import { GIVEN, type OptionTable, PLANNED } from "./entry.ts";

/** Their rows. */
export const FILES_OPTIONS = {
  out: {
    type: "text",
    of: "pruneToFolder",
    everyday: true,
    placeholder: "dir",
    help: "folder for model/, model.gguf, run.json, records.jsonl and the checkpoint",
  },
  layout: {
    type: "word",
    words: LAYOUTS,
    default: "compact",
    scope: PLANNED,
    defaultText: "compact; uniform for a GGUF whose family needs layers of one shape",
    help:
      "shapes of the pruned layers: compact (each its own), padded (filled with zeros to the widest) or uniform (all are cut alike)",
  },
  "export.formats": {
    type: "words",
    words: FORMATS,
    default: FORMATS,
    of: "pruneToFolder",
    name: "formats",
    help: "files to write: hf (the folder model/), gguf (model.gguf), or hf,gguf",
  },
  "export.dtype": {
    type: "word",
    placeholder: "type",
    words: DTYPES,
    default: "f16",
    of: "pruneToFolder",
    name: "dtype",
    help: "type of the folder's weights",
  },
  "export.ggufDtype": {
    type: "word",
    placeholder: "type",
    words: GGUF_DTYPES,
    of: "pruneToFolder",
    name: "ggufDtype",
    default: "auto",
    help:
      "type of the GGUF's matrices, mixed as llama.cpp does; auto: the type of the input if that is a quantised GGUF, else f16",
  },
  "export.ggufSize": {
    type: "bytes",
    of: "pruneToFolder",
    name: "ggufSize",
    excludes: ["export.ggufDtype", "size.bytes"],
    scope: [],
    help:
      "largest size of the GGUF in bytes, such as 700M (powers of 1024): each matrix has the type with which the errors of all are least",
  },
  "export.ggufImatrix": {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    name: "ggufImatrix",
    help:
      "quantise the GGUF with an importance matrix, as llama.cpp does; it is measured on the calibration texts and the data",
  },
  "export.saveAdapter": {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    name: "saveAdapter",
    work: "lora",
    help: "also save LoRA in PEFT's format (adapter/) and the sliced model without it (unmerged/)",
  },
  check: {
    type: "word",
    words: CHECKS,
    default: "quick",
    mayChange: true,
    work: "training",
    scope: PLANNED,
    help:
      "held-out tokens on which the sliced model is compared with the masked one: quick, at most 64; full, up to 8 sequences",
  },
  checkpointEvery: {
    type: "count",
    // Three rounds of a long run (look_steps.ts): the state is kept at that step anyway, and is stored once.
    default: 57,
    of: "pruneToFolder",
    placeholder: "steps",
    work: "training",
    help: "steps between checkpoints; 0: only one, when the run stops early",
  },
  resume: {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    everyday: true,
    excludes: ["export.replace"],
    elsewhere: "the same command",
    help: `continue from the checkpoint in ${option("out")}, with the same options`,
    auto: "continue if there is a checkpoint, else start",
  },
  mayDiffer: {
    type: "names",
    words: ["schedule", "rates"],
    of: "pruneToFolder",
    when: { resume: GIVEN },
    scope: [],
    work: "training",
    help: `what may differ from the run that ${option("resume")} continues: schedule, rates or both`,
  },
  "export.replace": {
    type: "switch",
    default: false,
    of: "pruneToFolder",
    name: "overwrite",
    excludes: ["resume"],
    elsewhere: "redo",
    help: `replace an earlier run in ${option("out")}; its eval….json files are renamed earlier-…`,
  },
  config: {
    type: "text",
    of: "command",
    placeholder: "file",
    scope: [],
    defaultText: "none",
    help:
      "file of JSON or YAML (.yaml) with options by name, or the run.json of a run, whose options are taken; options of the command line take precedence",
  },
  json: { type: "switch", default: false, of: "command", help: "print run.json at the end" },
} as const satisfies OptionTable;
