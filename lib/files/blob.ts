// A `Blob` or `File` as a source of bytes: it is read piece by piece.
import { refuse } from "../core/errors.ts";
import { type ByteSource, endsEarly } from "./system.ts";

/** A blob as a source. Only the bytes that are asked for are read. */
export function blobSource(name: string, blob: Blob): ByteSource {
  return {
    name,
    size: blob.size,
    async read(target, offset): Promise<void> {
      const end = offset + target.length;
      if (end > blob.size) throw endsEarly(name, end, blob.size);
      target.set(new Uint8Array(await readable(name, blob.slice(offset, end))));
    },
  };
}

async function readable(name: string, part: Blob): Promise<ArrayBuffer> {
  try {
    return await part.arrayBuffer();
  } catch (cause) {
    const value = cause instanceof Error ? cause.message : String(cause);
    const rule = "the file is as it was when it was opened", fix = "choose the file again";
    refuse("input", `cannot read ${name}`, { rule, value, fix, cause });
  }
}
