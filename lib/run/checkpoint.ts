// Checkpoints of a run: one safetensors file with its identity, and position and arrays of the present state and of the
// states to go back to.
import { digestOf } from "../core/digest.ts";
import { CompressoError, type ErrorParts, option, refusal } from "../core/errors.ts";
import { existing, isObject } from "../core/guards.ts";
import type { RunIdentity } from "../core/identity.ts";
import type { FileSystem } from "../files/system.ts";
import { openSafetensors, type SafetensorsFile } from "../formats/safetensors/read.ts";
import { type SafetensorsItem, writeSafetensors } from "../formats/safetensors/write.ts";
import { isOptimizer, OPTIMIZERS } from "../nn/train/optimizer.ts";
import { changedRates, changesBetween } from "./identity.ts";
import { halvedAnew } from "./options/rates.ts";
import type { RunPosition, RunState, TrainerArrays } from "./contract.ts";

/** A checkpoint in memory. */
export interface Checkpoint extends RunState {
  readonly identity: RunIdentity;
  /** States that the run could go back to, oldest first. */
  readonly kept: readonly RunState[];
}

const VERSION = 1;

/** Before the names of the arrays of {@link Checkpoint.kept}. */
const prefixOf = (index: number): string => `kept.${index}.`;

/** Writes a checkpoint atomically. Arrays with the same numbers, such as those of a state that was just kept, are stored once. */
export async function writeCheckpoint(
  path: string,
  { identity, position, arrays, kept }: Checkpoint,
  { files }: { readonly files: FileSystem },
): Promise<void> {
  const states = [arrays, ...kept.map(({ arrays }) => arrays)];
  const prefixes = ["", ...kept.map((_, index) => prefixOf(index))];
  const digests: Uint8Array[] = [], stored = new Map<string, StoredArray>(), same: Record<string, string> = {};
  for (const [index, own] of states.entries()) {
    for (const item of tensorsOf(prefixes[index] ?? "", own, identity)) {
      const digest = await sha256(item.data()), known = stored.get(digest.toHex());
      digests.push(digest);
      if (known) same[item.name] = known.name;
      else stored.set(digest.toHex(), item);
    }
  }
  const head: Head = { version: VERSION, identity, position, kept: kept.map(({ position }) => position), same };
  const compresso = JSON.stringify(head);
  const metadata = { compresso, sha256: digestOf([await sha256(encoded(compresso)), ...digests]) };
  await writeSafetensors(path, [...stored.values()], { metadata, files });
}

/**
 * Reads a checkpoint. Throws `CompressoError("input")` for a file that is no checkpoint, has another version, or is
 * damaged.
 */
export async function readCheckpoint(
  path: string,
  { files }: { readonly files: FileSystem },
): Promise<Checkpoint> {
  try {
    const file = await openSafetensors(await files.open(path)), text = file.metadata.get("compresso");
    const { identity, position, kept, same } = headOf(text, path);
    const [arrays, ...others] = await Promise.all(
      ["", ...kept.map((_, index) => prefixOf(index))].map((prefix) => arraysOf(file, { prefix, same, identity })),
    );
    if (!arrays) throw broken(path, { value: "no state" });
    if (file.metadata.get("sha256") !== await digestOfAll(text ?? "", [arrays, ...others], identity)) {
      throw broken(path, { rule: "its bytes have the SHA-256 in its header", value: "another SHA-256" });
    }
    const states = kept.flatMap((position, index) => {
      const own = others[index];
      return own ? [{ position, arrays: own }] : [];
    });
    return { identity, position, arrays, kept: states };
  } catch (error) {
    if (!(error instanceof CompressoError) || error.code !== "input") throw error;
    const { rule, value } = error.parts;
    throw broken(path, { rule, value }, error);
  }
}

/**
 * Where the run of a checkpoint stands; its arrays are not read. Throws `CompressoError("input")` for a file that is no
 * checkpoint.
 */
export async function checkpointPosition(
  path: string,
  { files }: { readonly files: FileSystem },
): Promise<RunPosition> {
  const { metadata } = await openSafetensors(await files.open(path));
  return headOf(metadata.get("compresso"), path).position;
}

/**
 * The state from which a run with this identity is resumed: the checkpoint's, with new values for the rates that
 * changed, and a note of all changes.
 *
 * @throws CompressoError("mismatch") for a checkpoint of another run.
 * @throws CompressoError("usage") for names in `mayDiffer` that may not differ.
 */
export function resumedBy(
  found: Checkpoint,
  now: RunIdentity,
  { path, mayDiffer, scheduled }: {
    readonly path: string;
    readonly mayDiffer?: readonly string[] | undefined;
    /** Numbers that the schedule sets at each step that uses them, from a stage on. */
    readonly scheduled: (stage: number) => readonly string[];
  },
): Checkpoint {
  const differences = changesBetween(found.identity, now, { path, mayDiffer }), { step } = found.position;
  const resumed = (state: RunState): RunState =>
    withChanges(withRatesAnew(state, { then: found.identity, now, scheduled }), differences, step);
  return { identity: now, ...resumed(found), kept: found.kept.map(resumed) };
}

/** Adds these changes to a state; an earlier state gets them from its own step on. */
function withChanges({ position, arrays }: RunState, differences: readonly string[], step: number): RunState {
  const { stopped: _stopped, ...plain } = position;
  const changes = [...position.changes ?? [], ...differences.length > 0 ? [{ step, differences }] : []]
    .map((change) => ({ ...change, step: Math.min(change.step, position.step) }));
  return { position: { ...plain, ...(changes.length > 0 ? { changes } : {}) }, arrays };
}

/**
 * A state with changed rates. Rates that options or another schedule changed apply as given; the others stay halved.
 */
function withRatesAnew(
  { position, arrays }: RunState,
  { then, now, scheduled }: {
    readonly then: RunIdentity;
    readonly now: RunIdentity;
    /** Numbers that the schedule sets at each step that uses them, from a stage on. */
    readonly scheduled: (stage: number) => readonly string[];
  },
): RunState {
  const changed = changedRates(then, now), set = scheduled(position.stage);
  const fresh = then.schedule === now.schedule ? changed.filter((name) => !set.includes(name)) : [...changed, ...set];
  return { position: { ...position, ...halvedAnew(position, new Set(fresh)) }, arrays };
}

interface Head {
  readonly version: number;
  readonly identity: RunIdentity;
  readonly position: RunPosition;
  readonly kept: readonly RunPosition[];
  /** Names of arrays that are not stored, each with the name of an equal array that is stored. */
  readonly same: Readonly<Record<string, string>>;
}

/** The run as the header of a checkpoint of this version describes it. */
function headOf(text: string | undefined, path: string): Head {
  if (text === undefined) throw broken(path, { value: "its header describes no run" });
  let head: Head | null = null;
  try {
    head = JSON.parse(text);
  } catch { /* refused below */ }
  if (head?.version === VERSION && Array.isArray(head.kept) && isObject(head.same) && isObject(head.identity)) {
    return head;
  }
  throw broken(path, { value: `format ${head?.version ?? "unknown"}` });
}

/** SHA-256 of the header's text and of all arrays. */
async function digestOfAll(
  text: string,
  states: readonly TrainerArrays[],
  identity: RunIdentity,
): Promise<string> {
  const digests: Uint8Array[] = [];
  // One at a time: each call copies its bytes.
  for (
    const part of [
      encoded(text),
      ...states.flatMap((arrays) => namesOf(identity).map((name) => existing(arrays[name], name))),
    ]
  ) {
    digests.push(await sha256(part));
  }
  return digestOf(digests);
}

async function sha256(part: Uint8Array<ArrayBuffer> | Float32Array<ArrayBuffer>): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", part));
}

function encoded(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(text);
}

/** An array as a tensor. */
interface StoredArray extends SafetensorsItem {
  readonly data: () => Float32Array<ArrayBuffer>;
}

function tensorsOf(prefix: string, arrays: TrainerArrays, identity: RunIdentity): StoredArray[] {
  return namesOf(identity).map((name) => {
    const array = existing(arrays[name], name);
    return { name: prefix + name, dtype: "F32", shape: [array.length], data: () => array };
  });
}

/** Names of the arrays of a run, in the order of the file. */
function namesOf({ optimizer = "adamw", evalEvery = 0 }: RunIdentity): readonly string[] {
  const own = isOptimizer(optimizer) ? OPTIMIZERS[optimizer].arrays : [];
  const best = evalEvery === 0 ? [] : ["best"];
  return ["lora", ...own, "logAlpha", "maskMoments", "constraint", "slots", "written", ...best];
}

async function arraysOf(
  file: SafetensorsFile,
  { prefix, same, identity }: Pick<Head, "same" | "identity"> & { readonly prefix: string },
): Promise<TrainerArrays> {
  const arrays = await Promise.all(
    namesOf(identity).map(async (name) => [name, await file.read(same[prefix + name] ?? prefix + name)] as const),
  );
  return Object.fromEntries(arrays) as TrainerArrays;
}

function broken(
  path: string,
  { rule = `it is a checkpoint of format ${VERSION}`, value }: Pick<ErrorParts, "rule" | "value">,
  cause?: unknown,
): CompressoError {
  const what = `cannot read the checkpoint ${path}`;
  const fix = `start over with ${option("export.replace")}, or choose another folder`;
  return refusal("input", what, { rule, value, fix, cause });
}

/** The error of changed options for a run whose checkpoint does not exist. */
export function noCheckpoint(path: string, mayDiffer: readonly string[]): CompressoError {
  return refusal("usage", `cannot resume with other ${mayDiffer.join(", ")}`, {
    rule: `the checkpoint exists: ${path}`,
    value: "no such file",
    fix: `name the checkpoint of the run, or leave ${option("mayDiffer")} out`,
  });
}
