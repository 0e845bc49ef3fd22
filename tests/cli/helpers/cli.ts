// Runs the command line as a user does, in a separate process, with temporary folders and broken models.
import { fromFileUrl, join } from "./paths.ts";

/** Root of the repository. */
export const ROOT: string = fromFileUrl("../../../");

/** What a finished command left. */
export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line to its end, with a text on stdin if there is one. */
export async function cli(
  args: readonly string[],
  options: { readonly env?: Readonly<Record<string, string>>; readonly input?: string | Uint8Array<ArrayBuffer> } = {},
): Promise<CliResult> {
  const { env, input } = options;
  if (input === undefined) return readResult(await command(args, { env }).output());
  const child = command(args, { env, stdin: "piped" }).spawn();
  // Whoever refuses its arguments does not read.
  const written = new Blob([input]).stream().pipeTo(child.stdin).catch(() => {});
  const output = await child.output();
  await written;
  return readResult(output);
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
