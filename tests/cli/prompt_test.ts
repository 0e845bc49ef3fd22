// The collaborative prompt as options choose it: what is said of a file that holds none.
import { promptText } from "../../cli/options/prompt.ts";
import assert from "node:assert/strict";
import { rejectionOf } from "../refuses.ts";
import { TemporaryFolder } from "./helpers/cli.ts";

Deno.test("an empty prompt is refused with advice that every verb can follow: serve, chat and generate have no --no-prompt", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("prompt.txt"), "\uFEFF \n");
  const { parts } = await rejectionOf(promptText(folder.at("prompt.txt")), "input", { names: folder.at("prompt.txt") });
  assert.ok(parts.fix !== undefined && !parts.fix.includes("--"), parts.fix);
});
