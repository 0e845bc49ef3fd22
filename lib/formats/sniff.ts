// What a file is, by its first bytes.

/** Bytes that {@link looksLike} looks at. */
export const SNIFFED_BYTES = 64;

/** Whether a file begins as a GGUF does. */
export function isGguf(head: Uint8Array): boolean {
  return latin1(head.subarray(0, 4)) === "GGUF";
}

/** What a file that is not of the expected format seems to be, or null; `head` holds its first bytes. */
export function looksLike(head: Uint8Array): { readonly what: string; readonly fix: string } | null {
  const text = latin1(head.subarray(0, SNIFFED_BYTES));
  if (head.length === 0) return { what: "an empty file", fix: "fetch the file again" };
  if (text.startsWith("version https://git-lfs")) {
    return {
      what: "a Git LFS pointer instead of the file",
      fix: "run `git lfs pull` in its folder, or fetch the file itself",
    };
  }
  if (isGguf(head)) return { what: "a GGUF file", fix: "give the path of this file as the model" };
  if (/^(ggml|ggjt|ggla|lmgg|tjgg|algg)/.test(text)) {
    return { what: "a GGML file from before GGUF", fix: "convert it with llama.cpp, or fetch a GGUF" };
  }
  if (text.slice(8).trimStart().startsWith('{"')) {
    return { what: "a safetensors file", fix: "give the folder that holds it and its config.json" };
  }
  if (text.startsWith("PK\x03\x04") || head[0] === 0x80) {
    return { what: "a PyTorch (pickle) file", fix: "convert it to safetensors; pickles run code and are not read" };
  }
  if (/^\s*<(!doctype|html)/i.test(text)) {
    return { what: "an HTML page", fix: "fetch the file itself, not the page that shows it" };
  }
  return null;
}

function latin1(bytes: Uint8Array): string {
  return new TextDecoder("latin1").decode(bytes);
}
