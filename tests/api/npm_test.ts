// The npm package, as scripts/npm/pack.sh builds it, on a PATH with Node.js and no Deno. Deno is the one that npm has installed here.
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import config from "../../deno.json" with { type: "json" };
import { FakeHub } from "../hub/fake_hub.ts";
import { demoFiles } from "../hub/helpers.ts";
import { ROOT } from "./checkout.ts";

/** A program on the PATH; null where it is not there. */
async function which(name: string): Promise<string | null> {
  const { stdout } = await new Deno.Command("/bin/sh", { args: ["-c", `command -v ${name}`] }).output();
  return new TextDecoder().decode(stdout).trim() || null;
}

/** The folder of npm's package `deno`, where this process is its program; else null. */
function denoPackage(): string | null {
  const folder = dirname(Deno.realPathSync(Deno.execPath()));
  return existsSync(join(folder, "install_api.cjs")) ? folder : null;
}

const isUnix = Deno.build.os !== "windows";
const [node, npm] = isUnix ? [await which("node"), await which("npm")] : [null, null];
const deno = denoPackage();
const canRun = node !== null && npm !== null && deno !== null;

/** A program that imports the package. Old versions of Node.js read its syntax, too. */
const PROGRAM = `
import { CompressoError, demoData, loadModel, openDevice, prune, readRows } from "compresso";
import { openModelFiles } from "compresso/model";
import { openSchedule } from "compresso/schedule";
const { rows } = await readRows(demoData("train"), { limit: 20 });
const { source } = await openModelFiles("demo");
console.log(rows.length, source.spec.layers.length);
try {
  const device = await openDevice(), model = await loadModel("demo", { device });
  const run = prune(model, {
    ...{ rows, sparsity: 0.2, steps: 1, prefinetune: 0, postfinetune: 0 },
    ...{ batch: 1, seq: 16, prompt: null },
  });
  for await (const { step } of run) console.log(step);
  console.log((await run.slice()).parameters.after < 979_008);
  for (const part of [run, model, device]) part[Symbol.dispose]();
} catch (error) {
  if (!(error instanceof CompressoError)) throw error;
  console.log(error.code, error.parts.option);
  await openSchedule("program.ts").catch(({ code }) => console.log(code));
}
`;

/** The program by a folder's package: in Deno with its types, in Node.js as it is. */
async function useLibrary(folder: string, node: string): Promise<void> {
  const run = async (program: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> => {
    const { code, stdout, stderr } = await new Deno.Command(program, { args, cwd: folder, env: { NO_COLOR: "1" } })
      .output();
    return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
  };
  await Deno.writeTextFile(join(folder, "package.json"), '{"type": "module", "dependencies": {"compresso": "*"}}');
  await Deno.writeTextFile(join(folder, "program.ts"), PROGRAM);
  await Deno.writeTextFile(join(folder, "program.js"), PROGRAM);
  const inDeno = await run(
    Deno.execPath(),
    "run",
    "--check",
    "--no-lock",
    "--node-modules-dir=manual",
    "-A",
    "program.ts",
  );
  assert.deepEqual([inDeno.stdout, inDeno.code], ["20 5\n1\ntrue\n", 0], inDeno.stderr);
  const { stdout: version } = await run(node, "--version"), inNode = await run(node, "program.js");
  // Before version 25 it lacks functions of JavaScript, and one line says so. Later ones have no WebGPU without a package.
  if (Number.parseInt(version.slice(1)) < 25) {
    assert.equal(inNode.code, 1);
    assert.match(inNode.stderr, new RegExp(`Error: compresso: .*Node\\.js ${version.slice(1).trim()}`));
  } else assert.deepEqual([inNode.stdout, inNode.code], ["20 5\ngpu gpu\nusage\n", 0], inNode.stderr);
}

Deno.test({
  name: canRun
    ? "the npm package runs with Node.js alone, with the rights of each verb, and is a library for Deno and Node.js"
    : "the npm package: skipped, for there is no npm, or Deno is not from npm",
  ignore: !canRun,
  fn: async () => {
    const folder = await Deno.makeTempDir({ prefix: "compresso_npm_" });
    await using hub = new FakeHub();
    hub.add("models/maker/demo", demoFiles());
    // The storage of a Hub that is not the public one.
    const flags = `--allow-net=${new URL(hub.storeUrl).host}`,
      hubEnv = { HF_ENDPOINT: hub.url, COMPRESSO_DENO_FLAGS: flags };
    try {
      const packed = await new Deno.Command("bash", { args: ["scripts/npm/pack.sh", folder], cwd: ROOT }).output();
      assert.ok(packed.success, new TextDecoder().decode(packed.stderr));
      const tarball = join(folder, `compresso-${config.version}.tgz`), modules = join(folder, "lib", "node_modules");
      await Deno.mkdir(modules, { recursive: true });
      const unpacked = await new Deno.Command("tar", { args: ["-xzf", tarball, "-C", modules] }).output();
      assert.ok(unpacked.success, new TextDecoder().decode(unpacked.stderr));
      const installed = join(modules, "compresso");
      await Deno.rename(join(modules, "package"), installed);
      await useLibrary(join(folder, "lib"), node ?? "");
      await Deno.symlink(deno ?? "", join(installed, "node_modules", "deno"));
      await Deno.mkdir(join(folder, "bin"));
      await Deno.symlink(node ?? "", join(folder, "bin", "node"));
      await Deno.symlink(join(installed, "bin", "compresso.cjs"), join(folder, "bin", "compresso"));
      const run = async (...args: string[]): Promise<string> => {
        const { code, stdout, stderr } = await new Deno.Command(join(folder, "bin", "node"), {
          args: [join(folder, "bin", "compresso"), ...args],
          cwd: folder,
          clearEnv: true,
          env: { PATH: join(folder, "bin"), HOME: folder, NO_COLOR: "1", ...hubEnv },
        }).output();
        assert.equal(code, 0, `${args.join(" ")}\n${new TextDecoder().decode(stderr)}`);
        return new TextDecoder().decode(stdout);
      };
      assert.equal(await run("--version"), `${config.version}\n`);
      assert.match(await run("export", "--help"), /^ {2}compresso export /m);
      assert.match(await run("inspect", "demo"), /979,008/);
      assert.ok((await run("generate", "demo", "--prompt", "Tom", "--max-tokens", "2", "--no-tuning")) !== "");
      const script = join(ROOT, "scripts", "examples", "early_stop.ts");
      await run("schedule", "preview", script, "--steps", "4", "--svg", "curve.svg");
      await run("export", "demo", "--out", "exported");
      assert.match(await run("inspect", "hf:maker/demo:config.json"), /979,008/);
      assert.ok(!existsSync(join(folder, ".cache", "huggingface")));
      const options = ["--prompt", "Tom", "--max-tokens", "2", "--no-tuning"];
      assert.ok((await run("generate", "hf:maker/demo", ...options)) !== "");
      assert.ok(existsSync(join(folder, ".cache", "huggingface", "hub", "models--maker--demo")));
      assert.ok(existsSync(join(folder, "curve.svg")) && existsSync(join(folder, "exported", "model.gguf")));
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  },
});
