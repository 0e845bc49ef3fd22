// The quick commands of docs/guide run as they are written there. scripts/check/guide.ts runs the slow ones too.
import assert from "node:assert/strict";
import { guideBlocks, guidePages, runGuide } from "../scripts/check/guide.ts";

for (const page of guidePages().filter((name) => guideBlocks(name, { quick: true }).length > 0)) {
  Deno.test(`the quick commands of docs/guide/${page} run`, async () => {
    const { status, output } = await runGuide(page, { quick: true });
    assert.equal(status, 0, output);
  });
}
