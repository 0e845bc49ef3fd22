// What a run keeps in the browser's storage, so that it goes on after the tab was closed: its checkpoint, what was chosen,
// and a copy of the files that were chosen.
import { originFiles } from "../../lib/browser/origin.ts";
import { refuse } from "../../lib/core/errors.ts";
import { type DirectoryFiles, isStorageFull } from "../../lib/files/directory.ts";
import { streamBytes, writeFile } from "../../lib/files/system.ts";
import { blobSource } from "../../lib/files/blob.ts";
import { checkpointPosition } from "../../lib/run/checkpoint.ts";
import { CHECKPOINT_FILE } from "../../lib/run/folder.ts";
import type { Choices, KeptFacts, NamedFile } from "../messages.ts";

/** Folder of the run within the storage. */
export const RUN = "run";

const ABOUT = "about.json", MODEL = "model", ROWS = "rows";
/** Bytes that are left to checkpoints and results when files are copied. */
const SPARE_BYTES = 1 << 26;
const PIECE_BYTES = 1 << 24;
/** Milliseconds to wait for a tab that is being closed. */
const LOCK_MS = 3000;

/** What a run is made from. */
export interface KeptInputs {
  readonly model: InUse & { readonly name: string; readonly files: "demo" | readonly NamedFile[] };
  readonly rows: InUse & { readonly name: string; readonly file: "demo" | File };
  readonly choices: Choices;
}

/** Whether files that are in use lie in the storage. */
interface InUse {
  readonly isKept: boolean;
}

/** How files are copied. */
export interface CopyOptions {
  readonly signal: AbortSignal;
  readonly onProgress: (share: number) => void;
}

/** What is known of a kept run. */
interface About {
  readonly version: 1;
  readonly model: { readonly name: string; readonly isDemo: boolean };
  readonly rows: { readonly name: string; readonly isDemo: boolean };
  /** Whether the files that were chosen are copied. */
  readonly isCopied: boolean;
  /** Steps of the run; 0 until it is known. */
  readonly steps: number;
  readonly choices: Choices;
}

/** The storage of the studio. While it is open, no other tab uses it. */
export class StudioStorage {
  readonly files: DirectoryFiles;
  #about: About | null = null;

  private constructor(files: DirectoryFiles) {
    this.files = files;
  }

  /**
   * Opens the storage of the page at an address.
   *
   * @throws CompressoError("input") if the browser gives none, or another tab has it.
   */
  static async open(base: string): Promise<StudioStorage> {
    const name = `compresso studio ${encodeURIComponent(new URL(base).pathname)}`;
    const files = await originFiles(name);
    if (!await lock(name)) {
      const fix = "close the other tab, and start the run again", value = "another tab has it";
      refuse("input", "cannot save the run", { rule: "one tab of the studio uses the browser's storage", value, fix });
    }
    const opened = new StudioStorage(files);
    opened.#about = await readAbout(files);
    return opened;
  }

  /** The run that can go on; null if there is none. */
  async found(): Promise<KeptFacts | null> {
    const { files } = this, path = `${RUN}/${CHECKPOINT_FILE}`, about = this.#about;
    if (!about) return null;
    const step = await checkpointPosition(path, { files }).then((position) => position.step, () => null);
    if (step === null) return null;
    const { model, rows, steps, isCopied } = about;
    const wanted = isCopied ? [] : [...model.isDemo ? [] : [model.name], ...rows.isDemo ? [] : [rows.name]];
    return { model: model.name, step, steps, bytes: await this.bytes(), wanted };
  }

  /** Bytes of all that is stored. What is written or removed meanwhile may be left out. */
  async bytes(folder = ""): Promise<number> {
    let sum = 0;
    for (const name of await this.files.names(folder).catch(() => [])) {
      const path = `${folder}/${name}`, info = await this.files.info(path).catch(() => null);
      sum += info?.isFolder ? await this.bytes(path) : info?.size ?? 0;
    }
    return sum;
  }

  /** Removes everything, apart from files that are in use. */
  async clear({ model, rows }: { readonly model: InUse | null; readonly rows: InUse | null }): Promise<void> {
    this.#about = null;
    const used = [...model?.isKept ? [MODEL] : [], ...rows?.isKept ? [ROWS] : []];
    for (const name of await this.files.names("")) if (!used.includes(name)) await this.files.remove(name);
  }

  /** Makes room for a new run, and copies its files where there is room for them. */
  async begin({ model, rows, choices }: KeptInputs, how: CopyOptions): Promise<void> {
    await this.clear({ model, rows });
    const ofModel = model.files === "demo" || model.isKept ? [] : model.files, { file } = rows;
    const isCopied = await this.#copied([
      ...ofModel.map(({ name, file }) => [`${MODEL}/${name}`, file] as const),
      ...file === "demo" || rows.isKept ? [] : [[ROWS, file] as const],
    ], how);
    await this.#write({
      version: 1,
      model: { name: model.name, isDemo: model.files === "demo" },
      rows: { name: rows.name, isDemo: file === "demo" },
      ...{ isCopied, choices, steps: 0 },
    });
  }

  /** Notes how many steps the run has. */
  async noteSteps(steps: number): Promise<void> {
    if (this.#about && this.#about.steps !== steps) await this.#write({ ...this.#about, steps });
  }

  /** What the kept run is made from; files that were not copied are null, and must be chosen again. */
  async inputs(): Promise<{
    readonly model: { readonly name: string; readonly files: "demo" | readonly NamedFile[] | null };
    readonly rows: { readonly name: string; readonly file: "demo" | File | null };
    readonly choices: Choices;
  }> {
    const about = this.#about;
    if (!about) refuse("input", "cannot go on", { rule: "a run is kept", value: "none", fix: "start a new one" });
    const { model, rows, isCopied, choices } = about, { files } = this;
    const copies = async (): Promise<readonly NamedFile[]> =>
      await Promise.all(
        (await files.names(MODEL)).map(async (name) => ({ name, file: await files.file(`${MODEL}/${name}`) })),
      );
    const copyOfRows = async (): Promise<File> => new File([await files.file(ROWS)], rows.name);
    return {
      model: { name: model.name, files: model.isDemo ? "demo" : isCopied ? await copies() : null },
      rows: { name: rows.name, file: rows.isDemo ? "demo" : isCopied ? await copyOfRows() : null },
      choices,
    };
  }

  /** Whether the files were copied: only where the browser has room for them and the results. */
  async #copied(
    parts: readonly (readonly [path: string, file: File])[],
    { signal, onProgress }: CopyOptions,
  ): Promise<boolean> {
    const total = parts.reduce((sum, [, { size }]) => sum + size, 0);
    if (total > 0 && await bytesLeft() < 2 * total + SPARE_BYTES) return false;
    let done = 0;
    try {
      for (const [path, file] of parts) {
        using staged = await this.files.stageFile(path);
        const how = { length: file.size, pieceBytes: PIECE_BYTES };
        for await (const piece of streamBytes(blobSource(file.name, file), 0, how)) {
          signal.throwIfAborted();
          await staged.write(piece);
          onProgress((done += piece.length) / total);
        }
        await staged.commit();
      }
      return true;
    } catch (error) {
      if (!isStorageFull(error)) throw error;
      for (const name of [MODEL, ROWS]) await this.files.remove(name);
      return false;
    }
  }

  async #write(about: About): Promise<void> {
    this.#about = about;
    try {
      await writeFile(this.files, ABOUT, JSON.stringify(about));
    } catch (error) {
      if (!isStorageFull(error)) throw error; // its checkpoints have no room either, which is told
    }
  }
}

/** Bytes that the browser still gives the page; infinite if it does not say. */
async function bytesLeft(): Promise<number> {
  const { storage } = navigator as Navigator & {
    readonly storage?: { estimate(): Promise<{ readonly quota?: number; readonly usage?: number }> };
  };
  const { quota = Infinity, usage = 0 } = await storage?.estimate() ?? {};
  return quota - usage;
}

async function readAbout(files: DirectoryFiles): Promise<About | null> {
  try {
    const about: About | null = JSON.parse(await files.text(ABOUT) ?? "null");
    return about?.version === 1 ? about : null;
  } catch {
    return null;
  }
}

interface Locks {
  request(name: string, options: { readonly signal: AbortSignal }, hold: () => Promise<void>): Promise<void>;
}

/** Takes a lock until the tab is closed. Returns whether this tab has it. */
async function lock(name: string): Promise<boolean> {
  const { locks } = navigator as Navigator & { readonly locks?: Locks };
  if (!locks) return true;
  const { promise, resolve } = Promise.withResolvers<boolean>();
  locks.request(name, { signal: AbortSignal.timeout(LOCK_MS) }, () => {
    resolve(true);
    return new Promise(() => {});
  }).catch(() => resolve(false));
  return await promise;
}
