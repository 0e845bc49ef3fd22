// Sequences with common prefixes as trees, in which a common token is computed only once.
import { type CompressoError, refusal, refuse } from "../core/errors.ts";
import type { Pass } from "./context.ts";

/** Token ids of a text whose end is scored. */
export interface Sequence {
  /** The tokens before the choice; not empty. */
  readonly prefix: readonly number[];
  /** The scored tokens; not empty. The last one is not read. */
  readonly choice: readonly number[];
}

/**
 * Trees in depth-first order, one after another. Node t is a token that the model reads. Its keys are its ancestors and
 * itself: the nodes j ≤ t with t < end[j]. An edge is a token that is predicted after a node.
 */
export interface TokenTree {
  /** Token of each node. */
  readonly tokens: Uint32Array<ArrayBuffer>;
  /** Depth of each node below its root, which is its position in its sequences. */
  readonly positions: Uint32Array<ArrayBuffer>;
  /** [nodes, 2]: the root of each node's tree, and the end of the node's subtree. */
  readonly spans: Uint32Array<ArrayBuffer>;
  /** Source node of each edge. */
  readonly edgeNodes: Uint32Array<ArrayBuffer>;
  /** Token that each edge predicts. */
  readonly edgeTokens: Uint32Array<ArrayBuffer>;
  /** Edges of the choice of each sequence, in token order. */
  readonly paths: readonly (readonly number[])[];
}

/** Builds trees sequence by sequence. */
export interface TreeBuilder {
  /** Number of nodes so far. */
  readonly nodes: number;
  /** Number of edges so far. */
  readonly edges: number;
  /** Number of nodes that the sequence would share with the previous one. */
  shared(sequence: Sequence): number;
  /**
   * Adds a sequence below the first `shared` nodes of the previous one, at most as many as `shared()` returns. 0 starts
   * a new tree.
   *
   * @throws CompressoError("input") for an empty prefix or choice, or an invalid token id.
   * @throws CompressoError("usage") for more nodes than the sequence shares.
   */
  add(sequence: Sequence, shared: number): void;
  /** The trees so far. */
  finish(): TokenTree;
}

/** A token id below this can be packed with a node index into one exact number. */
const MAX_TOKENS = 2 ** 26;

/**
 * Starts without a tree. Sequences that follow each other share their common beginning, so that a model computes it
 * once: add them in lexicographic order. What it makes is for `Model.treeLosses`.
 *
 * @example
 * ```ts
 * import { loadModel, openDevice } from "compresso";
 * import { createTreeBuilder } from "./token_tree.ts";
 *
 * using device = await openDevice();
 * using model = await loadModel("demo", { device });
 * const builder = createTreeBuilder();
 * for (const choice of [[7, 8], [7, 9], [10]]) {
 *   const sequence = { prefix: [1, 5, 6], choice };
 *   builder.add(sequence, builder.shared(sequence));
 * }
 * const tree = builder.finish(), rows = Math.max(builder.nodes, builder.edges);
 * const losses = await model.treeLosses(tree, { rows });
 * // The log-likelihood of each choice after its prefix, in nats.
 * const scores = tree.paths.map((edges) => edges.reduce((sum, edge) => sum - (losses[edge] ?? NaN), 0));
 * if (scores.length !== 3 || !scores.every((score) => score < 0)) throw new Error(`${scores}`);
 * ```
 */
export function createTreeBuilder(): TreeBuilder {
  const tokens: number[] = [], positions: number[] = [], roots: number[] = [], ends: number[] = [];
  const edgeNodes: number[] = [], edgeTokens: number[] = [], paths: number[][] = [];
  const edges = new Map<number, number>();
  /** Nodes of the previous sequence. */
  const path: number[] = [];
  const leave = (depth: number): void => {
    for (const node of path.splice(depth)) ends[node] = tokens.length;
  };
  const sharedNodes = (sequence: Sequence): number => {
    const count = nodeCount(sequence);
    let depth = 0;
    while (depth < count && depth < path.length && tokens[path[depth] ?? -1] === tokenAt(sequence, depth)) depth++;
    return depth;
  };
  return {
    get nodes(): number {
      return tokens.length;
    },
    get edges(): number {
      return edgeNodes.length;
    },
    shared: sharedNodes,
    add(sequence, shared): void {
      checkSequence(sequence);
      const most = sharedNodes(sequence);
      if (!Number.isInteger(shared) || shared < 0 || shared > most) throw notShared(shared, most);
      leave(shared);
      for (let depth = shared; depth < nodeCount(sequence); depth++) {
        const node = tokens.push(tokenAt(sequence, depth)) - 1;
        positions.push(depth);
        roots.push(path[0] ?? node);
        ends.push(node + 1);
        path.push(node);
      }
      paths.push(sequence.choice.map((token, index) => {
        const node = path[sequence.prefix.length - 1 + index] ?? -1, key = node * MAX_TOKENS + token;
        const known = edges.get(key);
        if (known !== undefined) return known;
        edges.set(key, edgeNodes.length);
        edgeTokens.push(token);
        return edgeNodes.push(node) - 1;
      }));
    },
    finish(): TokenTree {
      leave(0);
      return {
        tokens: Uint32Array.from(tokens),
        positions: Uint32Array.from(positions),
        spans: Uint32Array.from(tokens.flatMap((_, node) => [roots[node] ?? 0, ends[node] ?? 0])),
        edgeNodes: Uint32Array.from(edgeNodes),
        edgeTokens: Uint32Array.from(edgeTokens),
        paths,
      };
    },
  };
}

/** Number of tokens of a sequence that are read. */
export function nodeCount({ prefix, choice }: Sequence): number {
  return prefix.length + choice.length - 1;
}

/** The token of a sequence at a position. */
export function tokenAt({ prefix, choice }: Sequence, index: number): number {
  return (index < prefix.length ? prefix[index] : choice[index - prefix.length]) ?? -1;
}

/**
 * Checks that the rows of a pass have room for the trees.
 *
 * @throws CompressoError("usage") if they have not.
 */
export function checkRoom({ tokens, edgeNodes }: TokenTree, rows: number): void {
  const least = Math.max(1, tokens.length, edgeNodes.length);
  if (Number.isInteger(rows) && rows >= least) return;
  refuse("usage", "cannot run a model on these trees", {
    rule: `the rows of the pass are a whole number, at least the nodes and the edges: ${least}`,
    value: `${tokens.length} nodes, ${edgeNodes.length} edges, ${rows} rows`,
  });
}

/**
 * What attention reads of trees, [rows] of four u32: the first key that a node attends to, the end of the node's
 * subtree, and the first key that the node or any later node of its tree attends to. A node attends to itself and its
 * ancestors within `window` tokens.
 */
export function treeSpans(
  { positions, spans }: Pick<TokenTree, "positions" | "spans">,
  rows: number,
  window = Infinity,
): Uint32Array<ArrayBuffer> {
  const nodes = positions.length;
  const out = Uint32Array.from({ length: 4 * rows }, (_, index) => (index >> 2) + (index % 4 === 1 ? 1 : 0));
  /** The node at each depth of the path to the current node. */
  const path: number[] = [];
  for (let node = 0; node < nodes; node++) {
    const depth = positions[node] ?? 0;
    path[depth] = node;
    out[4 * node] = path[Math.max(0, depth - window + 1)] ?? node;
    out[4 * node + 1] = spans[2 * node + 1] ?? 0;
  }
  for (let node = nodes - 1; node >= 0; node--) {
    const first = out[4 * node] ?? 0, isLast = node + 1 === nodes || spans[2 * node] !== spans[2 * node + 2];
    out[4 * node + 2] = isLast ? first : Math.min(first, out[4 * node + 6] ?? first);
  }
  return out;
}

/** The node before each node on its path [rows]: the node itself for a root. */
export function treeParents({ positions }: Pick<TokenTree, "positions">, rows: number): Uint32Array<ArrayBuffer> {
  const parents = Uint32Array.from({ length: rows }, (_, row) => row), path: number[] = [];
  positions.forEach((depth, node) => {
    path[depth] = node;
    if (depth > 0) parents[node] = path[depth - 1] ?? node;
  });
  return parents;
}

/** Writes trees into a pass for trees: the nodes as tokens, and the edges as targets of the head, in tree order. */
export function writeTree({ device, act, ranges }: Pick<Pass, "device" | "act" | "ranges">, tree: TokenTree): void {
  const { rows } = act, edges = tree.edgeNodes.length;
  if (ranges?.of !== "trees") throw new Error("this pass is not for trees");
  checkRoom(tree, rows);
  for (const [window, buffer] of ranges.spans) device.write(buffer, treeSpans(tree, rows, window));
  if (ranges.parents) device.write(ranges.parents, treeParents(tree, rows));
  // Rows after the last node are trees of one token; token 0 exists in every vocabulary.
  device.write(ranges.positions, filled(new Uint32Array(rows), tree.positions));
  device.write(act.tokens, filled(new Uint32Array(rows), tree.tokens));
  device.write(act.order, filled(new Uint32Array(rows), tree.edgeNodes));
  device.write(act.targets, filled(new Int32Array(rows).fill(-1), tree.edgeTokens));
  act.wanted.rows = edges;
}

function checkSequence({ prefix, choice }: Sequence): void {
  const fail = (rule: string, value: string): never => {
    const what = "cannot add a sequence to the trees", fix = "leave it out, or correct it";
    refuse("input", what, { rule, value, fix });
  };
  if (prefix.length === 0 || choice.length === 0) {
    const rule = "prefix and choice have at least one token each";
    fail(rule, `a prefix of ${prefix.length} tokens and a choice of ${choice.length}`);
  }
  for (const tokens of [prefix, choice]) {
    const bad = tokens.find((token) => !Number.isInteger(token) || token < 0 || token >= MAX_TOKENS);
    if (bad !== undefined) fail(`token ids lie in [0, ${MAX_TOKENS})`, String(bad));
  }
}

function notShared(shared: number, most: number): CompressoError {
  return refusal("usage", "cannot add a sequence to the trees", {
    rule: `it shares a whole number of nodes with the one before it, from 0 to ${most}`,
    value: shared,
    fix: "give what the builder's shared() says, or 0",
  });
}

function filled<T extends Uint32Array<ArrayBuffer> | Int32Array<ArrayBuffer>>(target: T, values: Uint32Array): T {
  target.set(values);
  return target;
}
