// The tuning table: the fastest kernel variant for each work size on a device, and its text format.
import { isObject } from "../core/guards.ts";
import { shownJson } from "../core/text.ts";
import type { Device } from "./device.ts";

/** Names of variants by names of work sizes. Work that is not in the table runs with the default. */
export type Tuning = Map<string, string>;

/** What a table was measured on. A table from another machine or for other kernels is invalid. */
export interface TuningIdentity {
  /**
   * Name of the adapter according to WebGPU, which may omit the driver, and of the runtime, whose version determines
   * how WGSL is translated.
   */
  readonly adapter: string;
  /** Digest of the compared kernels. */
  readonly kernels: string;
}

/**
 * A valid table, or why there is none. "foreign" is text that is neither a complete nor a truncated table of this
 * format.
 */
export type ReadTuning =
  | { readonly isFit: true; readonly tuning: Tuning }
  | { readonly isFit: false; readonly reason: string; readonly isForeign: boolean };

const FORMAT = "compresso-tuning";
/** First line of the text of a table. */
const OPENING = `{\n  "format": "${FORMAT}"`;
/** Increase when keys or names of variants change their meaning. */
const VERSION = 1;

/** What Deno 2.9 and its types lack of `GPU`. */
interface WgslFeatures {
  readonly wgslLanguageFeatures?: Iterable<string>;
}

const tables = new WeakMap<Device, Tuning>();

/** The table of the device, initially empty. */
export function tuningOf(device: Device): Tuning {
  let table = tables.get(device);
  if (!table) tables.set(device, table = new Map());
  return table;
}

/**
 * Name of the adapter, of its driver if known, and of the runtime. Another WebGPU than the runtime's has no name; the
 * WGSL features that it lists distinguish most of its versions.
 */
export function adapterIdentity({ facts, gpu, entry }: Device): string {
  const { architecture = "", device = "" } = gpu.adapterInfo ?? {};
  const runtime = [facts.description, facts.vendor, architecture, device, navigator.userAgent, navigator.platform];
  if (entry === null) return runtime.join(" | ");
  const { wgslLanguageFeatures = [] } = entry as WgslFeatures;
  return [...runtime, "another WebGPU", ...[...wgslLanguageFeatures].sort()].join(" | ");
}

/** The table as text, with sorted keys. */
export function formatTuning(tuning: ReadonlyMap<string, string>, { adapter, kernels }: TuningIdentity): string {
  const entries = Object.fromEntries([...tuning].sort(([first], [second]) => first < second ? -1 : 1));
  return JSON.stringify({ format: FORMAT, version: VERSION, adapter, kernels, entries }, null, 2) + "\n";
}

/**
 * Parses the text of {@link formatTuning}. Never throws: text that is not a table with this identity is reported as
 * invalid.
 */
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
  if (value.version !== VERSION) return no(`it has version ${shownJson(value.version)}, not ${VERSION}`);
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
