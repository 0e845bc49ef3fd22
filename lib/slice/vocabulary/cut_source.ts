// Weights of a model without the rows of tokens that are cut.
import { isObject, type Json } from "../../core/guards.ts";
import { type DecoderSpec, EMBEDDING, HEAD, HEAD_BIAS } from "../../spec/decoder.ts";
import type { WeightSource } from "../../spec/source.ts";
import { remapSource } from "../remap.ts";
import { type NewIds, newIds } from "./cut_tokenizer.ts";

/**
 * The same weights with only the rows of the kept tokens in embedding and head. Logits of kept tokens do not change.
 *
 * @param kept - Ids that stay, ascending.
 */
export function cutSource(source: WeightSource, kept: Int32Array): WeightSource {
  const ids = newIds(kept);
  const cut = remapSource(
    source,
    cutSpec(source.spec, kept),
    (name) => [EMBEDDING, HEAD, HEAD_BIAS].includes(name) ? { from: name, rows: kept } : { from: name },
  );
  const generation: unknown = "generation" in source ? source.generation : null;
  return isObject(generation) ? { ...cut, ...{ generation: cutGeneration(generation, ids) } } : cut;
}

/** The shape of a model with a part of its vocabulary. */
export function cutSpec(spec: DecoderSpec, kept: Int32Array): DecoderSpec {
  const ids = newIds(kept);
  const known = (id: number | null): number | null => id === null ? null : ids.get(id) ?? null;
  return {
    ...spec,
    vocab: ids.size,
    bosId: known(spec.bosId),
    eosIds: spec.eosIds.map(known).filter((id) => id !== null),
    padId: known(spec.padId),
  };
}

/** Keys of generation_config.json with ids or lists of ids, besides the keys that end with `_token_id`. */
const ID_LISTS: readonly string[] = ["suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids"];

/** A generation_config.json with new ids. Entries that name a cut token are left out, since it cannot occur. */
function cutGeneration(generation: Json, ids: NewIds): Json {
  return Object.fromEntries(
    Object.entries(generation).flatMap(([key, value]): [string, unknown][] => {
      if (key === "sequence_bias" && Array.isArray(value)) {
        return [[
          key,
          value.flatMap((entry) => cutBias(entry, ids)),
        ]];
      }
      if (!key.endsWith("_token_id") && !ID_LISTS.includes(key)) return [[key, value]];
      return cutNumbers(value, ids).map((cut) => [key, cut]);
    }),
  );
}

/** An id or nested lists of ids, in a list; empty if cut. An inner list is a sequence, cut if any of its ids is cut. */
function cutNumbers(value: unknown, ids: NewIds): unknown[] {
  if (typeof value === "number") {
    const id = ids.get(value);
    return id === undefined ? [] : [id];
  }
  if (!Array.isArray(value)) return [value];
  const isNested = value.some(Array.isArray);
  return [
    isNested
      ? value.flatMap((inner: unknown) => isSequence(inner, ids) ? cutNumbers(inner, ids) : [])
      : value.flatMap((id: unknown) => cutNumbers(id, ids)),
  ];
}

function isSequence(value: unknown, ids: NewIds): boolean {
  return !Array.isArray(value) || value.every((id) => typeof id !== "number" || ids.has(id));
}

/** A sequence of tokens and its bias. */
function cutBias(entry: unknown, ids: NewIds): unknown[] {
  if (!Array.isArray(entry) || !isSequence(entry[0], ids)) return [];
  return [[...cutNumbers(entry[0], ids), ...entry.slice(1)]];
}
