// Prints the summary of a finished run.
import { lastPart } from "../../../lib/files/path.ts";
import { grownFiles, modelInput } from "../../../lib/report/sizes.ts";
import { cutsNothing, keepsLayers } from "../../../lib/units/kinds/all.ts";
import { trainsNothing } from "../../../lib/run/options/resolve.ts";
import type { RunSummary } from "../../../lib/run/result.ts";
import { fidelityText } from "../../../lib/run/fidelity_text.ts";
import type { VocabularySummary } from "../../../lib/run/vocabulary.ts";
import { programAsRun, shellWord } from "../../command.ts";
import { formatBytes, formatCount, formatShare, note, print as printLine } from "../../terminal/output.ts";
import { terminalColumns } from "../../terminal/style.ts";
import { hanging } from "../../terminal/wrap.ts";
import { duration } from "../../../lib/report/numbers.ts";
import { exportLines, fallbackLines } from "../export.ts";
import { alarmLine } from "./alarms.ts";
import { qualityLines, qualityWarnings, validationLines } from "./quality.ts";
import { sizeLine } from "./targets.ts";
import { partLines } from "./time_lines.ts";

/** Prints the results of the run of a model into the folder `out`, and what to look at next. */
export function showSummary(
  summary: RunSummary,
  { out, model, chats }: {
    readonly out: string;
    readonly model: string;
    /** Whether the model has a chat template, so that it does not continue texts. */
    readonly chats: boolean;
  },
): void {
  const { sparsity, parameters, writtenParameters, fellBack, size, layers, hidden, maskedVsSliced, seconds, skipped } =
    summary;
  const isAlone = trainsNothing(summary.options),
    isTuned = cutsNothing(summary.options.units),
    { vocabulary, experts } = summary;
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  const range = (key: "heads" | "kvHeads" | "ffn"): string => {
    const values = layers.map((layer) => layer[key]), least = Math.min(...values), most = Math.max(...values);
    return least === most ? String(least) : `${least} to ${most}`;
  };
  if (!keepsLayers(summary.options.units)) {
    print(
      `sparsity    ${formatShare(sparsity.hard)} of the ${
        size?.sparsityOf === "model" ? "whole model" : "layers' linear weights"
      } (target ${formatShare(sparsity.target)}, expected ${formatShare(sparsity.expected)})`,
    );
  }
  const zeros = writtenParameters - parameters.after;
  print(
    `parameters  ${formatCount(parameters.before)} → ${formatCount(parameters.after)}${
      zeros > 0
        ? `, and ${formatCount(zeros)} zeros ${
          summary.options.layout === "padded" ? "of the layout padded" : "of biases"
        } in the files`
        : ""
    }`,
  );
  if (experts) {
    const [count] = new Set(experts.kept.flatMap((own) => own?.length ?? []));
    print(
      `experts     ${formatCount(experts.before)} → ${formatCount(experts.after)} in all layers, ${count} in each; ${
        formatShare(sparsity.hard)
      } are cut by ${summary.options.method} (target ${formatShare(sparsity.target)})`,
    );
  }
  if (vocabulary) { for (const line of vocabularyLines(vocabulary)) print(line); }
  if (size) print(`size        ${sizeLine(size)}`);
  print(
    `layers      ${layers.length}, each with ${range("heads")} heads, ${range("kvHeads")} KV heads, ${
      range("ffn")
    } FFN columns; hidden ${hidden}`,
  );
  print(
    `check       ${
      vocabulary && isAlone
        ? "logits of kept tokens and those of the whole model"
        : experts
        ? "logits with experts cut and with them left out"
        : isTuned
        ? "logits of the merged model and of the model with LoRA"
        : "sliced and masked logits"
    } differ by at most ${maskedVsSliced.maxAbs.toExponential(1)} (range ${maskedVsSliced.range.toFixed(1)})`,
  );
  for (const line of validationLines(summary)) print(line);
  for (const line of qualityLines(summary)) print(line);
  // A command to copy is not wrapped.
  for (const line of byteLines(summary, out)) line.includes("--gguf-dtype") ? printLine(line) : print(line);
  print(
    isAlone
      ? `time        ${duration(summary.wallSeconds)}, at most ${formatBytes(summary.peakGpuBytes)} on the GPU`
      : `time        ${timeText(summary, total)}${
        total > 0 ? `, ${Math.round(summary.tokensPerSecond)} tokens/s` : ""
      }, at most ${formatBytes(summary.peakGpuBytes)} on the GPU (planned: ${formatBytes(summary.plannedGpuBytes)})`,
  );
  for (const line of partLines(summary)) print(line);
  for (const alarm of summary.alarms) print(`alarm       ${alarmLine(alarm)}`);
  print(isAlone ? `records     ${out}/run.json` : `records     ${out}/records.jsonl, ${out}/run.json`);
  for (const line of fallbackLines(fellBack)) note(line);
  for (const line of qualityWarnings(summary)) note(line);
  for (const line of exportLines({ loadableBy: summary.files })) print(line, line.startsWith(" ") ? 4 : 0);
  for (const { format, reason } of skipped) print(`no ${format} file: ${reason}`);
  // Commands to copy are not wrapped.
  const command = (...words: readonly string[]): string => [programAsRun(), ...words.map(shellWord)].join(" ");
  note(`next        ${command("report", out)}`);
  const written = writtenModel(summary, out), other = ["--compare", model];
  note(
    `            ${
      chats ? command("chat", written, ...other) : command("generate", written, ...other, "--prompt", "Your text")
    }`,
  );
}

/** The model that a run has written: its folder or, without one, its GGUF. */
export function writtenModel({ files }: Pick<RunSummary, "files">, out: string): string {
  const names = files.map(({ file }) => lastPart(file));
  return `${out}/${["model", "model.gguf"].find((name) => names.includes(name)) ?? "model"}`;
}

function vocabularyLines({ before, after, coverage, growth, heldout, text }: VocabularySummary): string[] {
  const bits = ([["rows that were not trained on", heldout], ["the text", text]] as const).flatMap(([of, found]) =>
    found
      ? [
        `            bits per byte ${found.before.toFixed(3)} → ${found.after.toFixed(3)}, on ${
          formatCount(found.bytes)
        } bytes of ${of}, from the whole model with its whole vocabulary`,
        ...found.agreement ? [`            ${fidelityText(found.agreement)}`] : [],
      ]
      : []
  );
  return [
    `vocabulary  ${formatCount(before)} → ${formatCount(after)} tokens, ${
      formatShare(coverage)
    } of those in the texts; such texts are expected to take ${formatShare(growth)} more of them`,
    ...bits,
  ];
}

/** Prints a fact; on a terminal its further lines are indented to its value. */
function print(line: string, indent = FACT_INDENT): void {
  printLine(Deno.stdout.isTerminal() ? hanging(line, { columns: terminalColumns(), indent }) : line);
}

/** Width of a fact's name in columns. */
const FACT_INDENT = 12;

/** Bytes of the files before and after, and which types would make larger files smaller. */
function byteLines(summary: RunSummary, out: string): string[] {
  const input = modelInput(summary);
  const files = summary.fileBytes.map(({ file, bytes }) => {
    const type = lastPart(file) === "model.gguf" && summary.ggufDtype ? ` as ${summary.ggufDtype}` : "";
    return `${lastPart(file)} ${formatBytes(bytes)}${type}`;
  });
  const grown = grownFiles(summary).flatMap(({ file, smaller }) => {
    const types = smaller.map(({ dtype, bytes }) => `${formatBytes(bytes)} as ${dtype}`);
    if (types.length === 0 || file !== "model.gguf") return [];
    const [{ dtype } = { dtype: "q8_0" }] = smaller;
    const words = ["export", `${out}/model`, "--formats", "gguf", "--gguf-dtype", dtype, "--out", `${out}-${dtype}`];
    return [
      `            the new ${file} is larger than the input. It would take ${types.join(", ")}; to convert it:`,
      `            ${[programAsRun(), ...words.map(shellWord)].join(" ")}`,
    ];
  });
  return [`bytes       ${input.name} ${formatBytes(input.bytes)} → ${files.join(", ")}`, ...grown];
}

/** Time of the whole command, and of its steps alone. */
function timeText({ wallSeconds, resumedAfter }: RunSummary, steps: number): string {
  const whole = resumedAfter > 0 ? `${duration(wallSeconds)} since step ${resumedAfter}` : duration(wallSeconds);
  return `${whole} (${resumedAfter > 0 ? "all steps" : "steps"} ${duration(steps)})`;
}
