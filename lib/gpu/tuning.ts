// Which variant of a kernel is quickest for which work, by device, and the table as text.
import { isObject } from "../core/guards.ts";
import type { Device } from "./device.ts";

/** Names of variants by names of work; what is not in it runs with the default. */
export type Tuning = Map<string, string>;

/** What a table was measured on. A table of another machine or of other kernels is no good. */
export interface TuningIdentity {
  /** The adapter as WebGPU names it, which need not tell its driver, and the runtime, whose version decides how WGSL is translated. */
  readonly adapter: string;
  /** Digest of the kernels that were compared. */
  readonly kernels: string;
}

/** A table that fits, or why there is none; foreign is what no table of ours, whole or cut, looks like. */
export type ReadTuning =
  | { readonly isFit: true; readonly tuning: Tuning }
  | { readonly isFit: false; readonly reason: string; readonly isForeign: boolean };

const FORMAT = "compresso-tuning";
/** How a table's text begins. */
const OPENING = `{\n  "format": "${FORMAT}"`;
/** To be raised when keys or names of variants mean something else. */
const VERSION = 1;

const tables = new WeakMap<Device, Tuning>();

/** The device's own table, empty at first. */
export function tuningOf(device: Device): Tuning {
  let table = tables.get(device);
  if (!table) tables.set(device, table = new Map());
  return table;
}

/** Name of the adapter, of its driver where that is known, and of the runtime. */
export function adapterIdentity({ facts, gpu }: Device): string {
  const { architecture = "", device = "" } = gpu.adapterInfo ?? {};
  return [facts.description, facts.vendor, architecture, device, navigator.userAgent, navigator.platform].join(" | ");
}

/** The table as text, keys in order. */
export function formatTuning(tuning: ReadonlyMap<string, string>, { adapter, kernels }: TuningIdentity): string {
  const entries = Object.fromEntries([...tuning].sort(([first], [second]) => first < second ? -1 : 1));
  return JSON.stringify({ format: FORMAT, version: VERSION, adapter, kernels, entries }, null, 2) + "\n";
}

/** Reads {@link formatTuning}'s text. Never throws: whatever is not a table of this identity is not fit. */
export function parseTuning(text: string, identity: TuningIdentity): ReadTuning {
  let isForeign = !text.startsWith(OPENING.slice(0, text.length));
  const no = (reason: string): ReadTuning => ({ isFit: false, reason, isForeign });
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return no("it is no whole JSON document");
  }
  if (!isObject(value) || value.format !== FORMAT) return no("it is not a table of tuned kernels");
  isForeign = false;
  if (value.version !== VERSION) return no(`it has version ${String(value.version)}, not ${VERSION}`);
  if (value.adapter !== identity.adapter) {
    return no("it was measured on another adapter, as WebGPU names it, or by another version of Deno");
  }
  if (value.kernels !== identity.kernels) return no("it was measured with other kernels");
  if (!isObject(value.entries)) return no("it has no entries");
  const tuning: Tuning = new Map();
  for (const [key, name] of Object.entries(value.entries)) {
    if (typeof name !== "string") return no(`its entry '${key}' is broken`);
    tuning.set(key, name);
  }
  return { isFit: true, tuning };
}
