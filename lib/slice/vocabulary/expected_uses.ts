// How often each token is expected in texts of the same kind, from its count in a sample of them.

/** Tokens of the same kind on each side of a token whose counts give its prior. */
const WINDOW = 512;
/** Weight of the prior. */
const BURST = 3;

/**
 * Expected uses of each token in as many texts as were counted. Vocabularies list tokens by their frequency when the
 * tokenizer was made. So the counts of neighbours of the same kind estimate how often a token occurs, even if the
 * sample lacks it. Counts are modelled as Poisson, with a Gamma prior whose mean m and variance v are those of the
 * window (empirical Bayes):
 *
 *     a = 3 m² / (v − m),   expected = (count + a) / (1 + a/m)
 *
 * A text often uses a token several times, so a count is less informative than independent draws. The prior therefore
 * counts three times, which was better on unseen texts than once (docs/evidence/vocabulary.md).
 *
 * @param counts - Count of each id.
 * @param ids - Ids that have a token and may be cut, in the order of the vocabulary.
 * @param kindOf - Kind of a token, see `tokenKind`. Default: all tokens are of one kind.
 */
export function expectedUses(
  counts: ArrayLike<number>,
  ids: Int32Array,
  kindOf: (id: number) => string = () => "",
): Float64Array {
  const found = Float64Array.from(counts);
  for (const alike of Map.groupBy(ids, kindOf).values()) smooth(counts, alike, found);
  return found;
}

function smooth(counts: ArrayLike<number>, ids: readonly number[], found: Float64Array): void {
  const total = ids.length;
  const sums = new Float64Array(total + 1), squares = new Float64Array(total + 1);
  ids.forEach((id, place) => {
    const count = counts[id] ?? 0;
    sums[place + 1] = (sums[place] ?? 0) + count;
    squares[place + 1] = (squares[place] ?? 0) + count * count;
  });
  ids.forEach((id, place) => {
    const from = Math.max(0, place - WINDOW), end = Math.min(total, place + WINDOW + 1), width = end - from;
    const mean = ((sums[end] ?? 0) - (sums[from] ?? 0)) / width;
    const variance = ((squares[end] ?? 0) - (squares[from] ?? 0)) / width - mean * mean;
    if (mean === 0) return;
    const shape = variance > mean ? BURST * mean * mean / (variance - mean) : Infinity;
    const count = counts[id] ?? 0;
    found[id] = shape === Infinity ? mean : (count + shape) / (1 + shape / mean);
  });
}
