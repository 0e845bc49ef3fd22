// Questions as tokens: against lm-evaluation-harness's own division (fixtures/tasks/golden.json), and what does not fit.
import assert from "node:assert/strict";
import { join } from "node:path";
import { type EncodedQuestion, encodeQuestion, type EncodeQuestionOptions } from "../../lib/eval/encode.ts";
import type { Question } from "../../lib/eval/task_data.ts";
import { loadHfTokenizer } from "../disk.ts";
import type { Sequence } from "../../lib/nn/token_tree.ts";
import { type Refusal, refuses } from "../refuses.ts";

const FIXTURES = join(import.meta.dirname ?? ".", "../../fixtures");
const TASK = { name: "made", path: "made.jsonl" };

interface Pair {
  readonly context: string;
  readonly continuation: string;
  readonly context_ids: readonly number[];
  readonly continuation_ids: readonly number[];
}

const { pairs }: { readonly pairs: Readonly<Record<string, readonly Pair[]>> } = JSON.parse(
  await Deno.readTextFile(join(FIXTURES, "tasks", "golden.json")),
);

for (const [name, cases] of Object.entries(pairs)) {
  Deno.test(`context and continuation are divided as the harness does with the tokenizer '${name}'`, async () => {
    const tokenizer = await loadHfTokenizer(join(FIXTURES, "tokenizer", name));
    assert.ok(tokenizer);
    for (const { context, continuation, context_ids, continuation_ids } of cases) {
      const encode = (): Sequence | undefined =>
        encodeQuestion(TASK, question([[context, continuation]]), { tokenizer, context: 512 }).sequences[0];
      if (continuation_ids.length === 0) {
        refuses(encode, "input", { value: ["line 7", 1] });
        continue;
      }
      const what = JSON.stringify([context, continuation]);
      assert.deepEqual(encode(), { prefix: context_ids, choice: continuation_ids }, what);
    }
  });
}

Deno.test("a question that does not fit loses the beginning of its context, as in the harness, or is refused", async () => {
  const tokenizer = await loadHfTokenizer(join(FIXTURES, "tokenizer", "byte_level"));
  assert.ok(tokenizer);
  const asked = question([["The river carries a stone.", " The winter garden"], ["The river carries a stone.", " a"]]);
  const encode = (options: Omit<EncodeQuestionOptions, "tokenizer">, asking = asked): EncodedQuestion =>
    encodeQuestion(TASK, asking, { tokenizer, ...options });
  const whole = encode({ context: 100 });
  assert.equal(whole.isTruncated, false);
  const [first, second] = whole.sequences;
  assert.ok(first && second);
  assert.deepEqual([first.prefix.length, first.choice.length, second.choice.length], [6, 4, 1]);
  // All but the last token are read: 6 + 4 − 1 of the first choice.
  assert.deepEqual(encode({ context: 9 }), whole);
  const cut = encode({ context: 7 });
  assert.equal(cut.isTruncated, true);
  assert.deepEqual(cut.sequences, [{ ...first, prefix: first.prefix.slice(2) }, second]);
  const least = encode({ context: 4 });
  assert.deepEqual(least.sequences[0], { ...first, prefix: first.prefix.slice(-1) });
  const refused = (options: Omit<EncodeQuestionOptions, "tokenizer">, message: Refusal, asking = asked): void =>
    refuses(() => encode(options, asking), "input", message);
  refused({ context: 7, refuseLong: true }, { value: ["line 7", 10] });
  refused({ context: 3 }, { value: ["line 7", 4, 1], names: 3 });
  refused({ context: 3 }, { value: ["line 7", 4, 1] }, { ...asked, subset: "anatomy" });
});

function question(pairs: readonly (readonly [string, string])[]): Question {
  return {
    label: "line 7",
    subset: "",
    contexts: pairs.map(([context]) => context),
    continuations: pairs.map(([, continuation]) => continuation),
    choices: pairs.map(([, continuation]) => continuation),
    answer: 0,
  };
}
