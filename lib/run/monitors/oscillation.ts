// Units that open and close again and again. Owns the count of turns and its memory; refuses to look at the GPU.
import { type Finding, percent, type ResolvedMonitor } from "./alarm.ts";
import type { MaskLook } from "./mask_look.ts";

/** What is remembered of the masks, as bits in base64: a checkpoint has it. */
export interface MaskHistory {
  /** Units that were closed at the last look. */
  readonly closed: string;
  /** Units that turned at it. */
  readonly turned: string;
  /** Looks on end at which too many units turned back. */
  readonly streak: number;
}

/** Looks on end with too many units turning back that make an alarm. */
const LOOKS = 3;

/** Takes in one look. A unit turns back that turned at the look before and turns now: it is where it was. */
export function watchTurns(
  history: MaskHistory | null,
  { closed }: MaskLook,
  { setting }: { readonly setting: ResolvedMonitor },
): { readonly history: MaskHistory; readonly found: readonly Finding[] } {
  const before = history ? unpack(history.closed, closed.length) : closed;
  const turnedBefore = history ? unpack(history.turned, closed.length) : new Uint8Array(closed.length);
  const turned = closed.map((flag, unit) => flag === before[unit] ? 0 : 1);
  const back = turned.reduce((sum, flag, unit) => sum + (flag && turnedBefore[unit] ? 1 : 0), 0) /
    Math.max(1, closed.length);
  const streak = back >= setting.threshold ? (history?.streak ?? 0) + 1 : 0;
  const found: Finding[] = streak < LOOKS ? [] : [{
    monitor: "oscillation",
    key: "oscillation",
    message: `the masks oscillate: ${percent(back)} of the units turned back, ${streak} looks on end, limit ${
      percent(setting.threshold)
    }`,
    change: "lower the rate `mask`, or prune in more steps",
  }];
  return { history: { closed: pack(closed), turned: pack(turned), streak }, found };
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
