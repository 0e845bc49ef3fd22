// Names and values of the tensors of a Hugging Face folder, by the rules of its family; used to read and to write.
import type { Family } from "../../families/family.ts";
import { isNormWeight } from "../../spec/decoder.ts";

/** What is added to the stored values of a canonical tensor. */
export function storedPlus({ tensors }: Family, name: string): number {
  return isNormWeight(name) ? tensors?.normPlus ?? 0 : 0;
}

/** Names in which no tensor of the decoder lies: causal masks and RoPE tables of old files. */
export const IDLE_TENSORS = /\.rotary_emb\.inv_freq$|\.(attn|attention)\.(masked_)?bias$/;

/** Names of a folder's tensors with the prefix of the family, where they have none. */
export function withPrefix<T>({ tensors: { prefix } = {} }: Family, tensors: ReadonlyMap<string, T>): Map<string, T> {
  const isBare = prefix !== undefined && [...tensors.keys()].every((name) => !name.startsWith(prefix));
  return new Map([...tensors].map(([name, value]) => [isBare && !isHead(name) ? prefix + name : name, value]));
}

function isHead(name: string): boolean {
  return name === "lm_head.weight" || name === "embed_out.weight";
}

/** Name of a canonical tensor in a folder of a family. */
export function storedName({ tensors }: Family, name: string): string {
  return (tensors?.renames ?? []).reduce((text, [from, to]) => text.replace(from, to), name);
}
