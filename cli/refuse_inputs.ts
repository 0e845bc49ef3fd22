// Keeps a verb from writing over a file that it reads.
import { resolve } from "node:path";
import { refuse } from "../lib/core/errors.ts";

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
    refuse("usage", `cannot write to ${output}`, {
      rule: `${option} is none of the other files of the command`,
      value: input === output ? "the same file" : `the same file as ${input}`,
      fix: `choose another ${option}`,
    });
  }
}
