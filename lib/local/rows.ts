// Rows and values of data files on the disk, packed or not.
import { CompressoError } from "../core/errors.ts";
import { dataError, messageOf, notOneFile } from "../data/readers/bytes.ts";
import { type PlacedValue, readValuesFrom } from "../data/readers/values.ts";
import { type DataSet, type ReadOptions, readRowsFrom } from "../data/rows.ts";
import { disk } from "../files/disk.ts";
import { hubMeant } from "../formats/open.ts";
import { fetchFromHub } from "../hub/fetch.ts";
import { isHubName } from "../hub/name.ts";
import { fileKind, type HeldFile, heldFile, isMissing } from "../files/held_file.ts";
import { heapLimit, zlibCodecs } from "../files/platform.ts";

/**
 * Reads rows from JSON lines, a JSON array, a parquet table, or plain text as one document; the content decides which.
 * All formats but parquet may be compressed by gzip or Zstandard. A file named .json, .jsonl or .ndjson is never read
 * as plain text, so that a broken first line is found. Plain text in a file named .csv or .tsv is refused. The file is
 * read in parts: memory holds only the rows, and with `limit` reading stops early. A Hub name
 * `hf:owner/name[@revision][:file]` names a data set, whose file is downloaded first.
 *
 * A row is `{instruction, input?, output}`, `{messages: [{role, content}]}`, `{conversations: [{from, value}]}`
 * (ShareGPT) or `{text}`; all rows of a file are of one kind. A field `system` next to messages becomes their first
 * turn.
 *
 * @throws CompressoError("usage") for options that do not exist, and a limit below 1.
 * @throws CompressoError("input") for a file that is missing, empty, binary or not UTF-8; for a broken row, which the
 * error names; and for rows that do not fit into memory.
 * @example
 * ```ts
 * import { demoData, readRows } from "compresso";
 * const { rows } = await readRows(demoData("train"), { limit: 5 });
 * if (rows.some(({ kind }) => kind !== "instruct")) throw new Error("other rows");
 * ```
 */
export async function readRows(path: string, options: ReadOptions = {}): Promise<DataSet> {
  using source = await openData(path);
  return await readRowsFrom(source, { ...options, codecs: zlibCodecs, heap: heapLimit() });
}

/**
 * Reads the values of a file, at most `limit` from the first on.
 *
 * @throws CompressoError("input") for a file that is missing, empty, binary or plain text, and for a value that does not parse, which it names.
 */
export async function readValues(
  path: string,
  { limit = Infinity }: { readonly limit?: number } = {},
): Promise<PlacedValue[]> {
  using source = await openData(path);
  return await readValuesFrom(source, { limit, codecs: zlibCodecs });
}

/** Local path of a data file; a Hub name is downloaded first. */
export async function dataPath(path: string): Promise<string> {
  return isHubName(path) ? (await fetchFromHub(path, { use: "data" })).path : path;
}

/** Opens a data file. Throws `CompressoError("input")` if it is missing, a folder, or a pipe. */
export async function openData(named: string): Promise<HeldFile> {
  const path = await dataPath(named);
  try {
    const info = await fileKind(path);
    if (info === "folder") throw notOneFile(path);
    if (info === "other") {
      throw dataError(path, "the data are a file, as they are read more than once", {
        value: "a pipe or a device",
        fix: "write them to a file first",
      });
    }
    return await heldFile(path);
  } catch (error) {
    if (error instanceof CompressoError) throw error;
    const missing = isMissing(error);
    throw dataError(path, "the file can be read", {
      value: missing ? "no such file" : messageOf(error),
      fix: missing ? await hubMeant(disk, path) ?? "check the path" : "check the path, and the permissions to it",
      cause: error,
    });
  }
}
