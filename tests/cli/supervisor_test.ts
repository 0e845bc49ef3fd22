// `compresso prune --resume=auto`: one command line for a supervisor, which starts a run, resumes it, and finds it finished.
import assert from "node:assert/strict";
import { assertNames } from "../refuses.ts";
import { assertFinished, type CliResult, command, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const OPTIONS = [
  ...["--sparsity", "0.3", "--steps", "6", "--prefinetune", "1", "--postfinetune", "1", "--batch", "1", "--seq", "32"],
  ...["--no-prompt"],
];
const MORE = [
  ...["--limit-rows", "60", "--calibration", "own", "--checkpoint-every", "3", "--no-tuning"],
  ...["--on-alarm", "divergence=off"],
];

function prune(out: string, ...more: readonly string[]): string[] {
  return ["prune", "demo", ...OPTIONS, ...MORE, "--out", out, ...more];
}

/** Starts the command and sends it a signal when it has said or recorded enough. */
async function stopped(
  args: readonly string[],
  { signal, when }: { readonly signal: Deno.Signal; readonly when: (said: string) => boolean },
): Promise<CliResult & { readonly signal: Deno.Signal | null }> {
  const child = command(args).spawn(), stdout = new Response(child.stdout).text();
  let stderr = "", isSent = false;
  const reading = (async () => {
    for await (const text of child.stderr.pipeThrough(new TextDecoderStream())) stderr += text;
  })();
  const status = child.status.finally(() => isSent = true);
  while (!isSent) {
    if (when(stderr)) {
      child.kill(signal);
      break;
    }
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  const { code, signal: ended } = await status;
  await reading;
  return { code, signal: ended, stdout: await stdout, stderr };
}

function recordsIn(out: string): number {
  try {
    return Deno.readTextFileSync(`${out}/records.jsonl`).split("\n").length - 1;
  } catch {
    return 0;
  }
}

async function digests(out: string): Promise<string[]> {
  const files = [`${out}/model/model.safetensors`, `${out}/model.gguf`, `${out}/calibration.jsonl`];
  return await Promise.all(files.map(async (path) => {
    const hash = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
    return new Uint8Array(hash).toHex();
  }));
}

Deno.test("--resume=auto starts, resumes and finds finished, also where it was killed before its first checkpoint", {
  ignore: Deno.build.os === "windows", // there is no SIGTERM
}, async () => {
  using folder = new TemporaryFolder();
  const whole = folder.at("whole"), out = folder.at("run"), auto = prune(out, "--resume=auto");
  await json(prune(whole));
  const early = await stopped(auto, { signal: "SIGKILL", when: (said) => said.includes("60 rows") });
  assert.equal(early.signal, "SIGKILL", early.stderr);
  assert.ok(!folder.has("run", "checkpoint.safetensors") && !folder.has("run", "calibration.jsonl"));
  // Not yet resumed: what may differ then is no matter.
  const first = await stopped([...auto, "--may-differ", "rates"], {
    signal: "SIGTERM",
    when: () => recordsIn(out) >= 2,
  });
  assert.equal(first.code, 130, first.stderr);
  assertNames(first.stderr, ["prune demo", "--resume=auto"]);
  assert.ok(folder.has("run", "checkpoint.safetensors"));
  const second = await stopped(auto, { signal: "SIGKILL", when: () => recordsIn(out) >= 5 });
  assert.equal(second.signal, "SIGKILL", second.stderr);
  assert.match(second.stderr, /\bstep [2-4]$/m, "it does not begin anew");
  const { resumedAfter } = await json(auto);
  assert.ok(resumedAfter >= 2, `${resumedAfter}`);
  assert.deepEqual(await digests(out), await digests(whole));
  await assertFinished(auto, out);
  await refused([...auto, "--seed", "9"], "mismatch", { value: "seed: 1 then, 9 now" });
  await refused([...auto, "--overwrite"], "usage", { names: "--overwrite" });
});

Deno.test("--resume=auto refuses files of a run that it cannot know, and --resume before the first checkpoint names it", async () => {
  using folder = new TemporaryFolder();
  const out = folder.at("run");
  await Deno.mkdir(out);
  await refused(prune(out, "--resume"), "usage", {
    option: "--resume",
    names: ["checkpoint.safetensors", "--resume=auto"],
  });
  await Deno.writeTextFile(folder.at("run", "run.json"), "{}");
  await refused(prune(out, "--resume=auto"), "usage", { value: "run.json", names: "--overwrite" });
});
