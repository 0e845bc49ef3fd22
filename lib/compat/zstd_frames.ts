// Where the frames of Zstandard data end (RFC 8878). node's unpacker in Deno ignores what follows a frame within one write, and takes a cut frame
// for a whole one.

const MAGIC = 0xfd2fb528;
/** The magic number of a skippable frame without its last four bits, which are free. */
const SKIPPABLE = 0x184d2a5;
/** The type of a block that is one byte, repeated. */
const RLE = 1;

/**
 * The same bytes, cut where a frame ends as well: no part holds bytes of two frames. Throws an `Error` where no frame
 * begins, and where the data end within one.
 */
export async function* byFrame<Piece extends Uint8Array>(
  pieces: AsyncIterable<Piece>,
): AsyncGenerator<Uint8Array, void, undefined> {
  let frame: Walk | null = null;
  for await (const piece of pieces) {
    for (let start = 0; start < piece.length;) {
      frame ??= walkFrame();
      const rest = piece.subarray(start), taken = frame.take(rest);
      yield rest.subarray(0, taken);
      start += taken;
      if (frame.isWhole) frame = null;
    }
  }
  if (frame) throw new Error("the data end within a frame");
}

/** A walk through one frame. */
interface Walk {
  /** Takes bytes up to the end of the frame; returns how many. */
  take(bytes: Uint8Array): number;
  readonly isWhole: boolean;
}

function walkFrame(): Walk {
  const parts = frameParts();
  let part = parts.next(0);
  let done = 0, value = 0;
  return {
    take(bytes): number {
      let at = 0;
      while (!part.done && (at < bytes.length || part.value === 0)) {
        const count = Math.min(part.value - done, bytes.length - at);
        for (let index = 0; index < count && done + index < 4; index++) {
          value += (bytes[at + index] ?? 0) * 256 ** (done + index);
        }
        at += count;
        done += count;
        if (done < part.value) break;
        part = parts.next(value);
        done = value = 0;
      }
      return at;
    },
    get isWhole(): boolean {
      return part.done === true;
    },
  };
}

/** Yields the length of each part of a frame, and is given the first four bytes of the part as a number. */
function* frameParts(): Generator<number, void, number> {
  const magic = yield 4;
  if (magic >>> 4 === SKIPPABLE) {
    yield yield 4; // its length, then itself
    return;
  }
  if (magic !== MAGIC) throw new Error("behind the last frame stand bytes that begin no other");
  const flags = yield 1;
  const single = flags >> 5 & 1, checksum = flags >> 2 & 1;
  const dictionary = [0, 1, 2, 4][flags & 3] ?? 0, content = [single, 2, 4, 8][flags >> 6] ?? 0;
  yield 1 - single + dictionary + content; // a single segment has no window descriptor
  for (let last = false; !last;) {
    const block = yield 3;
    last = (block & 1) === 1;
    yield (block >> 1 & 3) === RLE ? 1 : block >> 3;
  }
  if (checksum) yield 4;
}
