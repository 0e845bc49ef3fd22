// The private file system of the page's origin.
import { refuse } from "../core/errors.ts";
import { type DirectoryFiles, directoryFiles, type DirectoryHandle } from "../files/directory.ts";

/** What is used of a browser's storage. */
interface OriginStorage {
  getDirectory(): Promise<DirectoryHandle>;
}

/**
 * Opens a folder of the origin's private file system (OPFS), which only pages of this origin see, and which stays when
 * the tab is closed. It is made if it does not exist. Needs https or localhost.
 *
 * @throws CompressoError("input") if the browser has no such file system, or does not give it to the page.
 * @example
 * ```ts
 * import { type Model, originFiles, pruneToFiles, type Row } from "compresso/browser";
 *
 * export async function pruned(model: Model, rows: readonly Row[]): Promise<File> {
 *   const files = await originFiles();
 *   // The next call after the tab was closed goes on where the last one was saved.
 *   await pruneToFiles(model, { rows, sparsity: 0.2, steps: 500, files, out: "run", resume: "auto" });
 *   return await files.file("run/model.gguf");
 * }
 * ```
 */
export async function originFiles(folder = "compresso"): Promise<DirectoryFiles> {
  const { storage } = navigator as Navigator & { readonly storage?: OriginStorage };
  try {
    if (!storage) throw new Error("the browser has none, or the page is not a secure one");
    return directoryFiles(await (await storage.getDirectory()).getDirectoryHandle(folder, { create: true }));
  } catch (cause) {
    refuse("input", "cannot open the private file system of this page", {
      rule: "the browser gives it to the page",
      value: cause instanceof Error ? cause.message : String(cause),
      fix: "open the page by https, outside of a private window",
      cause,
    });
  }
}
