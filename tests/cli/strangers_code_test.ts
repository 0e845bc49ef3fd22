// A stranger's model with every kind of code in its folder: no verb runs any of it, whatever rights it has.
import assert from "node:assert/strict";
import { copyDemo, ROOT, TemporaryFolder } from "./helpers/cli.ts";

/** Python's pickle of an object that runs a command as it is loaded, as torch.load does. */
function pickle(command: string): string {
  return `cposix\nsystem\n(S'${command}'\ntR.`;
}

/** Writes the demo model with code of each kind beside it. Each would write the file `ran`. */
async function strangersModel(folder: string, ran: string): Promise<void> {
  await copyDemo(folder);
  const write = (name: string, text: string): Promise<void> => Deno.writeTextFile(`${folder}/${name}`, text);
  const change = async (name: string, parts: Readonly<Record<string, unknown>>): Promise<void> =>
    await write(name, JSON.stringify({ ...JSON.parse(await Deno.readTextFile(`${folder}/${name}`)), ...parts }));
  const python = `open(${JSON.stringify(ran)}, "w").write("python")\n`;
  const script = `Deno.writeTextFileSync(${JSON.stringify(ran)}, "script");\n`;
  const shell = `#!/bin/sh\necho shell > ${ran}\n`;
  const auto = (name: string): string => `${name}--modeling.Stranger`;
  await change("config.json", {
    trust_remote_code: true,
    auto_map: {
      AutoConfig: "modeling.Config",
      AutoModelForCausalLM: "modeling.Stranger",
      AutoModel: auto("owner/name"),
    },
    custom_pipelines: { "text-generation": { impl: "modeling.Stranger", pt: ["AutoModelForCausalLM"] } },
  });
  await change("tokenizer_config.json", {
    auto_map: { AutoTokenizer: ["tokenization.Slow", "tokenization.Fast"] },
    tokenizer_class: "Stranger",
    compresso_style: "chat",
    chat_template: "{% for m in messages %}{{ m.content }}{% endfor %}" +
      "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ self.__init__.__globals__ }}" +
      `{{ constructor.constructor('${script.trim().replaceAll("'", "\\'")}')() }}` +
      `{{ messages.constructor.constructor('return Deno')() }}{{ range.constructor('${ran}') }}`,
  });
  for (const name of ["modeling", "configuration", "tokenization", "__init__", "setup", "conftest", "generate"]) {
    await write(`${name}.py`, python);
  }
  await Deno.mkdir(`${folder}/custom_generate`);
  await write("custom_generate/generate.py", python);
  for (const name of ["mod.ts", "index.js", "main.mjs", "deno.ts", "schedule.ts", "task.ts", "experiment.ts"]) {
    await write(name, script);
  }
  await write(
    "deno.json",
    JSON.stringify({ tasks: { install: `sh ${folder}/install.sh` }, imports: { zod: "./mod.ts" } }),
  );
  await write("package.json", JSON.stringify({ main: "index.js", scripts: { preinstall: `sh ${folder}/install.sh` } }));
  for (const name of ["install.sh", "Makefile", ".envrc", "model"]) await write(name, shell);
  for (const name of ["pytorch_model.bin", "training_args.bin", "optimizer.pt", "adapter_model.bin", "model.pkl"]) {
    await write(name, pickle(`echo pickle > ${ran}`));
  }
  await write("chat_template.jinja", "{% include 'other.jinja' %}{% import 'modeling.py' as m %}{{ m.Stranger() }}");
  await write(".env", `DENO_V8_FLAGS=--allow-natives-syntax\nCOMPRESSO_API_KEY=stranger\n`);
}

/** Runs a verb with all rights in the model's folder, as the most careless user does. Returns what it said. */
async function careless(
  folder: string,
  args: readonly string[],
): Promise<{ readonly code: number; readonly said: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", `${ROOT}cli/main.ts`, ...args],
    cwd: folder,
    env: { NO_COLOR: "1" },
    stdin: "null",
  }).output();
  return { code, said: new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr) };
}

Deno.test("no verb runs code of a stranger's model", async (t) => {
  using folder = new TemporaryFolder();
  const model = folder.at("model"), ran = folder.at("ran");
  await strangersModel(model, ran);
  const turn = [{ role: "user", content: "Where?" }, { role: "assistant", content: "in Rome" }];
  const messages = [...turn, ...turn];
  await Deno.writeTextFile(folder.at("chats.jsonl"), `${JSON.stringify({ messages })}\n`.repeat(40));
  await Deno.writeTextFile(folder.at("texts.jsonl"), '{"text": "Tom went to Rome by train."}\n'.repeat(40));
  const before = Array.from(Deno.readDirSync(model), ({ name }) => name).sort();
  const short = ["--steps", "1", "--prefinetune", "0", "--postfinetune", "0", "--batch", "1", "--seq", "16"];
  const commands: readonly (readonly [said: RegExp, args: readonly string[]])[] = [
    [/979,008/, ["inspect", "."]],
    [/^stages/m, ["plan", "."]],
    [/^rows +40/m, ["data", "inspect", "../texts.jsonl", "--model", "."]],
    [/^refused +40 .*include/m, ["data", "inspect", "../chats.jsonl", "--model", "."]],
    [/./, ["generate", ".", "--prompt", "Hello", "--max-tokens", "2", "--no-tuning"]],
    [/perplexity/, ["eval", ".", "--text", "../texts.jsonl", "--window", "32", "--no-tuning"]],
    [/model\.gguf/, ["export", ".", "--out", "../exported"]],
    [
      /model\.gguf/,
      [
        ...["prune", ".", "--data", "../texts.jsonl", "--sparsity", "0.2", ...short, "--no-prompt"],
        ...["--calibration", "none", "--out", "../run", "--no-tuning"],
      ],
    ],
  ];
  for (const [expected, args] of commands) {
    await t.step(args.slice(0, 2).join(" "), async () => {
      const { code, said } = await careless(model, args);
      assert.equal(code, 0, said);
      assert.match(said, expected);
      assert.ok(!folder.has("ran"), `${args.join(" ")} ran code: ${said}`);
    });
  }
  await t.step("the template of its settings, which reaches for code", async () => {
    await Deno.remove(`${model}/chat_template.jinja`);
    const { code, said } = await careless(model, ["data", "inspect", "../chats.jsonl", "--model", "."]);
    assert.ok(!folder.has("ran"), said);
    assert.notEqual(code, 1, said); // the status of a defect
    assert.doesNotMatch(said, /object Deno|subclasses/);
  });
  await t.step("nothing is written into its folder, and none of its code goes into what is made of it", async () => {
    const now = Array.from(Deno.readDirSync(model), ({ name }) => name).sort();
    assert.deepEqual(now, before.filter((name) => name !== "chat_template.jinja"));
    const own = /^(?:modeling|configuration)_compresso\.py$/; // the toolkit's own, for layers that differ
    for (const out of ["exported", "run/model"]) {
      if (!folder.has(...out.split("/"), "config.json")) continue;
      const names = Array.from(Deno.readDirSync(folder.at(...out.split("/"))), ({ name }) => name);
      assert.deepEqual(names.filter((name) => /\.(?:py|ts|js|mjs|sh|bin|pt|pkl)$/.test(name) && !own.test(name)), []);
      const config = await Deno.readTextFile(folder.at(...out.split("/"), "config.json"));
      assert.doesNotMatch(config, /Stranger|trust_remote_code/);
    }
  });
});
