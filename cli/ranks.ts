// A verb on several ranks: rank 0 prints and writes, and the failure of one ends all.
import { CompressoError } from "../lib/core/errors.ts";
import { launchedRank, type MpiRanks, openMpi } from "../lib/ranks/mpi.ts";
import { reportError } from "./terminal/error.ts";
import { silence, writeError } from "./terminal/output.ts";

/** Milliseconds in which rank 0 shows an error that all ranks have. */
const FIRST_SHOWS = 2000;

/** Leaves it to the first rank to show an error that all have, since all were given the same words: ends the others. */
export async function leaveToFirst(status: number): Promise<void> {
  if ((launchedRank()?.rank ?? 0) === 0) return;
  await firstHasShown();
  Deno.exit(status);
}

/** A launcher ends all ranks once one has ended with an error. */
async function firstHasShown(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, FIRST_SHOWS));
}

/** The ranks of the job; null for a process alone. What keeps all from joining is shown by the first. */
async function joined(): Promise<MpiRanks | null> {
  try {
    return openMpi();
  } catch (error) {
    if (error instanceof CompressoError) await leaveToFirst(error.exitStatus);
    throw error;
  }
}

/** Does the work of a verb with the ranks of this MPI job, or with null if the process was started alone. */
export async function withRanks(
  work: (ranks: MpiRanks | null) => Promise<void>,
  { asJson }: { readonly asJson: boolean },
): Promise<void> {
  const ranks = await joined();
  if (!ranks) return await work(null);
  const isFirst = ranks.rank === 0;
  if (!isFirst) silence();
  try {
    await work(ranks);
    await ranks.finish();
  } catch (error) {
    if (ranks.signal.aborted) { // all ranks have stopped after the same step
      await ranks.finish();
      if (isFirst) throw error;
      Deno.exit(error instanceof CompressoError ? error.exitStatus : 1);
    }
    if (!isFirst) {
      await firstHasShown();
      writeError(`compresso: rank ${ranks.rank} of ${ranks.size} failed:\n`);
    }
    ranks.abort(reportError(error, { asJson }));
  }
}
