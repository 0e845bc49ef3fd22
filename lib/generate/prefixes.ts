// Prompts that were read and whose texts have ended: until their pages are needed, an equal prompt begins from them.
import type { BatchSequence } from "../nn/decode/batch.ts";

/** Prompts in the KV cache of a batch. */
export interface Prefixes {
  /** The sequence of an equal prompt, which stays here; null for none. */
  find(prompt: readonly number[]): BatchSequence | null;
  /** Takes the sequence of a text that has ended, and keeps what was read before its first token if it is still held. */
  keep(prompt: readonly number[], sequence: BatchSequence): void;
  /** Frees the pages of the prompt that was kept first; false if there is none. */
  drop(): boolean;
}

/** Makes an empty store. */
export function createPrefixes(): Prefixes {
  const kept: { readonly prompt: readonly number[]; readonly sequence: BatchSequence }[] = [];
  const find = (prompt: readonly number[]): BatchSequence | null =>
    kept.find((other) => isSamePrompt(other.prompt, prompt))?.sequence ?? null;
  return {
    find,
    keep(prompt, sequence): void {
      const isKept = prompt.length > 1 && !find(prompt) && sequence.holds(prompt.length - 1);
      if (!isKept) return sequence[Symbol.dispose]();
      sequence.trim(prompt.length - 1);
      kept.push({ prompt, sequence });
    },
    drop(): boolean {
      const first = kept.shift();
      first?.sequence[Symbol.dispose]();
      return first !== undefined;
    },
  };
}

/** Whether two prompts have the same tokens. */
export function isSamePrompt(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((token, at) => token === b[at]);
}
