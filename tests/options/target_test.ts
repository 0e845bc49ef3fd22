// A target is a sparsity or a size: both, or neither, does not compile, and is refused where nobody checks types.
import assert from "node:assert/strict";
import type { PruneOptions } from "../../lib/run/options/options.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { refuses } from "../refuses.ts";

const BASE = { rows: [], steps: 10 } as const, size = { parameters: 1e6 } as const;

Deno.test("a run is given a sparsity or a size, as its type says", () => {
  const share: PruneOptions = { ...BASE, sparsity: 0.2 }, sized: PruneOptions = { ...BASE, size };
  assert.equal(resolveOptions(share).sparsity, 0.2);
  assert.deepEqual(resolveOptions(sized).size, size);
  // @ts-expect-error: both
  const both: PruneOptions = { ...BASE, sparsity: 0.2, size };
  // @ts-expect-error: neither
  const neither: PruneOptions = { ...BASE };
  for (const options of [both, neither]) {
    refuses(() => resolveOptions(options), "usage", { option: "sparsity" });
  }
});
