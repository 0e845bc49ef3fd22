// Runs commands one after the other with the rights of this process, and prints how each ended. One process starts faster than one for each command.
import { main } from "../../../cli/main.ts";
import { withStreams } from "./streams.ts";

const ends: { readonly code: number; readonly stderr: string }[] = [];
for (const words of JSON.parse(Deno.args[0] ?? "[]")) {
  const { result: code, stderr } = await withStreams("", () => main(words));
  ends.push({ code, stderr });
}
console.log(JSON.stringify(ends));
Deno.exit();
