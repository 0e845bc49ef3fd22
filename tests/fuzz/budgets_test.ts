// The budgets of docs/evidence/reliability.md: what a file takes beside its bytes, on files that are the heaviest of their formats.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { HEAVY_FILES, type Taken } from "./budgets.ts";

/** As the page states them, of packed files for their unpacked bytes; a machine with other work takes longer. */
const BASE_SECONDS = 10, SECONDS_PER_MB = 2, BASE_MIB = 256, BYTES_PER_BYTE = 128;
/** Packed files are 100 MB and 4 MB unpacked. */
const UNPACKED: Readonly<Record<string, number>> = { gzip: 100e6, Zstandard: 4e6 };

for (const [number, { name, format }] of HEAVY_FILES.entries()) {
  Deno.test(`${name}: read or refused within the budget of its bytes`, async () => {
    const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", "--no-check", "--quiet", fileURLToPath(new URL("budgets.ts", import.meta.url)), `${number}`],
    }).output();
    assert.equal(code, 0, new TextDecoder().decode(stderr));
    const { bytes, seconds, mib }: Taken = JSON.parse(new TextDecoder().decode(stdout).trim().split("\n").at(-1) ?? "");
    const size = UNPACKED[format] ?? bytes;
    assert.ok(seconds <= BASE_SECONDS + SECONDS_PER_MB * size / 1e6, `${seconds.toFixed(1)} s for ${size} bytes`);
    assert.ok(mib <= BASE_MIB + BYTES_PER_BYTE * size / 2 ** 20, `${mib.toFixed(0)} MiB for ${size} bytes`);
  });
}
