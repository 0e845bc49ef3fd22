// A prune run as the command line drives it: what stands in --out, progress, Ctrl-C, the report. Owns those; refuses options' parsing.
import { join } from "node:path";
import { CompressoError } from "../lib/errors.ts";
import { readRows } from "../lib/io/datasets.ts";
import { DEMO, demoData } from "../lib/io/open_model.ts";
import { COLLABORATIVE_PROMPT } from "../lib/io/prompts.ts";
import type { Projection } from "../lib/nn/spec.ts";
import type { UnitKind } from "../lib/prune/units.ts";
import type { Layout } from "../lib/run/options.ts";
import { compress, type CompressResult } from "../lib/run/pipeline.ts";
import { PROGRAM } from "./command.ts";
import { exportLines, skippedLines } from "./export.ts";
import type { DTYPES, GGUF_DTYPES } from "./formats.ts";
import { formatBytes, formatCount, formatShare, print, printJson } from "./output.ts";
import { duration, type Progress } from "./progress.ts";
import { type ModelSettings, withModel } from "./with_model.ts";

/** Options of the verb, as parsed. */
export interface PruneSettings extends ModelSettings {
  readonly out: string;
  readonly data?: string | undefined;
  readonly sparsity: number;
  readonly steps: number;
  readonly prefinetune?: number | undefined;
  readonly postfinetune?: number | undefined;
  readonly batch: number;
  readonly seq: number;
  readonly seed: number;
  readonly units: readonly UnitKind[];
  readonly prompt: boolean;
  readonly rank: number;
  readonly alpha: number;
  readonly targets: readonly Projection[];
  readonly dropout: number;
  readonly loraRate: number;
  readonly layout: Layout;
  readonly dtype: typeof DTYPES[number];
  readonly ggufDtype: typeof GGUF_DTYPES[number];
  readonly checkpointEvery: number;
  readonly resume?: true | undefined;
  readonly overwrite?: true | undefined;
  readonly json?: true | undefined;
}
