// `compresso push MODEL hf:owner/name`: uploads a run's folder, with its model card, to the Hugging Face Hub.
import type { CommandUnknownOpts } from "../packages.ts";
import { pushToHub } from "../../lib/local/push_model.ts";
import { verb } from "../command.ts";
import { watchInterrupt } from "../terminal/interrupt.ts";
import { formatBytes, note, print, printJson } from "../terminal/output.ts";
import { stderrProgress } from "../terminal/progress.ts";

/** Declares the verb. */
export function pushVerb(): CommandUnknownOpts {
  return verb("push", {
    description: "Upload a pruned model with its model card to the Hugging Face Hub, as one commit.",
    examples: ["push runs/mine hf:me/my-model --private", "push runs/mine/model.gguf hf:me/my-model-gguf"],
    notes: "The token is taken from HF_TOKEN, or from the file that `hf auth login` writes. It must allow writing.",
  })
    .argument("<model>", "the folder of a finished run, a Hugging Face folder, or a .gguf file")
    .argument("<name>", "the repository to write to, hf:owner/name, or a branch of it, hf:owner/name@branch")
    .option("--private", "make a new repository private")
    .option("--message <text>", "message of the commit (default: Upload NAME with Compresso)")
    .option("--json", "print one JSON object")
    .action(async (model, name, { private: isPrivate = false, message, json }) => {
      using progress = stderrProgress();
      using interrupt = watchInterrupt("stopping; large files that were uploaded are not sent again");
      interrupt.start();
      const result = await pushToHub(model, name, {
        isPrivate,
        ...(message === undefined ? {} : { message }),
        signal: interrupt.signal,
        onNote: progress.note,
        onProgress: ({ file, bytes, total }) =>
          progress.phase(`uploading ${file}`, bytes / total, `${formatBytes(bytes)} of ${formatBytes(total)}`),
      });
      progress[Symbol.dispose]();
      if (json) return printJson(result);
      const { url, source, files, bytes } = result;
      if (files.length === 0) note("compresso: the repository has these files already");
      print(`pushed      ${files.length} files, ${formatBytes(bytes)}`);
      print(`as          ${source}`);
      print(`page        ${url}`);
    });
}
