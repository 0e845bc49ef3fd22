// Parsed values of a data file: JSON lines, a JSON array or parquet, compressed or not.
import type { ByteSource } from "../../files/system.ts";
import { type Codecs, dataError, kindOf, textOf } from "./bytes.ts";
import { parquetRows } from "./parquet.ts";
import { createSplitter, namesJson, type Place, type ValueSink } from "./split.ts";

/** A value and its place. */
export interface PlacedValue {
  readonly place: Place;
  readonly value: unknown;
}

/**
 * Reads the values of a file, at most `limit` from the first on.
 *
 * @throws CompressoError("input") for a file that is empty, binary or plain text, and for a value that does not parse, which it names.
 */
export async function readValuesFrom(
  source: ByteSource,
  { limit = Infinity, codecs = null }: { readonly limit?: number; readonly codecs?: Codecs | null } = {},
): Promise<PlacedValue[]> {
  const values: PlacedValue[] = [], path = source.name, kind = await kindOf(source);
  if (kind === "parquet") {
    for await (const { number, value } of parquetRows(source, { codecs, wanted: () => limit - values.length })) {
      values.push({ place: { number, label: `row ${number}` }, value });
    }
  } else {
    const sink: ValueSink = {
      value: (place, value) => void values.push({ place, value }),
      blank: () => {},
      document(): void {
        throw dataError(path, "it holds JSON lines or a JSON array", {
          value: "plain text",
          fix: "give one of these",
        });
      },
      broken(place, problem): void {
        throw dataError(path, "each row is one JSON value", {
          value: `${place.label} ${problem}`,
          fix: "fix or remove it",
        });
      },
      refuse(rule, value, fix): never {
        throw dataError(path, rule, { value, fix });
      },
      get isFull(): boolean {
        return values.length >= limit;
      },
    };
    const splitter = createSplitter(sink, { isJson: namesJson(path) });
    for await (const text of textOf(source, { compression: kind, codecs })) {
      splitter.push(text);
      if (sink.isFull) break;
    }
    splitter.finish();
  }
  if (values.length === 0) throw dataError(path, "the file has rows", { value: "none", fix: "give a file with rows" });
  return values.slice(0, limit);
}
