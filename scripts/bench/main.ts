// Command line of the benchmark suite, `deno task bench`; see --help. Prints and writes the results.
import { join } from "node:path";
import { CompressoError } from "../../lib/core/errors.ts";
import { charts } from "./charts.ts";
import { type BenchOptions, HELP, parseOptions } from "./options.ts";
import { report } from "./report.ts";
import { type BenchResults, runSuite } from "./suite.ts";

/** Runs the suite, writes bench.json and charts to `options.out`, and returns the report. */
export async function bench(options: BenchOptions, log: (line: string) => void): Promise<string> {
  await Deno.mkdir(options.out, { recursive: true });
  const save = (results: BenchResults): Promise<void> =>
    Deno.writeTextFile(join(options.out, "bench.json"), JSON.stringify(results, null, 1));
  const results = await runSuite(options, { log, save });
  for (const [name, svg] of charts(results)) await Deno.writeTextFile(join(options.out, name), svg);
  return report(results);
}

if (import.meta.main) {
  try {
    const options = parseOptions(Deno.args);
    if (options) {
      console.log(await bench(options, (line) => console.error(line)));
      console.error(`bench.json and charts: ${options.out}`);
    } else console.log(HELP);
  } catch (error) {
    if (!(error instanceof CompressoError)) throw error;
    console.error(error.message);
    Deno.exitCode = error.exitStatus;
  }
}
