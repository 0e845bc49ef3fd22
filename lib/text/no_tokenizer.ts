// The error of a model without a tokenizer.
import { type CompressoError, refusal } from "../core/errors.ts";

/** The error; `what` says what cannot be done, `without` what needs no tokenizer. */
export function noTokenizer(what: string, { without }: { readonly without?: string } = {}): CompressoError {
  return refusal("input", what, {
    rule: "a model needs a tokenizer to read and write text",
    value: "no tokenizer",
    fix: `put tokenizer.json into the model's folder, or take a GGUF that holds one${without ? `, or ${without}` : ""}`,
  });
}
