// Runs a shell command on a terminal of its own, by util-linux's script(1).
import { stripVTControlCharacters } from "node:util";
import { ROOT } from "./cli.ts";

/** What a command showed on its terminal. */
export interface Screen {
  /** All bytes as text. */
  readonly raw: string;
  /** The same without control sequences; line ends are "\n". */
  readonly text: string;
  readonly code: number;
}

/** Runs a command in `sh` on a terminal with so many columns. */
export async function screenOf(
  command: string,
  { columns, rows = 40, env = {} }: {
    readonly columns: number;
    readonly rows?: number;
    readonly env?: Readonly<Record<string, string>>;
  },
): Promise<Screen> {
  // Set for a terminal that has no size of its own.
  const inner = `stty cols ${columns} rows ${rows}; ${command}`;
  const { NO_COLOR: _, FORCE_COLOR: __, ...inherited } = Deno.env.toObject();
  const { code, stdout } = await new Deno.Command("script", {
    args: ["-qec", inner, "/dev/null"],
    cwd: ROOT,
    env: { ...inherited, TERM: "xterm-256color", ...env },
    clearEnv: true,
    stdin: "null",
    stdout: "piped",
    stderr: "null",
  }).output();
  const raw = new TextDecoder().decode(stdout);
  return { raw, text: stripVTControlCharacters(raw.replaceAll("\r\n", "\n")), code };
}
