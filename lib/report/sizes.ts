// Files of a run that became larger than the model that it was given, and the types that would make them smaller.
import { lastPart } from "../files/path.ts";
import type { RunSummary } from "../run/result.ts";

/** A file that is larger than the model before. */
export interface GrownFile {
  /** Its name. */
  readonly file: string;
  readonly bytes: number;
  /** Types of its matrices that would make it smaller, with its bytes then, from the largest. */
  readonly smaller: readonly { readonly dtype: string; readonly bytes: number }[];
}

/** The model before: its name and the bytes of its file or, where the run does not name it, of its tensors. */
export function modelInput(
  { origin, before }: Pick<RunSummary, "origin" | "before">,
): { readonly name: string; readonly bytes: number } {
  return origin.find(({ role }) => role === "model") ?? { name: "the input", bytes: before.bytes };
}

/** Those files that are larger than the model before. */
export function grownFiles(summary: Pick<RunSummary, "origin" | "before" | "fileBytes">): GrownFile[] {
  const input = modelInput(summary);
  return summary.fileBytes.flatMap(({ file, bytes, smaller = [] }) =>
    bytes > input.bytes ? [{ file: lastPart(file), bytes, smaller }] : []
  );
}
