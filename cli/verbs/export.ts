// `compresso export MODEL`: writes a model, perhaps with an adapter merged, as a Hugging Face folder and a GGUF.
import type { CommandUnknownOpts } from "../packages.ts";
import { refuse } from "../../lib/core/errors.ts";
import { makeFolder, recoverFolder, removeLeftovers } from "../../lib/files/atomic.ts";
import { exists } from "../../lib/files/exists.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { keptGeneration } from "../../lib/formats/hf/model.ts";
import { FolderLock } from "../../lib/files/lock.ts";
import { modelPath, openModelFiles } from "../../lib/local/open_model.ts";
import { OPTION_TABLE } from "../../lib/run/options/table.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { exportModel } from "../../lib/local/export_model.ts";
import { type ExportResult } from "../../lib/slice/export.ts";
import type { ExportFormat } from "../../lib/slice/export_options.ts";
import { MODEL_TEXT, verb } from "../command.ts";
import { checkImatrix, importanceOn } from "../imatrix.ts";
import { fetchInputs, modelName } from "../hub.ts";
import { checkUsed, FORMATS, ggufDtypeFor } from "../../lib/slice/export_options.ts";
import { stderrProgress } from "../terminal/progress.ts";
import { watchInterrupt } from "../terminal/interrupt.ts";
import { formatCount, note, print, printJson } from "../terminal/output.ts";
import { refuseFile } from "./prune/run_folder.ts";
import { ADAPTER_FLAG, addFlags, type FlagTable, type FlagValues, JSON_FLAG, required } from "../options/flags.ts";
import { readAdapters } from "../with_model.ts";

const { layout, "export.dtype": dtype, "export.ggufDtype": ggufDtype, "export.ggufSize": ggufSize } = OPTION_TABLE;

const FLAGS = {
  out: { type: "text", placeholder: "dir", help: "folder to write to (required)" },
  layout: {
    ...layout,
    placeholder: "layout",
    initially: layout.default,
    help:
      "shapes of the layers: compact (as they are), padded (filled with zeros to the widest) or uniform (layers must have one shape)",
  },
  dtype,
  ggufDtype,
  ggufSize,
  ggufImatrix: {
    type: "value",
    placeholder: "file",
    help:
      "texts or rows, as for prune --data, on which an importance matrix for the quantised GGUF is measured, as llama.cpp does; up to 128 sequences of 512 tokens; needs a GPU",
  },
  adapter: {
    ...ADAPTER_FLAG,
    help: "LoRA to merge into the weights: a folder in PEFT's format, its .safetensors file, or hf:owner/name",
  },
  formats: { type: "words", words: FORMATS, initially: FORMATS, help: "files to write: hf, gguf, or hf,gguf" },
  overwrite: {
    type: "switch",
    help: "replace existing files; the file of a format that cannot hold the model is removed",
  },
  json: JSON_FLAG,
} as const satisfies FlagTable;

type Flags = FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function exportVerb(): CommandUnknownOpts {
  const command = verb("export", {
    description:
      "Write a model as a Hugging Face folder (DIR/model) and a GGUF (DIR/model.gguf). Needs a GPU only for --gguf-imatrix.",
    examples: [
      "export runs/demo/model --out runs/padded --layout padded",
      "export path/to/model --out out --gguf-dtype q8_0 --formats gguf",
      "export path/to/model --out out --gguf-dtype q4_k_m --gguf-imatrix texts.jsonl --formats gguf",
      "export path/to/model --out out --gguf-size 700M --formats gguf",
      "export path/to/model --adapter path/to/adapter --out merged",
    ],
  }).argument("<model>", MODEL_TEXT);
  return addFlags(command, FLAGS).action(async (path: string, options: Flags) => {
    const { out, layout, dtype, ggufDtype, ggufSize, ggufImatrix, adapter, formats, overwrite, json } = options;
    using progress = stderrProgress();
    using interrupt = watchInterrupt();
    interrupt.start();
    const folder = required(out, "--out");
    checkTypes(formats, { dtype, ggufDtype });
    checkUsed({ formats, ggufDtype, ggufSize });
    checkImatrix(formats, ggufImatrix);
    await refuseFile(folder);
    await fetchInputs({ model: [path], data: [ggufImatrix], adapter: [adapter] }, { signal: interrupt.signal });
    // A run may be writing its own model there.
    using lock = new FolderLock(folder);
    await lock.take();
    // It may be the model that is read.
    if (lock.isHeld) await recoverFolder(`${folder}/model`);
    const { source, tokenizer } = await openModelFiles(path);
    const { lora } = await readAdapters(adapter, source.spec);
    const onProgress = (share: number): void => progress.phase("measuring the importance of columns", share);
    const ggufImportance = ggufImatrix === undefined
      ? undefined
      : await importanceOn(ggufImatrix, { spec: source.spec, tokenizer }, { onProgress });
    const isNew = !(await exists(folder));
    await makeFolder(folder);
    await lock.take();
    if (lock.isHeld) await removeLeftovers(folder, ["model", "model.gguf"], { read: await modelPath(path) });
    const result = await exportModel(lora ? sliceModel(source, { lora }) : source, folder, {
      layout,
      dtype: dtype ?? "f16",
      // As the model is, not its weights with an adapter.
      ...(formats.includes("gguf") && ggufSize === undefined
        ? { ggufDtype: ggufDtypeFor(source, { ggufDtype: ggufDtype ?? "auto" }) }
        : { ggufSize }),
      ggufImportance,
      formats,
      tokenizer,
      ...(formats.includes("hf") ? { generation: keptGeneration(source) } : {}),
      name: modelName(path).replace(/\.gguf$/, ""),
      replace: overwrite ?? false,
      signal: interrupt.signal,
      onProgress: (share) => progress.phase("writing the files", share),
    }).catch(async (error) => {
      lock[Symbol.dispose]();
      // Only where it is empty.
      if (isNew) await Deno.remove(folder).catch(() => {});
      throw error;
    });
    progress[Symbol.dispose]();
    if (json) printJson(result);
    else {
      if (layout === "padded") {
        const zeros = result.parameters - parameterCount(source.spec);
        print(
          `parameters  ${formatCount(result.parameters)}, ${formatCount(zeros)} of them zeros of the layout padded`,
        );
        if (zeros > 0) note("compresso: prune --layout uniform makes layers alike without zeros");
      }
      if (result.ggufDtype) print(`GGUF        ${ggufLine(result)}`);
      for (const line of exportLines(result)) print(line);
    }
    if (!tokenizer) {
      note(
        "compresso: the model has no tokenizer (tokenizer.json, or that of the GGUF), so the files take token ids only",
      );
    }
    for (const line of skippedLines(result)) note(line);
    for (const removed of result.removed) note(`compresso: removed ${removed}, which belonged to an earlier export`);
    for (const line of fallbackLines(result.fellBack.length)) note(line);
  });
}

/** The type of the matrices, or how many have each type. */
function ggufLine({ ggufDtype, ggufTypes }: Pick<ExportResult, "ggufDtype" | "ggufTypes">): string {
  if (!ggufTypes) return ggufDtype ?? "";
  return `matrices: ${Object.entries(ggufTypes).map(([type, count]) => `${count} ${type}`).join(", ")}`;
}

/** Refuses the type of a file that is not written. */
function checkTypes(
  formats: readonly ExportFormat[],
  { dtype, ggufDtype }: { readonly dtype: string | undefined; readonly ggufDtype: string | undefined },
): void {
  for (const [format, type, option] of [["hf", dtype, "--dtype"], ["gguf", ggufDtype, "--gguf-dtype"]] as const) {
    if (type === undefined || formats.includes(format)) continue;
    refuse("usage", `cannot use ${option} ${type}`, {
      rule: "--dtype is the type of the folder (hf), --gguf-dtype that of the GGUF",
      value: `--formats ${formats.join(",")}`,
      fix: format === "hf" ? "give --gguf-dtype" : "give --dtype, or add gguf to --formats",
    });
  }
}

/** Says that matrices of a GGUF do not have the type that was asked for. */
export function fallbackLines(matrices: number): string[] {
  if (matrices === 0) return [];
  return [
    `compresso: ${matrices} ${matrices === 1 ? "matrix" : "matrices"} of the GGUF ${
      matrices === 1 ? "is" : "are"
    } f16, because blocks need rows of a multiple of 32 values`,
  ];
}

/** Where each file can be loaded. */
export function exportLines({ loadableBy }: Pick<ExportResult, "loadableBy">): string[] {
  return loadableBy.flatMap(({ file, programs }) => [`${file} loads in`, ...programs.map((program) => `  ${program}`)]);
}

/** What could not be written, and why. */
function skippedLines({ skipped }: Pick<ExportResult, "skipped">): string[] {
  return skipped.map(({ format, error }) =>
    `compresso: no ${format === "hf" ? "Hugging Face folder" : "GGUF"}: ${error.message}`
  );
}
