// Answers of the demo model to given instructions: as it answers each alone, and a file of rows that can be continued.
import assert from "node:assert/strict";
import { encodeExample, encodePrefix, endToken, formatExample } from "../../lib/data/prompts/encode.ts";
import { type InstructRow, toRow } from "../../lib/data/row.ts";
import { readRows } from "../../lib/local/rows.ts";
import { type AnswersOptions, type OwnAnswer, writeAnswers } from "../../lib/generate/answers.ts";
import { writeAnswerFile } from "../../lib/generate/answers_file.ts";
import { partPath } from "../../lib/generate/series_file.ts";
import type { Model } from "../../lib/model/model.ts";
import type { Row } from "../../lib/data/row.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { type Datum, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { greedyReference, openDemo } from "../run/helpers/reference.ts";
import { together } from "../run/helpers/ranks.ts";
import { sharedDevice } from "../device.ts";

const ASKED = ["Story: Tom went to Rome. Where is Tom?", "Name a colour.", "Tom has 2 apples. How many?"];
const ROWS: readonly Row[] = [
  ...ASKED.map((instruction) => toRow({ instruction, output: "the row's own answer" })),
  toRow({ instruction: "Repeat it.", input: "a b c", output: "x" }),
];
const SETTINGS = { tokens: 6 } as const;
/** Some answers are longer. */
const SHORT = { tokens: 2 } as const;

async function all(model: Model, rows: readonly Row[], options: AnswersOptions): Promise<OwnAnswer[]> {
  return await Array.fromAsync(writeAnswers(model, rows, options));
}

async function withDemo(work: (model: Model, tokenizer: Tokenizer) => Promise<void>): Promise<void> {
  const demo = await openDemo(await sharedDevice());
  using model = demo.model;
  await work(model, demo.tokenizer);
}

Deno.test("each row is answered as the model answers it alone, by its own style, and not by the row's answer", async () => {
  await withDemo(async (model, tokenizer) => {
    const answers = await all(model, ROWS, SETTINGS), format = { tokenizer, prompt: null };
    assert.deepEqual(answers.map(({ index }) => index), [0, 1, 2, 3]);
    for (const { index, output, tokens, hasEnded, ...asked } of answers) {
      const row = ROWS[index] as InstructRow, { instruction, input } = row;
      assert.deepEqual(asked, { instruction, input });
      const prompt = encodePrefix(formatExample({ ...row, output: "" }, format).prefix, format);
      const ids = await greedyReference(model, prompt, { maxTokens: SETTINGS.tokens });
      const end = ids.findIndex((id) => id === endToken(format) || model.spec.eosIds.includes(id));
      const own = end < 0 ? ids : ids.slice(0, end);
      assert.deepEqual([tokens, output], [own.length, tokenizer.decode([...own], { skipSpecial: true })]);
      assert.equal(hasEnded, end >= 0 || ids.length < SETTINGS.tokens);
    }
    const others = ROWS.map((row) => ({ ...row, output: "another" }) as Row);
    assert.deepEqual(await all(model, others, SETTINGS), answers);
    assert.deepEqual(await all(model, ROWS, { ...SETTINGS, skip: 3 }), answers.slice(3));
    const prompted = await all(model, ROWS, { ...SETTINGS, prompt: "Story: Tom went to Paris." });
    assert.notDeepEqual(prompted, answers);
  });
});

Deno.test("drawn answers follow from the seed and the row's place alone, on any number of ranks", async () => {
  await withDemo(async (model) => {
    const hot = { ...SETTINGS, temperature: 3, seed: 5 }, answers = await all(model, ROWS, hot);
    assert.deepEqual(await all(model, ROWS.slice(0, 2), hot), answers.slice(0, 2));
    assert.notDeepEqual(await all(model, ROWS, { ...hot, seed: 6 }), answers);
    const same = await all(model, ROWS.map(() => ROWS[1] as Row), hot);
    assert.ok(new Set(same.map(({ output }) => output)).size > 1, "each row has its own draws");
    for (const got of await Promise.all(together(3).map((ranks) => all(model, ROWS, { ...hot, ranks })))) {
      assert.deepEqual(got, answers);
    }
  });
});

Deno.test("a file of answers is continued to that of a run that was not stopped, and prune reads its rows", async () => {
  await withDemo(async (model, tokenizer) => {
    await inTemporaryFolder(async (folder) => {
      const path = `${folder}/own.jsonl`, whole = `${folder}/whole.jsonl`, identity = { weights: "a" };
      await writeAnswerFile(model, ROWS, { ...SHORT, path: whole, identity });
      const stop = new AbortController();
      const onAnswer = ({ index }: OwnAnswer): void => index === 1 ? stop.abort(new Error("enough")) : undefined;
      const how = { ...SHORT, path, identity };
      await assert.rejects(async () => {
        await writeAnswerFile(model, ROWS.slice(0, 3), {
          ...how,
          onAnswer: (answer) => {
            onAnswer(answer);
            stop.signal.throwIfAborted();
          },
        });
      }, /enough/);
      assert.equal((await Deno.readTextFile(partPath(path))).split("\n").length, 4, "settings and two rows");
      await rejects(
        () => writeAnswerFile(model, ROWS, { ...how, tokens: 7, resume: true }),
        "mismatch",
        { value: [2, 7] },
      );
      const { resumed, count } = await writeAnswerFile(model, ROWS, { ...how, resume: true });
      assert.deepEqual([resumed, count], [2, 4]);
      assert.equal(await Deno.readTextFile(path), await Deno.readTextFile(whole));
      const { rows } = await readRows(path), answers = await all(model, ROWS, SHORT);
      const filled = answers.filter(({ output }) => output.trim() !== "");
      assert.deepEqual(rows.map((row) => row.kind === "instruct" && row.output), filled.map(({ output }) => output));
      // What was cut off has no end to learn.
      const end = endToken({ tokenizer, prompt: null });
      for (const [index, row] of rows.entries()) {
        const { tokens } = encodeExample(row, { tokenizer, prompt: null, seq: 200 });
        assert.equal(tokens.at(-1) === end, filled[index]?.hasEnded, JSON.stringify(row));
      }
      assert.ok(filled.some(({ hasEnded }) => !hasEnded), "an answer is cut off");
    });
  });
});

Deno.test("rows that cannot be asked are refused before anything is written", async () => {
  await withDemo(async (model) => {
    const long = toRow({ instruction: "Tom went to Rome. ".repeat(model.spec.maxPosition), output: "x" });
    const refused = async (
      rows: readonly Row[],
      code: "input" | "usage",
      value: Datum,
      how = SETTINGS as AnswersOptions,
    ) => {
      await inTemporaryFolder(async (folder) => {
        const path = `${folder}/own.jsonl`;
        await rejects(() => writeAnswerFile(model, rows, { ...how, path }), code, { value });
        assert.deepEqual(Array.from(Deno.readDirSync(folder)), []);
      });
    };
    await refused([...ROWS, toRow({ text: "Tom." })], "input", "text");
    await refused([long], "input", "tokens");
    await refused(ROWS, "usage", 0, { tokens: 0 });
    await refused(ROWS, "usage", -1, { ...SETTINGS, temperature: -1 });
  });
});
