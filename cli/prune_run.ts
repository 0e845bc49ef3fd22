// A prune run as the command line drives it: progress, Ctrl-C, the report. Owns those; refuses the parsing of options.
import { basename, resolve } from "node:path";
import { CompressoError } from "../lib/errors.ts";
import { type DataReport, readRows, type Row } from "../lib/io/datasets.ts";
import { DEMO, demoData, modelPath } from "../lib/io/open_model.ts";
import type { Projection } from "../lib/nn/spec.ts";
import type { Layout } from "../lib/prune/layouts.ts";
import type { UnitKind } from "../lib/prune/units.ts";
import type { EncodeReport } from "../lib/run/batches.ts";
import { checkMemory } from "../lib/run/memory_advice.ts";
import type { Method } from "../lib/run/methods.ts";
import { compress } from "../lib/run/pipeline.ts";
import type { RunSummary } from "../lib/run/session.ts";
import { PROGRAM } from "./command.ts";
import { exportLines } from "./export.ts";
import { modelDigest } from "./fingerprint.ts";
import type { DTYPES, GGUF_DTYPES } from "./formats.ts";
import { formatBytes, formatCount, formatShare, note, print, printJson } from "./output.ts";
import { memoryOptions } from "./plan.ts";
import { type PromptSetting, promptText } from "./prompt.ts";
import { duration } from "./progress.ts";
import { checkRunFolder, clearRunFolder, finishedRun, isResumable } from "./run_folder.ts";
import { type Loaded, type ModelSettings, withModel } from "./with_model.ts";

/** Options of the verb, as parsed. */
export interface PruneSettings extends ModelSettings {
  readonly out: string;
  readonly data?: string | undefined;
  readonly sparsity: number;
  readonly steps: number;
  readonly prefinetune?: number | undefined;
  readonly postfinetune?: number | undefined;
  readonly batch: number;
  readonly seq: number;
  readonly seed: number;
  readonly units: readonly UnitKind[];
  readonly protect?: readonly number[] | undefined;
  readonly align: number;
  readonly minHeads: number;
  readonly minFfn: number;
  readonly minHidden: number;
  readonly method: Method;
  readonly schedule?: string | undefined;
  readonly trust?: true | undefined;
  readonly prompt?: PromptSetting | undefined;
  readonly textField?: string | undefined;
  readonly limitRows?: number | undefined;
  readonly skipBroken?: true | undefined;
  readonly packing: boolean;
  readonly rank: number;
  readonly alpha: number;
  readonly rslora?: true | undefined;
  readonly targets: readonly Projection[];
  readonly dropout: number;
  readonly loraRate: number;
  readonly layout: Layout;
  readonly recompute: boolean;
  readonly dtype: typeof DTYPES[number];
  readonly ggufDtype: typeof GGUF_DTYPES[number];
  readonly checkpointEvery: number;
  readonly resume?: true | undefined;
  readonly overwrite?: true | undefined;
  readonly json?: true | undefined;
}

/** Runs the verb. */
export async function runPrune(path: string, settings: PruneSettings): Promise<void> {
  const { out, resume = false, overwrite = false, json } = settings;
  await checkRunFolder(out, { resume, overwrite });
  const { sparsity, steps, batch, seq, seed } = settings;
  const earlier = resume ? await finishedRun(out, { sparsity, steps, batch, seq, seed }) : null;
  if (earlier) note(`compresso: the run in ${out} is finished already`);
  const summary = earlier ?? await start(path, settings);
  if (json) printJson(summary);
  else show(summary, out);
}

async function start(path: string, settings: PruneSettings): Promise<RunSummary> {
  const { out, memoryLimit } = settings;
  const dataPath = settings.data ?? (path === DEMO ? demoData("train") : null);
  if (dataPath === null) {
    throw new CompressoError("usage", {
      what: "cannot prune without data",
      rule: "--data names instruction rows or texts; only demo has its own",
      mend: "add --data FILE",
    });
  }
  const { textField, limitRows, skipBroken } = settings;
  const { rows, report: reading } = await readRows(dataPath, {
    ...(textField === undefined ? {} : { textField }),
    ...(limitRows === undefined ? {} : { limit: limitRows }),
    ...(skipBroken ? { skipBroken } : {}),
  });
  const prompt = await promptText(settings.prompt ?? true);
  try {
    return await withModel(path, {
      ...settings,
      onInterrupt: "stopping after a checkpoint; once more ends at once",
      listensLater: true,
      onShape: (spec, { limits, facts: { isCpu } }) =>
        checkMemory(
          spec,
          memoryOptions(settings, { limits, isCpu }),
          memoryLimit === undefined ? {} : { memoryLimit },
        ),
    }, async (loaded) => {
      const identity = { weights: await modelDigest(modelPath(path)) };
      return await drive(loaded, {
        settings,
        rows,
        reading,
        prompt,
        identity,
        name: basename(resolve(modelPath(path))),
      });
    });
  } catch (error) {
    if (error instanceof CompressoError && error.code === "aborted" && await isResumable(out)) {
      throw new CompressoError("aborted", { ...error.parts, mend: `to go on, run: ${resumeCommand()}` });
    }
    throw error;
  }
}

async function drive({ model, signal, progress, listen, tune }: Loaded, run: {
  readonly settings: PruneSettings;
  readonly rows: readonly Row[];
  readonly reading: DataReport;
  readonly prompt: string | null;
  readonly identity: Readonly<Record<string, string>>;
  readonly name: string;
}): Promise<RunSummary> {
  const { settings, rows, reading, prompt, identity, name } = run, { out, resume = false } = settings;
  const { prefinetune, postfinetune } = settings;
  const { rank, alpha, targets, dropout, dtype, ggufDtype } = settings;
  if (settings.overwrite) await clearRunFolder(out);
  const tokens = settings.batch * settings.seq;
  await tune({ rows: tokens, rank, tokens: tokens * (settings.steps + (prefinetune ?? 0) + (postfinetune ?? 0)) });
  progress.phase(`encoding ${formatCount(rows.length)} rows`);
  return await compress(model, {
    rows,
    sparsity: settings.sparsity,
    steps: settings.steps,
    ...(prefinetune === undefined ? {} : { prefinetune }),
    ...(postfinetune === undefined ? {} : { postfinetune }),
    batch: settings.batch,
    seq: settings.seq,
    seed: settings.seed,
    units: settings.units,
    recompute: settings.recompute,
    rules: {
      align: settings.align,
      minimum: { heads: settings.minHeads, ffn: settings.minFfn, hidden: settings.minHidden },
      // −1 is the last layer.
      protect: (settings.protect ?? []).map((layer) => layer < 0 ? model.spec.layers.length + layer : layer),
    },
    lora: { rank, alpha, targets, dropout, ...(settings.rslora ? { rsLora: true } : {}) },
    prompt,
    reading,
    ...(settings.packing ? {} : { packing: false }),
    method: settings.method,
    ...(settings.schedule === undefined ? {} : { schedule: settings.schedule }),
    trustSchedule: settings.trust ?? false,
    layout: settings.layout,
    rates: { lora: settings.loraRate },
    signal,
    out,
    resume,
    checkpointEvery: settings.checkpointEvery,
    identity,
    export: { dtype, ggufDtype, name: `${name} pruned by Compresso`, replace: true },
    onStart: ({ steps, data }, doneBefore) => {
      listen();
      progress.note(`${dataLine(data, settings)}; ${steps} steps on ${model.device.facts.description}`);
      if (doneBefore > 0) progress.note(`going on after step ${doneBefore}`);
    },
    onRecord: (record) => progress.step(record),
    onPhase: (phase) =>
      progress.phase(phase === "slice" ? "comparing the sliced model with the masked one" : "writing the files"),
  });
}

/** What became of the rows, with the first few places of what was cut or left out. */
function dataLine(data: EncodeReport, { seq }: Pick<PruneSettings, "seq">): string {
  const at = (lines: readonly number[]): string => lines.length > 0 ? ` (rows ${lines.join(", ")}…)` : "";
  return [
    `${formatCount(data.examples)} examples${data.packed ? ` of ${seq} tokens, texts joined` : ""}`,
    ...(data.truncated > 0 ? [`${data.truncated} cut to ${seq} tokens${at(data.lines.truncated)}`] : []),
    ...(data.skipped > 0 ? [`${data.skipped} left out${at(data.lines.skipped)}`] : []),
    ...(data.empty > 0 ? [`${data.empty} empty${at(data.lines.empty)}`] : []),
    ...(data.broken > 0 ? [`${data.broken} broken${at(data.lines.broken)}`] : []),
    ...(data.promptTokens > 0 ? [`the prompt takes ${data.promptTokens} tokens of each`] : []),
  ].join(", ");
}

function show(summary: RunSummary, out: string): void {
  const { sparsity, parameters, layers, hidden, maskedVsSliced, seconds, skipped } = summary;
  const total = Object.values(seconds).reduce((sum, value) => sum + value, 0);
  const range = (key: "heads" | "kvHeads" | "ffn"): string => {
    const values = layers.map((layer) => layer[key]), least = Math.min(...values), most = Math.max(...values);
    return least === most ? String(least) : `${least} to ${most}`;
  };
  print(
    `sparsity    ${formatShare(sparsity.hard)} of the layers' linear weights (target ${
      formatShare(sparsity.target)
    }, expected ${formatShare(sparsity.expected)})`,
  );
  print(`parameters  ${formatCount(parameters.before)} → ${formatCount(parameters.after)}`);
  print(
    `layers      ${layers.length}, each with ${range("heads")} heads, ${range("kvHeads")} KV heads, ${
      range("ffn")
    } FFN columns; hidden ${hidden}`,
  );
  print(
    `check       sliced and masked logits differ by at most ${maskedVsSliced.maxAbs.toExponential(1)} (range ${
      maskedVsSliced.range.toFixed(1)
    })`,
  );
  print(
    `time        ${duration(total)}, ${Math.round(summary.tokensPerSecond)} tokens/s, at most ${
      formatBytes(summary.peakGpuBytes)
    } on the GPU (planned: ${formatBytes(summary.plannedGpuBytes)})`,
  );
  print(`records     ${out}/records.jsonl, ${out}/run.json`);
  for (const line of exportLines({ loadableBy: summary.files })) print(line);
  for (const { format, reason } of skipped) print(`no ${format} file: ${reason}`);
}

/** The command that goes on with this run, as the user typed it. */
function resumeCommand(): string {
  const words = Deno.args.filter((word) => word !== "--overwrite" && word !== "--resume");
  const quoted = words.map((word) => /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`);
  return [PROGRAM, ...quoted, "--resume"].join(" ");
}
