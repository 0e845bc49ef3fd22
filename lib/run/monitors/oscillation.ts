// Detects units that open and close repeatedly.
import { option } from "../../core/errors.ts";
import { type Finding, percent, type ResolvedMonitor } from "./alarm.ts";
import type { MaskHistory, MaskLook } from "../contract.ts";

/** Reversals from which a unit counts: it returns to its state at an earlier look. */
const BACK = 3;
/** Fewest prunable units of a kind that is counted by itself; in smaller kinds one or two units decide the share. */
const FEW = 9;
/** Looks that are counted. With a look at each step they cover four changes of a period of eight steps. */
const LOOKS = 13;

/**
 * Adds one look. The first change of a unit within the window takes it to a new state; each later change is a reversal.
 * Changes need not be at consecutive looks: looks fall on any phase of a period, and some find the masks unchanged. The
 * share is taken of each kind, so that a small kind shows next to a large one, or of all units if no kind has enough.
 */
export function watchTurns(
  history: MaskHistory | null,
  { closed, kinds }: MaskLook,
  { isHard, setting }: {
    /** Whether masks are hard: chosen every few steps instead of learned. */
    readonly isHard: boolean;
    readonly setting: ResolvedMonitor;
  },
): { readonly history: MaskHistory; readonly found: readonly Finding[] } {
  const kept = [...history?.looks ?? [], pack(closed)].slice(-1 - LOOKS);
  const turns = new Uint8Array(closed.length);
  let before: Uint8Array | null = null;
  for (const text of kept) {
    const flags = unpack(text, closed.length);
    if (before) { for (let unit = 0; unit < flags.length; unit++) if (flags[unit] !== before[unit]) add(turns, unit); }
    before = flags;
  }
  const watched = kinds.filter(({ count }) => count >= FEW);
  const groups = watched.length > 0 ? watched : [{ name: "units", first: 0, count: closed.length }];
  const shares = groups.map(({ name, first, count }) => {
    const own = turns.subarray(first, first + count).filter((times) => times > BACK);
    return { name, back: own.length / Math.max(1, count) };
  });
  const found = shares.filter(({ back }) => back >= setting.threshold).map(({ name, back }): Finding => ({
    monitor: "oscillation",
    key: `oscillation ${name}`,
    message: `the masks oscillate: ${
      percent(back)
    } of the ${name} turned back ${BACK} times or more in the last ${LOOKS} looks, limit ${percent(setting.threshold)}`,
    change: `${
      isHard ? `look at more rows in each step (${option("batch")})` : `lower ${option("rates.mask")}`
    }, prune in more steps, or let a schedule's targets go one way`,
    ...(isHard ? { instead: "warn" } as const : {}), // no rate chooses them
  }));
  return { history: { looks: kept }, found };
}

function add(counts: Uint8Array, unit: number): void {
  counts[unit] = (counts[unit] ?? 0) + 1;
}

function pack(flags: Uint8Array): string {
  const bytes = new Uint8Array(Math.ceil(flags.length / 8));
  flags.forEach((flag, index) => bytes[index >> 3] = (bytes[index >> 3] ?? 0) | flag << (index & 7));
  return bytes.toBase64();
}

function unpack(text: string, count: number): Uint8Array {
  const bytes = Uint8Array.fromBase64(text);
  return Uint8Array.from({ length: count }, (_, index) => (bytes[index >> 3] ?? 0) >> (index & 7) & 1);
}
