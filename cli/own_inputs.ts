// What a verb reads, kept from what it writes. Owns that check; refuses to read or write.
import { resolve } from "node:path";
import { CompressoError } from "../lib/core/errors.ts";

/** Refuses an output that is one of the inputs, by its path or through links. Throws `CompressoError("usage")`. */
export async function refuseInputs(
  output: string,
  inputs: readonly string[],
  { option }: { readonly option: string },
): Promise<void> {
  const place = async (path: string): Promise<string> => await Deno.realPath(path).catch(() => resolve(path));
  const target = await place(output);
  for (const input of inputs) {
    if (await place(input) !== target) continue;
    throw new CompressoError("usage", {
      what: `cannot write to ${output}`,
      rule: `${option} is no file that is read`,
      value: input === output ? "it is one" : `it is ${input}`,
      fix: `choose another ${option}`,
    });
  }
}
