// Runs `prune`: decides how the run begins, starts it, and prints the summary.
import { isHubName } from "../../../lib/hub/name.ts";
import { modelPath, openModelFiles } from "../../../lib/local/open_model.ts";
import { checkResumable } from "../../../lib/run/folder.ts";
import { atPaths, checkTogether } from "../../../lib/run/options/check.ts";
import type { PruneOptions, ResolvedOptions } from "../../../lib/run/options/options.ts";
import { resolveOptions, trainsNothing } from "../../../lib/run/options/resolve.ts";
import { FLAG_PATHS, pruneOptionsOf, valueOfFlag } from "../../options/table_flags.ts";
import { runIntoFolder } from "../../../lib/run/prune_to_folder.ts";
import { checkTrust } from "../../../lib/schedule/open.ts";
import { fetchInputs } from "../../hub.ts";
import { calibrationChoice, NONE } from "./calibration.ts";
import { openDashboard } from "./dashboard/dashboard.ts";
import { note, printJson, writeError } from "../../terminal/output.ts";
import { promptText } from "../../options/prompt.ts";
import type { MpiRanks } from "../../../lib/ranks/mpi.ts";
import { withRanks } from "../../ranks.ts";
import { dataPathOf, evaluationOf, inputsOf } from "./inputs.ts";
import type { RunFlags, TypedFlags } from "./flags.ts";
import { checkRunFolder, finishedRun, holdsRun } from "./run_folder.ts";
import { nameOf, resolvedFor, startRun } from "./start.ts";
import { showSummary, writtenModel } from "./summary.ts";
import { targetOf, withFileType, withScheduleTarget } from "./targets.ts";

/** Runs the verb; in an MPI job, on the ranks of the job. */
export async function runPrune(path: string, typed: TypedFlags): Promise<void> {
  await withRanks((ranks) => pruneOn(ranks, path, typed), { asJson: typed.json ?? false });
}

async function pruneOn(ranks: MpiRanks | null, path: string, typed: TypedFlags): Promise<void> {
  const shared = ranks ? { accumulate: ranks.size, ...typed } : typed;
  const whole = await withFileType(path, await withScheduleTarget(path, shared));
  checkTrust(whole.schedule, whole.trust);
  checkTogether(atPaths(FLAG_PATHS.map((one) => [one, valueOfFlag(whole, one)] as const)));
  const { out, json, calibration } = whole, resume = whole.resume === "auto" ? await holdsRun(out) : !!whole.resume;
  const options: PruneOptions = {
    ...pruneOptionsOf(whole),
    ...(ranks ? { ranks } : {}),
    ...targetOf(whole, { name: nameOf(path, whole) }),
    rows: [],
    steps: whole.steps,
    prompt: whole.prompt === undefined ? undefined : await promptText(whole.prompt),
    ...await evaluationOf(whole),
  };
  const calibrated = calibration === undefined || calibration === NONE ? options : { ...options, calibration: [] };
  // Only a check, so that nothing is fetched for a mistake; `startRun` resolves the options with the model's shape.
  const checked = resolveOptions(calibrated), isAlone = trainsNothing(checked);
  if (isHubName(path)) dataPathOf(path, whole);
  await fetchInputs({ model: [path], data: [whole.data, calibration, whole.vocabData, whole.valData] }, {
    resumes: resume,
  });
  await checkRunFolder(out, { resume, overwrite: whole.overwrite ?? false, model: await modelPath(path) });
  const flags: RunFlags = {
    ...whole,
    resume,
    // Of a run that is not resumed nothing can differ.
    mayDiffer: resume ? whole.mayDiffer : undefined,
    calibration: isAlone ? NONE : await calibrationChoice({ ...whole, resume }, checked),
  };
  const now = (): Promise<ResolvedOptions> => resolvedFor(path, { options, flags });
  const earlier = resume ? await finishedRun(out, { now, inputs: () => inputsOf(path, flags) }) : null;
  if (earlier) note(`compresso: the run in ${out} is finished already`);
  else if (resume) await checkResumable(out);
  const isFirst = ranks === null || ranks.rank === 0;
  const port = !isFirst ? null : whole.dashboardPort ?? (whole.dashboard ? 0 : null);
  await using dashboard = earlier || port === null ? null : await openDashboard(port, { onTrouble: note });
  // The address is printed on a separate line, so that the user finds it.
  if (dashboard) writeError(`dashboard   ${dashboard.url}\n`);
  const summary = earlier ??
    await startRun(path, { flags, options, dashboard, ranks, go: runIntoFolder, cut: runIntoFolder });
  if (!summary) return;
  dashboard?.tell({ kind: "finished" });
  if (json) printJson(summary);
  else {
    const tokenizer = await openModelFiles(writtenModel(summary, out)).then((made) => made.tokenizer, () => null);
    showSummary(summary, { out, model: path, chats: typeof tokenizer?.chatTemplate === "string" });
  }
}
