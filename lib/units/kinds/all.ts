// The list of kinds of units. A kind is a record in a separate file and a line here.
import { refuse } from "../../core/errors.ts";
import { shown } from "../../core/check_options.ts";
import { attention } from "./attention.ts";
import { experts } from "./experts.ts";
import { ffn } from "./ffn.ts";
import { heads } from "./heads.ts";
import { hidden } from "./hidden.ts";
import type { KindRecord, Place } from "./kind.ts";
import { kv } from "./kv.ts";
import { layers } from "./layers.ts";
import { vocab } from "./vocab.ts";

/** All kinds by name, in the order of help. Of two kinds at one place, the first has the smaller units. */
export const KINDS = { heads, kv, attention, ffn, hidden, layers, vocab, experts } as const;

/** Kinds of units. If several kinds in attention are given, the kind with the smallest units counts. */
export type UnitKind = keyof typeof KINDS;

/** Names of all kinds. */
export const UNIT_KINDS: readonly UnitKind[] = Object.values(KINDS).map(({ name }) => name);

/** The record of a kind. */
export function recordOf(kind: UnitKind): KindRecord {
  return KINDS[kind];
}

/** Place of a kind; null if it has no masks. */
export function placeOfKind(kind: UnitKind): Place | null {
  return KINDS[kind].place;
}

/** Kinds without masks: their units are cut before a run. */
const MASKLESS: readonly string[] = UNIT_KINDS.filter((kind) => placeOfKind(kind) === null);

/** Whether a run keeps all layers whole: its kinds are cut before it, or it cuts none. Without kinds the usual ones are cut. */
export function keepsLayers(kinds?: readonly string[]): boolean {
  return kinds?.every((kind) => MASKLESS.includes(kind)) ?? false;
}

/** Whether a run cuts nothing, and only trains. */
export function cutsNothing(kinds?: readonly string[]): boolean {
  return kinds?.length === 0;
}

/** Whether experts are cut. */
export function cutsExperts(kinds: readonly string[] = []): boolean {
  return kinds.includes(KINDS.experts.name);
}

/** Whether some of the kinds lie at a place. */
export function cutsAt(place: Place, kinds: Iterable<UnitKind>): boolean {
  return [...kinds].some((kind) => KINDS[kind].place === place);
}

/**
 * Checks the kinds and sorts them in the order of the list. Of several at one place, the one with the smallest units is
 * left: K and V of a group are removed with the last of its heads. Without kinds nothing is cut.
 *
 * @throws CompressoError("usage") for unknown kinds.
 */
export function checkKinds(kinds: readonly UnitKind[]): ReadonlySet<UnitKind> {
  const fail = (rule: string): never =>
    refuse("usage", "cannot prune these units", {
      rule,
      value: Array.isArray(kinds) ? kinds.join(",") || "none" : shown(kinds),
      fix: "try kv,ffn",
      option: "units",
    });
  // A string would be treated as a list of its characters.
  if (!Array.isArray(kinds)) fail(`units are a list of some of ${UNIT_KINDS.join(", ")}`);
  for (const kind of kinds) if (!UNIT_KINDS.includes(kind)) fail(`units are some of ${UNIT_KINDS.join(", ")}`);
  const given = UNIT_KINDS.filter((kind) => kinds.includes(kind));
  return new Set(given.filter((kind, index) => {
    const { place } = KINDS[kind];
    return place === null || given.findIndex((other) => KINDS[other].place === place) === index;
  }));
}
