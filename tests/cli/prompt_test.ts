// The collaborative prompt as options choose it: what is said of a file that holds none, and of a prompt that is too long.
import { promptText } from "../../cli/options/prompt.ts";
import assert from "node:assert/strict";
import { rejectionOf } from "../refuses.ts";
import { refused, TemporaryFolder } from "./helpers/cli.ts";

Deno.test("an empty prompt is refused with advice that every verb can follow: serve, chat and generate have no --no-prompt", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("prompt.txt"), "\uFEFF \n");
  const { parts } = await rejectionOf(promptText(folder.at("prompt.txt")), "input", { names: folder.at("prompt.txt") });
  assert.ok(parts.fix !== undefined && !parts.fix.includes("--"), parts.fix);
});

Deno.test("a prompt that leaves no room for a response is refused with the flag that leaves it out", async () => {
  using folder = new TemporaryFolder();
  const args = ["demo", "--preset", "paper", "--sparsity", "0.2", "--steps", "1", "--seq", "64", "--limit-rows", "40"];
  await refused(["prune", ...args, "--out", folder.at("run")], "input", { value: 64, names: ["--seq", "--no-prompt"] });
});
