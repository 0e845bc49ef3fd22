// Every verb but prune doing its work on the demo.
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { exportModel } from "../../mod.ts";
import { openModelFiles } from "../../lib/model/mod.ts";
import { assertNames } from "../refuses.ts";
import { cli, command, copyChatDemo, json, refused, TemporaryFolder } from "./helpers/cli.ts";

const QUESTION =
  "Answer the question.\nStory: Sam met the bee. Tom went to Rome. Eva took the axe. Nina saw five stars. Where is Tom?\n";

Deno.test("doctor --json prints one object with adapter, limits and checks that are right", async () => {
  const report = await json(["doctor"]);
  assert.equal(report.checks.length, 6);
  for (const { largestError, bound } of report.checks) assert.ok(largestError <= bound);
  assert.equal(typeof report.adapter.isCpu, "boolean");
  assert.ok(report.limits.maxStorageBufferBindingSize >= 2 ** 27);
  assert.ok(report.waitMilliseconds > 0);
});

Deno.test("doctor says the same to a reader", async () => {
  const { code, stdout } = await cli(["doctor"]);
  assert.equal(code, 0);
  for (const name of ["product", "q8 weights", "attention"]) assert.match(stdout, new RegExp(`^ +${name} +\\w`, "m"));
  assert.match(stdout, new RegExp(`^deno +${Deno.version.deno}`, "m"));
});

Deno.test("inspect shows a model whose tokenizer cannot be read, and says why", async () => {
  using folder = new TemporaryFolder();
  const { source, tokenizer } = await openModelFiles("demo");
  await exportModel(source, folder.path, { formats: ["gguf"], tokenizer, name: "demo" });
  const path = folder.at("model.gguf"), bytes = Buffer.from(await Deno.readFile(path));
  const at = bytes.indexOf("gpt2", bytes.indexOf("tokenizer.ggml.model"));
  bytes.write("gpt9", at, "latin1");
  await Deno.writeFile(path, bytes);
  const facts = await json(["inspect", path]);
  assert.equal(facts.spec.hidden, source.spec.hidden);
  assertNames(facts.tokenizer.unread, "gpt9");
  assert.match((await cli(["inspect", path])).stdout, /^tokenizer .*gpt9/m);
});

Deno.test("inspect --json tells the demo's shape and inspect draws a bar for each layer", async () => {
  const facts = await json(["inspect", "demo"]);
  assert.equal(facts.format, "hf");
  const { hidden, headDim, layers, vocab } = facts.spec;
  const linear = layers.reduce(
    (sum: number, layer: { heads: number; kvHeads: number; ffn: number }) =>
      sum + hidden * (2 * headDim * (layer.heads + layer.kvHeads) + 3 * layer.ffn),
    0,
  );
  assert.equal(facts.prunable, linear);
  assert.equal(facts.parameters, linear + vocab * hidden + (2 * layers.length + 1) * hidden);
  assert.equal(facts.dtypes.f16, facts.parameters);
  assert.equal(facts.tokenizer.vocab, vocab);
  const text = await cli(["inspect", "demo"]);
  assert.equal(text.stdout.match(/█/g) === null, false);
  assert.equal(text.stdout.match(/^ +\d+ {2}█/gm)?.length, layers.length);
});

Deno.test("generate answers a question of the demo's kind, the same way each time and in --json", async () => {
  const args = ["generate", "demo", "--prompt", QUESTION, "--max-tokens", "8", "--temperature", "0"];
  const plain = await cli(args), { tokens, text } = await json(args);
  assert.equal(plain.code, 0, plain.stderr);
  assert.equal(plain.stdout, "in Rome\n");
  assert.equal(text, "in Rome");
  assert.ok(tokens.length >= 1 && tokens.length <= 8);
});

Deno.test("generate --temperature depends on the seed alone", async () => {
  const draw = async (seed: string): Promise<string> => {
    const args = ["--prompt", "Tom", "--max-tokens", "12", "--temperature", "2"];
    const { code, stdout, stderr } = await cli(["generate", "demo", ...args, "--seed", seed]);
    assert.equal(code, 0, stderr);
    return stdout;
  };
  assert.equal(await draw("7"), await draw("7"));
  assert.notEqual(await draw("7"), await draw("8"));
});

Deno.test("generate reads its prompt from stdin or a file, and ends before a stop string", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("prompt.txt"), `${QUESTION}\n`);
  const args = ["--max-tokens", "8", "--stop", "nowhere", "--stop", "ome"];
  const [piped, filed] = [
    await cli(["generate", "demo", "--prompt", "-", ...args], { input: `${QUESTION}\n` }),
    await cli(["generate", "demo", "--text", folder.at("prompt.txt"), ...args, "--json"]),
  ];
  assert.equal(piped.stdout, "in R\n", piped.stderr);
  const { text, finish } = JSON.parse(filed.stdout);
  assert.deepEqual([text, finish], ["in R", "stop"]);
});

Deno.test("generate --compare answers with both models, and a repetition penalty changes what they say", async () => {
  const args = ["--compare", "demo", "--prompt", QUESTION, "--max-tokens", "8", "--repetition-penalty", "3"];
  const { models: [first, second] } = await json(["generate", "demo", ...args]);
  assert.notEqual(first.text, "in Rome");
  assert.deepEqual([second.text, second.tokens], [first.text, first.tokens]);
  for (const { tokensPerSecond, model } of [first, second]) assert.ok(model === "demo" && tokensPerSecond > 0);
});

Deno.test("generate says that a model ended at its first token, and names --chat for a chat model alone", async () => {
  using folder = new TemporaryFolder();
  const chat = folder.at("chat");
  await copyChatDemo(chat);
  const args = ["--prompt", `${QUESTION}in Rome`, "--max-tokens", "4"];
  for (const more of [[], ["--json"]]) {
    const { code, stderr } = await cli(["generate", chat, "--compare", "demo", ...args, ...more]);
    assert.equal(code, 0, stderr);
    const notes = stderr.split("\n").filter((line) => line.includes("first token"));
    assert.deepEqual(notes.map((line) => [line.includes(chat), line.includes("--chat")]), [[true, true], [
      false,
      false,
    ]]);
  }
  const asked = await cli(["generate", "demo", "--prompt", QUESTION, "--max-tokens", "4"]);
  assert.ok(!asked.stderr.includes("first token"), asked.stderr);
});

Deno.test("generate takes an instruction with --chat, in the prompt style of the model", async () => {
  const { text } = await json(["generate", "demo", "--prompt", QUESTION.trimEnd(), "--chat", "--max-tokens", "8"]);
  assert.equal(text, "in Rome");
});

Deno.test("eval --text prints perplexity and tokens of whole windows only", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), QUESTION.repeat(20));
  const args = ["eval", "demo", "--text", folder.at("text.txt"), "--window", "32"];
  const { perplexity, tokens, windows } = await json([...args, "--limit-chars", "1000"]);
  assert.ok(perplexity > 1 && Number.isFinite(perplexity));
  assert.equal(tokens, windows * 31);
  assert.ok(windows >= 1);
  const plain = await cli(args);
  assert.match(plain.stdout, /^perplexity \d+\.\d+ /);
});

Deno.test("eval of a text shorter than a window is refused", async () => {
  using folder = new TemporaryFolder();
  await Deno.writeTextFile(folder.at("text.txt"), "Tom ran.");
  await refused(["eval", "demo", "--text", folder.at("text.txt"), "--window", "64"], "input", { names: 64 });
});

Deno.test("eval demo scores its held-out rows far above chance", async () => {
  const { accuracy, correct, n } = await json(["eval", "demo", "--limit-rows", "60"]);
  assert.equal(n, 60);
  assert.equal(accuracy, correct / n);
  assert.ok(accuracy > 0.8, `accuracy ${accuracy}, chance is 0.2`);
});

Deno.test("export writes a folder and a GGUF that give the same answers, and refuses to replace them unasked", async () => {
  using folder = new TemporaryFolder();
  const args = ["export", "demo", "--out", folder.at("out"), "--dtype", "f32", "--gguf-dtype", "f16"];
  const { code, stdout, stderr } = await cli(args);
  assert.equal(code, 0, stderr);
  assertNames(stdout, ["transformers", "llama.cpp"]);
  for (const path of [folder.at("out", "model"), folder.at("out", "model.gguf")]) {
    const answer = await cli(["generate", path, "--prompt", QUESTION, "--max-tokens", "8"]);
    assert.equal(answer.stdout, "in Rome\n", answer.stderr);
  }
  await refused(args, "input", { names: "--overwrite" });
  await json([...args, "--overwrite"]);
});

Deno.test("a reader that goes away ends the command without a message", async () => {
  const child = command(["generate", "demo", "--prompt", "Tom", "--max-tokens", "400", "--temperature", "3"]).spawn();
  const reader = child.stdout.getReader();
  await reader.read();
  await reader.cancel();
  const [status, stderr] = await Promise.all([child.status, new Response(child.stderr).text()]);
  assert.ok([0, 141].includes(status.code), `${status.code}: ${stderr}`);
  assert.equal(stderr, "");
});
