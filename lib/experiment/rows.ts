// The rows of an experiment's data sets: read once, or written once by the model itself.
import { refuse } from "../core/errors.ts";
import { makeFolder, writeFileAtomically } from "../files/atomic.ts";
import { type DataReport, type DataSet, type LeftOut, type Row } from "../data/rows.ts";
import { dataPath, readRows } from "../local/rows.ts";
import { notOneFile } from "../data/readers/bytes.ts";
import { isOfPath } from "../files/bytes.ts";
import { disk } from "../files/disk.ts";
import { exists, isFolder } from "../files/exists.ts";
import { isMissing } from "../files/held_file.ts";
import { textIfThere } from "../files/text_file.ts";
import { fileDigest, modelDigest } from "../files/fingerprint.ts";
import { placesNamed } from "../data/encode_report.ts";
import type { Model } from "../model/model.ts";
import { ANSWER_FORMAT, writeAnswerFile } from "../generate/answers_file.ts";
import { TEXT_FORMAT, writeTextFile } from "../generate/self_data_file.ts";
import { partPath } from "../generate/series_file.ts";
import { digestOf } from "../core/digest.ts";
import type { Json } from "../core/identity.ts";
import { dataIdentity, fileFacts } from "./identity.ts";
import type { DataSource, FileData, SelfAnsweredData, SelfWrittenData } from "./types.ts";

/** Rows to train on, and a report on how they were read. */
export interface SourceRows {
  readonly rows: readonly Row[];
  readonly reading: DataReport;
  /** Whether rows that cannot be encoded are left out, as broken ones were. */
  readonly skipBroken: boolean;
}

/** What self-written texts need. */
export interface Writer {
  readonly model: Model;
  /** Digest of the model's weights. */
  readonly weights: string;
  /** Folder of the texts. */
  readonly folder: string;
  readonly signal?: AbortSignal | undefined;
  readonly onProgress?: ((share: number) => void) | undefined;
}

/** Reads and remembers. */
export class RowCache {
  readonly #sets = new Map<string, { readonly file: string; readonly set: DataSet }>();
  readonly #noted = new Set<string>();
  readonly #digests = new Map<string, string>();

  /** The rows of a file. The error of a broken row has the fix `brokenFix`; by default the fix of `prune`. */
  async read(file: FileData, brokenFix?: string): Promise<DataSet> {
    const { last, ...how } = fileFacts(file), key = JSON.stringify({ ...how, last, file: file.file });
    const known = this.#sets.get(key);
    if (known) return known.set;
    const set = await readRows(file.file, { ...how, brokenFix });
    const taken = last === undefined ? set : lastRows(set, { last, path: file.file });
    this.#sets.set(key, { file: file.file, set: taken });
    return taken;
  }

  /** Rows of a source. What the model writes itself is written first if it does not exist. */
  async rows(source: DataSource, writer: Writer): Promise<SourceRows> {
    const file = typeof source === "string" ? { file: source } : source;
    if ("file" in file) {
      const { rows, report } = await this.read(file);
      return { rows, reading: report, skipBroken: file.skipBroken ?? false };
    }
    const path = "answers" in file ? await this.#answer(file, writer) : await write(file, writer);
    const { rows, report } = await this.read({ file: path });
    return { rows, reading: report, skipBroken: false };
  }

  /** Lines on files whose rows were left out in part, each returned once. */
  newNotes(): string[] {
    const lines = [...this.#sets.values()].flatMap(({ file, set: { report: { skipped, broken } } }) => {
      const kinds = [["empty", skipped], ["broken", broken]] as const;
      const left = kinds.filter(([, { length }]) => length > 0)
        .map(([what, rows]) => `${rows.length} ${what} ${placesNamed(rows)}`);
      return left.length === 0 ? [] : [`of the rows of ${file} are left out: ${left.join(", ")}`];
    });
    const fresh = lines.filter((line) => !this.#noted.has(line));
    for (const line of fresh) this.#noted.add(line);
    return [...new Set(fresh)];
  }

  /** A digest of all bytes of a file. Throws `CompressoError("input")` if there is none, and for a folder. */
  async digest(path: string): Promise<string> {
    const known = this.#digests.get(path);
    if (known) return known;
    const place = await dataPath(path);
    if (await isFolder(place)) throw notOneFile(place);
    const digest = await found(path, fileDigest(place));
    this.#digests.set(path, digest);
    return digest;
  }

  /** What differs between sources. */
  async identity(source: DataSource, weights: string): Promise<string> {
    if (typeof source === "string") return await this.digest(source);
    if ("generate" in source) return JSON.stringify({ ...writtenFacts(source), weights, format: TEXT_FORMAT });
    if ("answers" in source) return JSON.stringify(await this.#answerFacts(source, weights));
    return dataIdentity(fileFacts(source), await this.digest(source.file));
  }

  /** What decides a model's answers, in a fixed order. */
  async #answerFacts({ answers }: SelfAnsweredData, weights: string): Promise<Readonly<Record<string, Json>>> {
    const { tokens, temperature = 0, seed = 1, ...file } = answers;
    const rows = dataIdentity(fileFacts(file), await this.digest(file.file));
    return { rows, tokens, temperature, seed, weights, format: ANSWER_FORMAT };
  }

  /** Path of the model's answers, which are written first if they do not exist. */
  async #answer(source: SelfAnsweredData, writer: Writer): Promise<string> {
    const { tokens, temperature, seed, ...file } = source.answers,
      { weights, model: { weights: { baseDtype } } } = writer;
    const identity = { ...await this.#answerFacts(source, weights), baseDtype },
      digest = digestOf([JSON.stringify(identity)]);
    const { rows } = await this.read(file);
    return await writeOnce(
      `${writer.folder}/self-answered-${digest.slice(0, 8)}.jsonl`,
      writer,
      (how) => writeAnswerFile(writer.model, rows, { ...how, tokens, temperature, seed, identity: { digest } }),
    );
  }
}

/** What decides self-written texts, in a fixed order too. */
function writtenFacts(
  { generate: { count, tokens, temperature, seed } }: SelfWrittenData,
): SelfWrittenData["generate"] {
  return { count, tokens, temperature, seed };
}

/** Path of self-written texts. The name holds a digest of all that decides them; NAME.sha256 has the digest of the texts. */
function writtenPath(source: SelfWrittenData, { folder, weights, model }: Writer): string {
  const key = digestOf([
    JSON.stringify({ ...writtenFacts(source), weights, baseDtype: model.weights.baseDtype, format: TEXT_FORMAT }),
  ]);
  return `${folder}/self-written-${key.slice(0, 8)}.jsonl`;
}

/** A digest of a model, a file or a folder. Throws `CompressoError("input")` if the path does not exist. */
export async function weightsDigest(path: string): Promise<string> {
  return await found(path, modelDigest(path));
}

async function found(path: string, digest: Promise<string>): Promise<string> {
  try {
    return await digest;
  } catch (error) {
    if (!isOfPath(error)) throw error;
    const isAbsent = isMissing(error);
    refuse("input", `cannot read ${path}`, {
      rule: "files that an experiment names exist and can be read",
      value: isAbsent ? "no such file or folder" : error.message,
      fix: isAbsent
        ? "check the path; those of a definition are relative to its file"
        : "check the path, and the permissions to it",
      cause: error,
    });
  }
}

async function write(source: SelfWrittenData, writer: Writer): Promise<string> {
  const { model, weights } = writer, identity = { weights, baseDtype: model.weights.baseDtype };
  return await writeOnce(
    writtenPath(source, writer),
    writer,
    (how) => writeTextFile(model, { ...how, ...source.generate, identity }),
  );
}

/** Has a file written unless it exists. PATH.sha256 has the digest of what was written. */
async function writeOnce(
  path: string,
  { folder, signal, onProgress }: Writer,
  make: (
    how: Pick<Writer, "signal" | "onProgress"> & { readonly path: string; readonly resume: boolean },
  ) => Promise<unknown>,
): Promise<string> {
  const mark = `${path}.sha256`;
  if (await exists(path)) {
    const digest = await textIfThere(mark);
    if (digest !== null) await checkWritten(path, digest);
    // A run that was killed at this point left none.
    else await writeFileAtomically(mark, await fileDigest(path));
    return path;
  }
  await makeFolder(folder);
  await disk.remove(mark); // of texts that were removed
  await make({ path, resume: await exists(partPath(path)), signal, onProgress });
  await writeFileAtomically(mark, await fileDigest(path));
  return path;
}

/** Refuses self-written texts that changed: cells would differ in them unnoticed. Throws `CompressoError("mismatch")`. */
async function checkWritten(path: string, digest: string): Promise<void> {
  const now = await fileDigest(path);
  if (now === digest) return;
  refuse("mismatch", `cannot use the texts in ${path}`, {
    rule: "they are as the model wrote them",
    value: `digest ${digest.slice(0, 12)} then, ${now.slice(0, 12)} now`,
    fix: "put them back, or remove the file to have them written again; add texts of your own as another data set",
  });
}

function lastRows(set: DataSet, { last, path }: { readonly last: number; readonly path: string }): DataSet {
  if (set.rows.length < last) {
    refuse("input", `cannot take the last ${last} rows of ${path}`, {
      rule: "the file has as many",
      value: `${set.rows.length} rows`,
    });
  }
  // Rows that were left out before the first of them do not count.
  const from = set.rows.at(-last)?.number ?? 0, taken = ({ row }: LeftOut): boolean => row >= from;
  const { skipped, broken } = set.report;
  const report = { ...set.report, rows: last, skipped: skipped.filter(taken), broken: broken.filter(taken) };
  if (set.kind === "instruct") return { ...set, report, rows: set.rows.slice(-last) };
  if (set.kind === "chat") return { ...set, report, rows: set.rows.slice(-last) };
  return { ...set, report, rows: set.rows.slice(-last) };
}
