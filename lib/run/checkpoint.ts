// Checkpoints of a prune run: one safetensors file, written atomically. Owns the format and the comparison with a new run; refuses to decide when.
import { CompressoError } from "../errors.ts";
import { openSafetensors } from "../io/safetensors.ts";
import { writeSafetensors } from "../io/safetensors_write.ts";
import type { BatchCursor } from "./batches.ts";
import type { RecordView } from "../prune/schedule_script.ts";
import type { TrainerArrays } from "./trainer.ts";

/** What a run is, by name: two runs with the same identity go through the same states. */
export type RunIdentity = Readonly<Record<string, string | number | boolean | null>>;

/** Where a run stands. */
export interface RunPosition {
  /** Index of the stage, and steps done in it and in all. */
  readonly stage: number;
  readonly stageStep: number;
  readonly step: number;
  readonly loraUpdates: number;
  readonly maskUpdates: number;
  readonly cursor: BatchCursor;
  /** Lines of the records so far. */
  readonly records: number;
  /** Expected sparsity at the end of the pruning stage; null before. */
  readonly expected: number | null;
  /** Sparsity that the last step of the pruning stage aimed at; null before. */
  readonly target: number | null;
  /** What it aimed at in single layers. */
  readonly layerTargets: readonly (number | null)[] | null;
  /** Steps that a schedule left out by ending the pruning stage. */
  readonly leftOut: number;
  /** The last records, oldest first, as far as a schedule sees them. */
  readonly recent: readonly RecordView[];
  /** Seconds spent so far, by stage. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Tokens seen so far, padding left out. */
  readonly tokens: number;
}

/** A checkpoint in memory. */
export interface Checkpoint {
  readonly identity: RunIdentity;
  readonly position: RunPosition;
  readonly arrays: TrainerArrays;
}

const VERSION = 2;
const FIELDS = ["lora", "loraM", "loraV", "logAlpha", "maskMoments", "constraint", "slots"] as const;

/** Writes a checkpoint: temporary file, fsync, rename. */
export async function writeCheckpoint(path: string, { identity, position, arrays }: Checkpoint): Promise<void> {
  await writeSafetensors(
    path,
    FIELDS.map((name) => ({ name, dtype: "F32", shape: [arrays[name].length], data: () => arrays[name] })),
    { metadata: { compresso: JSON.stringify({ version: VERSION, identity, position }) } },
  );
}

/** Reads a checkpoint and refuses one of another run. Throws `CompressoError("mismatch")` that lists what differs. */
export async function readCheckpoint(
  path: string,
  { identity, mayDiffer = [] }: { readonly identity: RunIdentity; readonly mayDiffer?: readonly string[] | undefined },
): Promise<Checkpoint> {
  const file = await openSafetensors(path);
  const meta = parseMeta(file.metadata.get("compresso"), path);
  const names = [...new Set([...Object.keys(identity), ...Object.keys(meta.identity)])];
  const differing = names.filter((name) => identity[name] !== meta.identity[name] && !mayDiffer.includes(name));
  if (differing.length > 0) {
    throw new CompressoError("mismatch", {
      what: `cannot resume from ${path}`,
      rule: "options, data, model and adapter are those of the first run",
      value: differing.map((name) => `${name}: ${meta.identity[name]} then, ${identity[name]} now`).join("; "),
      mend: "give the same options, or another --out",
    });
  }
  const [lora, loraM, loraV, logAlpha, maskMoments, constraint, slots] = await Promise.all(
    FIELDS.map((name) => file.read(name)),
  );
  if (!lora || !loraM || !loraV || !logAlpha || !maskMoments || !constraint || !slots) throw broken(path);
  return {
    identity,
    position: meta.position,
    arrays: { lora, loraM, loraV, logAlpha, maskMoments, constraint, slots },
  };
}

function parseMeta(text: string | undefined, path: string): { identity: RunIdentity; position: RunPosition } {
  if (text === undefined) throw broken(path);
  const meta: { version?: number; identity?: RunIdentity; position?: RunPosition } = JSON.parse(text);
  if (meta.version !== VERSION || !meta.identity || !meta.position) throw broken(path);
  return { identity: meta.identity, position: meta.position };
}

function broken(path: string): CompressoError {
  return new CompressoError("input", {
    what: `cannot read the checkpoint ${path}`,
    rule: `it is a checkpoint of format ${VERSION}`,
    mend: "start anew without --resume",
  });
}
