// Where the frames and blocks of Zstandard data end (RFC 8878). Deno's node:zlib ignores what follows a frame within one write, takes a cut
// frame for a whole one, and throws where nobody can catch it if the output of one write exceeds its buffer before the data prove damaged.

const MAGIC = 0xfd2fb528;
/** The magic number of a skippable frame without its last four bits, which are free. */
const SKIPPABLE = 0x184d2a5;
/** The type of a block that is one byte, repeated. */
const RLE = 1;

/** A piece that ends where a block ends unpacks to at most so many bytes (RFC 8878, 3.1.1.2.4). */
export const LARGEST_BLOCK = 128 * 1024;

/**
 * The same bytes, cut where a block ends and where a frame ends as well: no part holds bytes of two frames, and no part
 * ends two blocks. Throws an `Error` if no frame begins, and if the data end within one.
 */
export async function* byBlock<Piece extends Uint8Array>(
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
  /** Takes bytes up to the end of the block, or of the frame; returns how many. */
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
      while (!part.done && (at < bytes.length || part.value.length === 0)) {
        const { length, isBlock } = part.value;
        const count = Math.min(length - done, bytes.length - at);
        for (let index = 0; index < count && done + index < 4; index++) {
          value += (bytes[at + index] ?? 0) * 256 ** (done + index);
        }
        at += count;
        done += count;
        if (done < length) break;
        part = parts.next(value);
        done = value = 0;
        if (isBlock && at > 0) break;
      }
      return at;
    },
    get isWhole(): boolean {
      return part.done === true;
    },
  };
}

interface Part {
  readonly length: number;
  readonly isBlock?: boolean;
}

/** Yields the length of each part of a frame, and is given the first four bytes of the part as a number. */
function* frameParts(): Generator<Part, void, number> {
  const magic = yield { length: 4 };
  if (magic >>> 4 === SKIPPABLE) {
    yield { length: yield { length: 4 } }; // its length, then itself
    return;
  }
  if (magic !== MAGIC) throw new Error("the bytes after the last frame do not begin another");
  const flags = yield { length: 1 };
  const single = flags >> 5 & 1, checksum = flags >> 2 & 1;
  const dictionary = [0, 1, 2, 4][flags & 3] ?? 0, content = [single, 2, 4, 8][flags >> 6] ?? 0;
  yield { length: 1 - single + dictionary + content }; // a single segment has no window descriptor
  for (let last = false; !last;) {
    const block = yield { length: 3 };
    last = (block & 1) === 1;
    yield { length: (block >> 1 & 3) === RLE ? 1 : block >> 3, isBlock: true };
  }
  if (checksum) yield { length: 4 };
}
