// The collaborative prompt as options choose it: what is said of a file that holds none.
import { promptText } from "../../cli/options/prompt.ts";
import { rejectsWith } from "../formats/files.ts";
import { TemporaryFolder } from "./helpers/cli.ts";

Deno.test("an empty prompt is refused with advice that every verb can follow: serve, chat and generate have no --no-prompt", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("prompt.txt"), "\uFEFF \n");
  await rejectsWith(
    promptText(folder.at("prompt.txt")),
    "input",
    /prompt\.txt; .*; got: it is empty; fix: write the prompt into it, or leave the option out$/,
  );
});
