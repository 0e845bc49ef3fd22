// Numbers in the metadata of a GGUF, checked.
import type { GgufFile } from "./file.ts";
import { ggufError } from "./types.ts";

/** Reads the metadata of a file; each function throws `CompressoError("input")` where a key holds something else. */
export interface MetadataReader {
  /** A number; throws where the key holds something else. */
  number(key: string, fallback?: number): number;
  /** A whole number above 0. */
  size(key: string): number;
  /** A number stored as f32, as the decimal fraction that was meant. */
  decimal(key: string): number;
  /** Throws unless the value is allowed. */
  check(key: string, value: number, allowed: (value: number) => boolean, rule: string): void;
}

/** The reader of a file. */
export function metadataReader({ path, metadata }: GgufFile): MetadataReader {
  const number = (key: string, fallback?: number): number => {
    const value = metadata.get(key) ?? fallback;
    if (typeof value === "number" && Number.isFinite(value)) return value;
    const shown = value === undefined ? "not given" : typeof value === "number" ? String(value) : `a ${typeof value}`;
    throw ggufError(path, { rule: `${key} is a number`, value: shown });
  };
  const check = (key: string, value: number, allowed: (value: number) => boolean, rule: string): void => {
    if (!allowed(value)) throw ggufError(path, { rule: `${key}: ${rule}`, value: String(value) });
  };
  return {
    number,
    check,
    size(key): number {
      const value = number(key);
      check(key, value, (value) => Number.isInteger(value) && value > 0, "a whole number above 0");
      return value;
    },
    decimal(key): number {
      const value = number(key);
      for (let digits = 1; digits < 9; digits++) {
        const short = Number(value.toPrecision(digits));
        if (Math.fround(short) === value) return short;
      }
      return value;
    },
  };
}
