// Checkpoints of a prune run: one safetensors file, written atomically. Owns the format and the comparison with a new run; refuses to decide when.
import { halvedAnew } from "./options/rates.ts";
import { differencesOf, type RunIdentity } from "../core/identity.ts";
import { createHash } from "node:crypto";
import { CompressoError, type ErrorParts } from "../core/errors.ts";
import { disk } from "../files/disk.ts";
import { openSafetensors, type SafetensorsFile } from "../formats/safetensors/read.ts";
import { type SafetensorsItem, writeSafetensors } from "../formats/safetensors/write.ts";
import { z } from "../core/packages.ts";
import { changedRates, idleFacts, membersOf, pastDifferences } from "./facts.ts";
import type { RunPosition, RunState, TrainerArrays } from "./contract.ts";

/** A checkpoint in memory. */
export interface Checkpoint extends RunState {
  readonly identity: RunIdentity;
  /** States that the run could go back to, oldest first. */
  readonly kept: readonly RunState[];
}

const VERSION = 7;
const FIELDS = ["lora", "loraM", "loraV", "logAlpha", "maskMoments", "constraint", "slots", "written"] as const;

/** Options that an identity leaves out where they make no difference. */
const UNNAMED = ["calibration", "keptMasks", "lambdaRule", "focus", "recompute", "monitors"];

/** Before the names of the arrays of {@link Checkpoint.kept}. */
const prefixOf = (index: number): string => `kept.${index}.`;

/** Writes a checkpoint: temporary file, fsync, rename. */
export async function writeCheckpoint(
  path: string,
  { identity, position, arrays, kept }: Checkpoint,
): Promise<void> {
  const compresso = JSON.stringify({
    version: VERSION,
    identity,
    position,
    kept: kept.map(({ position }) => position),
  });
  await writeSafetensors(
    path,
    [...tensorsOf("", arrays), ...kept.flatMap((state, index) => tensorsOf(prefixOf(index), state.arrays))],
    {
      files: disk,
      metadata: { compresso, sha256: digestOf(compresso, [arrays, ...kept.map(({ arrays }) => arrays)]) },
    },
  );
}

/**
 * Reads a checkpoint and refuses one of another run. Throws `CompressoError("mismatch")` that lists what differs, "usage" for a name in `mayDiffer` that is none, and "input" for a file that is
 * none, or not as it was written.
 */
export async function readCheckpoint(
  path: string,
  { identity, mayDiffer = [], scheduled = () => [] }: {
    readonly identity: RunIdentity;
    readonly mayDiffer?: readonly string[] | undefined;
    /** Numbers that the run's schedule sets at each step that uses them, from a stage on. */
    readonly scheduled?: ((stage: number) => readonly string[]) | undefined;
  },
): Promise<Checkpoint> {
  const { meta, states: [arrays, ...others] } = await readWhole(path);
  const names = [...new Set([...Object.keys(identity), ...Object.keys(meta.identity)])];
  const unknown = mayDiffer.find((name) => !names.includes(name) && !UNNAMED.includes(name));
  if (unknown !== undefined) {
    throw new CompressoError("usage", {
      what: `cannot resume from ${path}`,
      rule: `what may differ is among ${names.join(", ")}`,
      value: unknown,
      fix: "name some of these, or leave it out",
    });
  }
  const changed = changedBetween(meta.identity, identity), idle = idleFacts(identity.method);
  const may = (name: string): boolean => mayDiffer.includes(name), both = [meta.identity, identity];
  const isCalibrated = both.map(({ calibration }) => calibration !== undefined);
  // Facts that follow from others: from this rate, of runs of one layout and units; from calibration, of learned masks; from a size, where both have one.
  const isFree = (name: string): boolean =>
    may(name) || (name === "learning" && changed.has("tracking")) ||
    (name === "scoring" && identity.method === "compresso" && may("calibration") &&
      isCalibrated[0] !== isCalibrated[1]) ||
    (name === "sparsity" && may("size") && both.every(({ size }) => size !== "null"));
  // What the run was told of numbers that a schedule sets from now on makes no difference.
  const led = scheduled(meta.position.stage);
  const overruled = may("schedule") ? [["focus", "focus"], ["dropout", "lora.dropout"]] as const : [];
  const free = [...idle, ...overruled.filter(([name]) => led.includes(name)).map(([, fact]) => fact)];
  const lines = new Map(
    names.map((name) =>
      [name, differencesOf(parsed(meta.identity, name), parsed(identity, name), { idle: free })] as const
    )
      .filter(([, differences]) => differences.length > 0),
  );
  const stuck = arrays?.maskMoments.some((value) => value !== 0)
    ? ["spread", "prior"].find((name) => changed.has(name))
    : undefined;
  const differing = [...lines.keys()].filter((name) => !isFree(name));
  if (differing.length > 0) {
    throw new CompressoError("mismatch", {
      what: `cannot resume from ${path}`,
      rule: "options, data, model and adapter are those of the first run",
      value: differing.flatMap((name) => lines.get(name) ?? []).join("; "),
      fix: stuck === undefined && differing.every((name) => ["schedule", "rates"].includes(name))
        ? `give the same options, or another --out, or go on with the others by --may-differ ${differing.join(",")}`
        : "give the same options, or another --out",
    });
  }
  if (!arrays) throw broken(path);
  if (stuck !== undefined) {
    throw new CompressoError("mismatch", {
      what: `cannot resume from ${path}`,
      rule: `the rate '${stuck}' says how masks start, and they have started`,
      value: differencesOf(parsed(meta.identity, "rates"), parsed(identity, "rates")).join("; "),
      fix: "give it as it was, or another --out",
    });
  }
  const past = pastDifferences(meta.identity, identity, meta.position);
  if (past.length > 0) {
    throw new CompressoError("mismatch", {
      what: `cannot resume from ${path}`,
      rule: "what may differ is yet to come",
      value: past.join("; "),
      fix: "give the same as in what is over, or another --out",
    });
  }
  const isLast = meta.position.stage > 1,
    isLed = (name: string): boolean =>
      led.includes(name) || (isLast && name === "lora" && led.includes("postfinetune"));
  if (changed.size > 0 && [...changed].every(isLed)) {
    throw new CompressoError("mismatch", {
      what: `cannot resume from ${path}`,
      rule: "rates that may differ are used by a step to come, and not set by the schedule at each of these",
      value: [...changed].map((name) => `rates.${name}`).join(", "),
      fix: "leave them as they were, or change the schedule (--may-differ schedule)",
    });
  }
  // What another schedule sets is given anew as well; what the same one sets is as it was, whatever the run's own rates are.
  const anew = (stage: number): ReadonlySet<string> =>
    meta.identity.schedule === identity.schedule
      ? new Set([...changed].filter((name) => !scheduled(stage).includes(name)))
      : new Set([...changed, ...scheduled(stage)]);
  const differences = [...lines.values()].flat();
  const changes = [
    ...meta.position.changes ?? [],
    ...differences.length > 0 ? [{ step: meta.position.step, differences }] : [],
  ];
  // A state from before goes on otherwise from itself on.
  const changesAt = ({ step }: RunPosition): Pick<RunPosition, "changes"> =>
    changes.length === 0 ? {} : { changes: changes.map((one) => ({ ...one, step: Math.min(one.step, step) })) };
  const stateOf = ({ stopped: _stopped, ...position }: RunPosition, arrays: TrainerArrays): RunState => ({
    position: { ...position, ...halvedAnew(position, anew(position.stage)), ...changesAt(position) },
    arrays,
  });
  const kept = meta.kept.flatMap((position, index) => {
    const arrays = others[index];
    return arrays ? [stateOf(position, arrays)] : [];
  });
  return { identity, ...stateOf(meta.position, arrays), kept };
}

/** Names of rates that are others now. */
function changedBetween({ rates: then }: RunIdentity, { rates: now }: RunIdentity): ReadonlySet<string> {
  return typeof then === "string" && typeof now === "string" ? changedRates(then, now) : new Set();
}

/** A fact by its name; one that is written as JSON by its members, whose order decides nothing. */
function parsed(identity: RunIdentity, name: string): Readonly<Record<string, unknown>> {
  return { [name]: membersOf(identity[name]) };
}

/** What the file holds, whatever run it is of. */
async function readWhole(path: string): Promise<{ readonly meta: Meta; readonly states: readonly TrainerArrays[] }> {
  try {
    const file = await openSafetensors(await disk.open(path)), text = file.metadata.get("compresso");
    const meta = parseMeta(text, path);
    const states = await Promise.all(["", ...meta.kept.map((_, index) => prefixOf(index))].map(
      (prefix) => arraysOf(file, prefix, path),
    ));
    if (file.metadata.get("sha256") !== digestOf(text ?? "", states)) {
      throw broken(path, { rule: "its bytes are those that were written", value: "they have another SHA-256" });
    }
    return { meta, states };
  } catch (error) {
    if (!(error instanceof CompressoError) || error.code !== "input") throw error;
    // That it be fetched again, as of a file of others, does not fix it.
    const { rule, value } = error.parts;
    throw broken(path, { ...(rule ? { rule } : {}), ...(value ? { value } : {}) }, error);
  }
}

/** Of the text that says where the run stands, and of all arrays. */
function digestOf(text: string, states: readonly TrainerArrays[]): string {
  const hash = createHash("sha256").update(text);
  for (const arrays of states) for (const name of FIELDS) hash.update(arrays[name]);
  return hash.digest("hex");
}

function tensorsOf(prefix: string, arrays: TrainerArrays): SafetensorsItem[] {
  return FIELDS.map((name) => ({
    name: prefix + name,
    dtype: "F32",
    shape: [arrays[name].length],
    data: () => arrays[name],
  }));
}

async function arraysOf(file: SafetensorsFile, prefix: string, path: string): Promise<TrainerArrays> {
  const [lora, loraM, loraV, logAlpha, maskMoments, constraint, slots, written] = await Promise.all(
    FIELDS.map((name) => file.read(prefix + name)),
  );
  if (!lora || !loraM || !loraV || !logAlpha || !maskMoments || !constraint || !slots || !written) throw broken(path);
  return { lora, loraM, loraV, logAlpha, maskMoments, constraint, slots, written };
}

/**
 * Refuses to resume with calibration what began without, as {@link readCheckpoint} would once the calibration is there: the model may be about to write it.
 */
export async function checkCalibrated(
  path: string,
  { mayDiffer = [] }: { readonly mayDiffer?: readonly string[] },
): Promise<void> {
  const { meta: { identity } } = await readWhole(path);
  if (identity.calibration !== undefined || mayDiffer.includes("calibration")) return;
  throw new CompressoError("mismatch", {
    what: `cannot resume from ${path}`,
    rule: "options, data, model and adapter are those of the first run",
    value: "calibration: not given then, texts that the model writes itself now",
    fix: "leave the calibration out (--calibration none), or give another --out",
  });
}

interface Meta {
  readonly identity: RunIdentity;
  readonly position: RunPosition;
  readonly kept: readonly RunPosition[];
}

function parseMeta(text: string | undefined, path: string): Meta {
  if (text === undefined) throw broken(path, { value: "nothing of a run in its header" });
  let found: Partial<Meta> & { readonly version?: number } | null;
  try {
    found = JSON.parse(text);
  } catch (error) {
    throw broken(path, { value: error instanceof Error ? error.message : String(error) }, error);
  }
  const { version, identity, position, kept } = found ?? {};
  if (version !== VERSION || !IDENTITY.safeParse(identity).success || !identity || !position || !kept) {
    throw broken(path, version === VERSION ? MISSING : { value: `format ${version ?? "unknown"}` });
  }
  const { error } = z.array(POSITION).safeParse([position, ...Array.isArray(kept) ? kept : [kept]]);
  if (!error) return { identity, position, kept };
  const [issue] = error.issues;
  throw broken(path, { value: `${issue?.path.slice(1).join(".")}: ${issue?.message}` });
}

const IDENTITY = z.record(z.string(), z.union([z.string(), z.number(), z.boolean(), z.null()]));
const COUNT = z.int().min(0);
const ALARM = z.looseObject({ monitor: z.string(), step: COUNT, action: z.string(), message: z.string() });

/** As far as a run would fail at it; a number that was not finite is null in JSON. */
const POSITION = z.looseObject({
  stage: COUNT,
  stageStep: COUNT,
  step: COUNT,
  loraUpdates: COUNT,
  maskUpdates: COUNT,
  cursor: z.looseObject({ epoch: COUNT, index: COUNT }),
  records: COUNT,
  expected: z.number().nullable(),
  target: z.number().nullable(),
  layerTargets: z.array(z.number().nullable()).nullable(),
  begun: z.enum(["stage", "step", "hard"]).nullable(),
  seen: z.array(z.looseObject({ heads: z.number().nullable(), ffn: z.number().nullable() })).nullable(),
  leftOut: COUNT,
  leftOutside: z.record(z.string(), COUNT).optional(),
  recent: z.array(z.looseObject({ stage: z.string(), step: COUNT })),
  seconds: z.record(z.string(), z.number()),
  tokens: COUNT,
  aim: z.looseObject({ temperature: z.number(), noise: z.number(), isWarm: z.boolean(), isBound: z.boolean() })
    .nullable(),
  halvings: COUNT,
  halvedBefore: z.record(z.string(), COUNT).optional(),
  alarms: z.array(ALARM),
  unsaid: z.array(ALARM),
  stopped: z.array(ALARM).optional(),
  looked: COUNT,
  changes: z.array(z.looseObject({ step: COUNT, differences: z.array(z.string()) })).optional(),
  monitors: z.looseObject({
    active: z.array(z.string()),
    losses: z.looseObject({ last: z.array(z.number().nullable()) }),
    masks: z.looseObject({}).nullable(),
    isLoose: z.boolean(),
  }),
});

const MISSING = { value: "parts of it are missing" };

function broken(
  path: string,
  { rule = `it is a checkpoint of format ${VERSION}`, ...found }: Pick<ErrorParts, "rule" | "value"> = MISSING,
  cause?: unknown,
): CompressoError {
  const what = `cannot read the checkpoint ${path}`;
  const fix = "start anew with --overwrite, or in an experiment with --redo";
  return new CompressoError("input", { what, rule, ...found, fix }, { cause });
}
