// What `fit` chooses at sizes of the file, with all choices that it measured, as a table: docs/evidence/fit.md.
import process from "node:process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";

const HELP = `usage: deno run -A scripts/check/fit.ts MODEL OUT --data FILE --sizes BYTES,… [--windows 12]

Plans a fit of MODEL for each size, keeps each plan as OUT/BYTES.json, and prints a table. Plans that OUT has are used again.`;

const { values: { data, sizes, windows, help }, positionals: [model, out] } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string" },
    sizes: { type: "string" },
    windows: { type: "string", default: "12" },
    help: { type: "boolean", default: false },
  },
});
if (help || !model || !out || !data || !sizes) {
  console.log(HELP);
  process.exit(help ? 0 : 2);
}

/** What a plan has of a choice. */
interface Row {
  readonly levers: string;
  readonly bytes: number;
  readonly kl: number;
  readonly klError: number;
  readonly top1: number;
  readonly lost: number;
}

const root = fileURLToPath(new URL("../..", import.meta.url));
await Deno.mkdir(out, { recursive: true });
console.log("| bytes at most | choice | bytes | mean KL | its error | same first choice | lost |");
console.log("| - | - | - | - | - | - | - |");
for (const size of sizes.split(",")) {
  const path = `${out}/${size}.json`;
  if (!(await Deno.stat(path).catch(() => null))) {
    const asked = ["--data", data, "--file-size", size, "--windows", windows, "--dry", "--json"];
    const { stdout, success } = await new Deno.Command("deno", {
      args: ["run", "-A", "--no-check", `${root}cli/main.ts`, "fit", model, ...asked],
      stderr: "inherit",
    }).output();
    if (!success) process.exit(1);
    await Deno.writeFile(path, stdout);
  }
  const { rows }: { readonly rows: readonly Row[] } = JSON.parse(await Deno.readTextFile(path));
  for (const [at, { levers, bytes, kl, klError, top1, lost }] of rows.entries()) {
    const figures = [kl, klError].map((value) => value.toFixed(4));
    console.log(
      `| ${at === 0 ? Number(size).toLocaleString("en") : ""} | ${levers} | ${bytes.toLocaleString("en")} | ${
        figures.join(" | ")
      } | ${(100 * top1).toFixed(1)} % | ${lost.toFixed(4)} |`,
    );
  }
}
