// Runs the command line within this process or as a process, with temporary folders and broken models.
import "../../pooled_gpu.ts";
import assert from "node:assert/strict";
import { main } from "../../../cli/main.ts";
import type { ErrorJson } from "../../../cli/terminal/error.ts";
import type { ErrorCode } from "../../../lib/core/errors.ts";
import { assertNames, type Refusal } from "../../refuses.ts";
import { fromFileUrl, join } from "./paths.ts";
import { withStreams } from "./streams.ts";

/** Root of the repository. */
export const ROOT: string = fromFileUrl("../../../");

/** What a finished command left. */
export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What a command is given besides its words. */
interface Given {
  /** Variables of its environment. */
  readonly env?: Readonly<Record<string, string>>;
  /** What comes on stdin. Default: nothing. */
  readonly input?: string | Uint8Array<ArrayBuffer>;
}

/**
 * Runs the command line to its end within this process, in the folder that the tests run in. Its streams are pipes.
 * Signals, rights and terminals need a process: see {@link cliProcess}. A command with an environment is run by it too.
 */
export async function cli(args: readonly string[], options: Given = {}): Promise<CliResult> {
  if (options.env !== undefined) return await cliProcess(args, options);
  const { result: code, stdout, stderr } = await withStreams(options.input ?? "", () => main(args));
  return { code, stdout, stderr };
}

/** Runs the command line to its end as a process, as a user does. */
export async function cliProcess(args: readonly string[], { env, input }: Given = {}): Promise<CliResult> {
  if (input === undefined) return readResult(await command(args, { env }).output());
  const child = command(args, { env, stdin: "piped" }).spawn();
  // Whoever refuses its arguments does not read.
  const written = new Blob([input]).stream().pipeTo(child.stdin).catch(() => {});
  const output = await child.output();
  await written;
  return readResult(output);
}

/** Runs a command that has to work, and returns the JSON that it prints. */
export async function json(args: readonly string[], options: Given = {}): Promise<ReturnType<typeof JSON.parse>> {
  const { code, stdout, stderr } = await cli([...args, "--json"], options);
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
}

/** Asserts that a command finds its run finished: it prints the summary that is there, and writes nothing. */
export async function assertFinished(args: readonly string[], out: string): Promise<void> {
  const path = `${out}/run.json`, before = await Deno.stat(path), summary = await json(args);
  assert.deepEqual(summary, JSON.parse(await Deno.readTextFile(path)));
  const { mtime, ino } = await Deno.stat(path);
  assert.deepEqual([mtime, ino], [before.mtime, before.ino], "run.json was written again");
}

/** Exit status of each code of an error. */
const STATUS: Readonly<Record<ErrorCode, number>> = {
  usage: 2,
  input: 3,
  gpu: 4,
  numeric: 5,
  mismatch: 6,
  aborted: 130,
};

/** Asserts that a command is refused with one error: its status, its data, an empty stdout. Options are named by their flags. */
export async function refused(
  args: readonly string[],
  code: ErrorCode,
  { input, env, ...expected }: Refusal & Given = {},
): Promise<ErrorJson> {
  const given = { ...(input === undefined ? {} : { input }), ...(env === undefined ? {} : { env }) };
  const end = args.indexOf("--"), at = end < 0 ? args.length : end;
  return checkRefused(await cli(args.toSpliced(at, 0, "--json"), given), code, expected);
}

/** The same of a command with `--json` that has ended. */
export function checkRefused(
  { code: status, stdout, stderr }: CliResult,
  code: ErrorCode,
  { option, value, names }: Refusal = {},
): ErrorJson {
  assert.equal(status, STATUS[code], stderr);
  assert.equal(stdout, "");
  const lines = stderr.trimEnd().split("\n"), errors = lines.filter((line) => line.startsWith('{"error":'));
  assert.equal(errors.length, 1, stderr);
  const error: ErrorJson = JSON.parse(errors[0] ?? "").error;
  assert.deepEqual([error.code, error.exitStatus], [code, status], stderr);
  if (option !== undefined) assert.equal(error.option, option, stderr);
  assertNames(error.got ?? "", value, stderr);
  assertNames(Object.values(error).join("\n"), names, stderr);
  return error;
}

function readResult({ code, stdout, stderr }: Deno.CommandOutput): CliResult {
  return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
}

/** A command that is not started yet; its output is piped. */
export function command(
  args: readonly string[],
  { env = {}, stdin = "null" }: {
    readonly env?: Readonly<Record<string, string>> | undefined;
    readonly stdin?: "null" | "piped";
  } = {},
): Deno.Command {
  return new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "cli/main.ts", ...args],
    cwd: ROOT,
    env: { NO_COLOR: "1", ...env },
    stdin,
    stdout: "piped",
    stderr: "piped",
  });
}

/** A folder that is removed when disposed. */
export class TemporaryFolder implements Disposable {
  readonly path: string = Deno.makeTempDirSync({ prefix: "compresso_cli_" });

  /** Path of something in the folder. */
  at(...names: readonly string[]): string {
    return join(this.path, ...names);
  }

  /** Whether something stands there. */
  has(...names: readonly string[]): boolean {
    try {
      Deno.lstatSync(this.at(...names));
      return true;
    } catch {
      return false;
    }
  }

  [Symbol.dispose](): void {
    Deno.removeSync(this.path, { recursive: true });
  }
}

/** Copies the demo model to a folder, its weight file changed by `change`. */
export async function copyDemo(
  folder: string,
  change: (weights: Uint8Array) => Uint8Array = (same) => same,
): Promise<void> {
  const from = join(ROOT, "fixtures", "demo");
  await Deno.mkdir(folder, { recursive: true });
  for await (const { name } of Deno.readDir(from)) {
    const bytes = await Deno.readFile(join(from, name));
    await Deno.writeFile(join(folder, name), name === "model.safetensors" ? change(bytes) : bytes);
  }
}

/** Copies the demo model to a folder, with a chat template. */
export async function copyChatDemo(folder: string): Promise<void> {
  await copyDemo(folder);
  const path = join(folder, "tokenizer_config.json"), config = JSON.parse(await Deno.readTextFile(path));
  const chat_template = "{% for one in messages %}{{ one.content }}{% endfor %}";
  await Deno.writeTextFile(path, JSON.stringify({ ...config, chat_template }));
}
