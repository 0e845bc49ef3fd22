// Files of a run that became larger than the model that it was given, and the types that would make them smaller.
import type { RunSummary } from "../run/session.ts";

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
  { origin = [], before }: Partial<Pick<RunSummary, "origin" | "before">>,
): { readonly name: string; readonly bytes: number } | null {
  return origin.find(({ role }) => role === "model") ?? (before ? { name: "the input", bytes: before.bytes } : null);
}

/** Those files that are larger than the model before. */
export function grownFiles(summary: Partial<Pick<RunSummary, "origin" | "before" | "fileBytes">>): GrownFile[] {
  const input = modelInput(summary);
  return (summary.fileBytes ?? []).flatMap(({ file, bytes, smaller = [] }) =>
    input && bytes > input.bytes ? [{ file: fileName(file), bytes, smaller }] : []
  );
}

/** The last part of a path. */
export function fileName(path: string): string {
  return path.split(/[/\\]/).at(-1) ?? path;
}
