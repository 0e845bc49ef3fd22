// `--gguf-imatrix` of `compresso export`: the importance of columns on the texts of a file.
import { refuse } from "../lib/core/errors.ts";
import { encodeRows } from "../lib/data/encode_rows.ts";
import { readRows } from "../lib/local/rows.ts";
import { measureImportance } from "../lib/slice/importance.ts";
import type { ExportOptions } from "../lib/slice/export_options.ts";
import type { DecoderSpec } from "../lib/spec/decoder.ts";
import { noTokenizer } from "../lib/text/no_tokenizer.ts";
import type { Tokenizer } from "../lib/text/tokenizer.ts";
import { openDeviceHere } from "./webgpu.ts";

/** Tokens of a sequence, and sequences at most, as `llama-imatrix` is mostly run. */
const SEQ = 512, MOST = 128;

/** Reads and encodes the rows of a file at once, and gives what measures a model on them. Throws `CompressoError("input")`. */
export async function importanceOn(
  path: string,
  { spec, tokenizer }: { readonly spec: DecoderSpec; readonly tokenizer: Tokenizer | null },
  { onProgress }: { readonly onProgress: (share: number) => void },
): Promise<NonNullable<ExportOptions["ggufImportance"]>> {
  if (!tokenizer) throw noTokenizer("cannot measure the importance of columns");
  const { rows } = await readRows(path), seq = Math.min(SEQ, spec.maxPosition);
  const { examples } = encodeRows(rows, { tokenizer, prompt: null, seq, vocab: spec.vocab });
  const tokens = examples.slice(0, MOST).map((example) => [...example.tokens]);
  return async (source, signal) => {
    using device = await openDeviceHere();
    return await measureImportance(source, { device, tokens, signal, onProgress });
  };
}

/** Refuses `--gguf-imatrix` without a GGUF. Throws `CompressoError("usage")`. */
export function checkImatrix(formats: readonly string[], path: string | undefined): void {
  if (path === undefined || formats.includes("gguf")) return;
  refuse("usage", "cannot use --gguf-imatrix", {
    rule: "it is for the GGUF",
    value: `formats ${formats.join(", ")}`,
    fix: "leave it out, or add that format",
  });
}
