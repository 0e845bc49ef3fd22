// Parses the command line of `deno task bench`.
import { parseArgs } from "node:util";
import { CompressoError } from "../../lib/core/errors.ts";
import type { Scale } from "./cases.ts";

/** Parts of the suite in the order in which they run. */
export const PARTS = ["kernels", "step", "decode", "load", "slice", "growth", "families"] as const;
/** A part of the suite. */
export type Part = typeof PARTS[number];

/** Options with all defaults filled in. */
export interface BenchOptions {
  readonly parts: ReadonlySet<Part>;
  /** GGUF file or folder; null for random weights of SmolLM2's shape. */
  readonly model: string | null;
  readonly scale: Scale;
  readonly peers: boolean;
  /** Only kernels whose group or name contains this. */
  readonly filter: string;
  readonly out: string;
}

/** Text of --help. */
export const HELP = `usage: deno task bench [options]

Measures this machine: kernels, a training step, decoding, files, how time and memory grow, and the step of each family. Prints tables, and writes
bench.json with every repeat, and charts. Other libraries are measured in the same run where they are installed.

  --only PARTS   some of ${PARTS.join(",")}; default: all
  --model PATH   a GGUF file or Hugging Face folder for step, decode, load and slice; default: random weights of SmolLM2-135M's shape
  --quick        small sizes and few repeats
  --no-peers     leaves the other libraries out
  --filter TEXT  only kernels whose group or name contains this, for example "products, 1024 tokens" or f16
  --out DIR      where bench.json and the charts go; default: out/bench
  --help         this text`;

/** Parses arguments; null where help is wanted. Throws `CompressoError("usage")`. */
export function parseOptions(args: readonly string[]): BenchOptions | null {
  const { values } = parse(args);
  if (values.help) return null;
  const names = values.only?.split(",") ?? [...PARTS];
  const parts = PARTS.filter((part) => names.includes(part));
  const unknown = names.filter((name) => !PARTS.some((part) => part === name));
  if (unknown.length > 0 || parts.length === 0) {
    throw new CompressoError("usage", {
      what: "cannot run these parts",
      rule: `--only takes some of ${PARTS.join(",")}`,
      value: unknown.join(",") || "none",
    });
  }
  return {
    parts: new Set(parts),
    model: values.model ?? null,
    scale: values.quick ? "quick" : "full",
    peers: !values["no-peers"],
    filter: values.filter ?? "",
    out: values.out ?? "out/bench",
  };
}

function parse(args: readonly string[]): {
  values: {
    only?: string | undefined;
    model?: string | undefined;
    filter?: string | undefined;
    out?: string | undefined;
    quick?: boolean | undefined;
    "no-peers"?: boolean | undefined;
    help?: boolean | undefined;
  };
} {
  try {
    return parseArgs({
      args: [...args],
      options: {
        only: { type: "string" },
        model: { type: "string" },
        filter: { type: "string" },
        out: { type: "string" },
        quick: { type: "boolean" },
        "no-peers": { type: "boolean" },
        help: { type: "boolean" },
      },
    });
  } catch (error) {
    throw new CompressoError("usage", {
      what: "cannot read the options",
      ...(error instanceof Error ? { value: error.message } : {}),
      fix: "see --help",
    });
  }
}
