// Packs sequences into passes and lets them share common beginnings.
import { createTreeBuilder, nodeCount, type Sequence, tokenAt, type TokenTree } from "../nn/token_tree.ts";

/** One pass of a model. */
export interface Packing {
  readonly tree: TokenTree;
  /** Rows of the pass: nodes or edges of the tree, rounded up. */
  readonly rows: number;
  /** Places of the tree's sequences in what was given. */
  readonly places: readonly number[];
}

/** Tokens of a pass, where its sequences are not longer. */
const PASS_TOKENS = 2048;
/** Sizes of a pass are multiples of this. */
const ROW_STEP = 32;
/** Least part of a sequence that it must share with the previous one, else it begins a new tree: attention walks over all of a tree. */
const LEAST_SHARED = 1 / 4;

/** Packs sequences into passes of about the same size. In lexicographic order, sequences with the same beginning follow each other. */
export function* packSequences(sequences: readonly Sequence[]): Generator<Packing, void, undefined> {
  const order = [...sequences.keys()];
  const at = (place: number): Sequence => sequences[place] ?? { prefix: [], choice: [] };
  order.sort((a, b) => compare(at(a), at(b)));
  const longest = sequences.reduce((most, sequence) => Math.max(most, nodeCount(sequence)), 0);
  const most = Math.max(PASS_TOKENS, longest);
  let builder = createTreeBuilder(), places: number[] = [];
  const pack = (isLast: boolean): Packing => {
    const tree = builder.finish(), own = places, used = Math.max(builder.nodes, builder.edges);
    builder = createTreeBuilder();
    places = [];
    // Full passes have one size, so that they are recorded once.
    const rows = isLast ? used : most;
    return { tree, rows: Math.ceil(rows / ROW_STEP) * ROW_STEP, places: own };
  };
  for (const place of order) {
    const sequence = at(place), count = nodeCount(sequence);
    let shared = builder.shared(sequence);
    if (shared < LEAST_SHARED * count) shared = 0;
    const isFull = builder.nodes + count - shared > most || builder.edges + sequence.choice.length > most;
    if (places.length > 0 && isFull) {
      yield pack(false);
      shared = 0;
    }
    builder.add(sequence, shared);
    places.push(place);
  }
  if (places.length > 0) yield pack(true);
}

/** Lexicographic order of the token ids. */
function compare(a: Sequence, b: Sequence): number {
  const [lengthA, lengthB] = [nodeCount(a) + 1, nodeCount(b) + 1];
  for (let index = 0; index < Math.min(lengthA, lengthB); index++) {
    const difference = tokenAt(a, index) - tokenAt(b, index);
    if (difference !== 0) return difference;
  }
  return lengthA - lengthB;
}
