// Files that the user chooses or drops, by their names within their folder.
import type { NamedFile } from "../messages.ts";
import type { DroppedEntry, PageEvent } from "./dom.ts";

/** Files of a folder that a model is made of; others, such as pictures, are left out. */
const OF_MODELS = /\.(json|safetensors|model|txt|jinja|gguf)$/i;

/** Files as a file dialog gives them. */
export function chosenFiles(files: Iterable<File> | null): NamedFile[] {
  return [...files ?? []].map((file) => ({ name: file.name, file })).filter(({ name }) => OF_MODELS.test(name));
}

/** Files as they were dropped; of a folder those that lie in it directly. */
export async function droppedFiles({ dataTransfer }: PageEvent): Promise<NamedFile[]> {
  // All entries are asked for at once: after the event they are gone.
  const entries = [...dataTransfer?.items ?? []].flatMap((item) => item.webkitGetAsEntry() ?? []);
  const inner = await Promise.all(entries.map(async (entry) => entry.isFile ? [entry] : await entriesOf(entry)));
  const files = inner.flat().filter(({ isFile }) => isFile);
  return await Promise.all(
    files.map((entry) =>
      new Promise<NamedFile>((resolve, reject) => entry.file((file) => resolve({ name: entry.name, file }), reject))
    ),
  );
}

async function entriesOf(folder: DroppedEntry): Promise<DroppedEntry[]> {
  const reader = folder.createReader(), found: DroppedEntry[] = [];
  for (;;) {
    // A browser gives some at a time.
    const next = await new Promise<DroppedEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (next.length === 0) return found;
    found.push(...next);
  }
}
