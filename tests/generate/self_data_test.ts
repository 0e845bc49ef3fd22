// Data that the demo model writes itself: the first tokens, the draws, and a file that can be continued.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { readRows } from "../../lib/local/rows.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { DEMO, openModelFiles } from "../../lib/local/open_model.ts";
import { pageBytes } from "../../lib/nn/decode/cache.ts";
import { loadModelFrom, type Model } from "../../lib/model/model.ts";
import { type SelfDataOptions, type SelfText, writeTexts } from "../../lib/generate/self_data.ts";
import { type SelfDataFileOptions, writeTextFile } from "../../lib/generate/self_data_file.ts";
import { partPath } from "../../lib/generate/series_file.ts";
import { checkRefusal, refuses, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "../formats/files.ts";
import { greedyReference, openDemo, openGoldenModel } from "../run/helpers/reference.ts";
import { together } from "../run/helpers/ranks.ts";
import { sharedDevice } from "../device.ts";

const SETTINGS = { count: 4, tokens: 8, seed: 3 } as const;

async function all(model: Model, options: SelfDataOptions): Promise<SelfText[]> {
  return await Array.fromAsync(writeTexts(model, options));
}

async function withDemo(work: (model: Model, tokenizer: Tokenizer) => Promise<void>): Promise<void> {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  await work(model, demo.tokenizer);
}

Deno.test("the same seed gives the same texts, another seed others, and text n does not depend on the others", async () => {
  await withDemo(async (model) => {
    const texts = await all(model, SETTINGS);
    assert.deepEqual(texts.map(({ index }) => index), [0, 1, 2, 3]);
    assert.ok(texts.every(({ text, tokens }) => text.trim() !== "" && tokens >= 2 && tokens <= SETTINGS.tokens));
    assert.equal(new Set(texts.map(({ text }) => text)).size, texts.length);
    assert.deepEqual(await all(model, SETTINGS), texts);
    assert.deepEqual(await all(model, { ...SETTINGS, skip: 3 }), texts.slice(3));
    assert.notDeepEqual(await all(model, { ...SETTINGS, seed: 4 }), texts);
    assert.notDeepEqual(await all(model, { ...SETTINGS, temperature: 3 }), texts);
  });
});

Deno.test("a text goes on greedily to its third, fourth or fifth token, and is drawn from there", async () => {
  await withDemo(async (model, tokenizer) => {
    // As short as the greedy beginning: temperature and draws cannot matter.
    for (const [index, lead] of [3, 4, 5].entries()) {
      const options = { count: index + 1, skip: index, seed: SETTINGS.seed };
      const [cold] = await all(model, { ...options, tokens: lead, temperature: 0.1 });
      const [hot] = await all(model, { ...options, tokens: lead, temperature: 50 });
      assert.deepEqual(hot, cold);
      const [longer] = await all(model, { ...options, tokens: lead + 6, temperature: 50 });
      assert.ok(longer?.text.startsWith(cold?.text ?? "?"), `${longer?.text} after ${cold?.text}`);
      const [other] = await all(model, { ...options, tokens: lead + 6, temperature: 0.1 });
      assert.notEqual(other?.text, longer?.text);
      // The greedy part against full recomputation.
      const [first] = tokenizer.encode(cold?.text ?? "");
      assert.ok(first !== undefined && cold);
      const ids = await greedyReference(model, [...tokenizer.leading, first], { maxTokens: lead - 1 });
      assert.equal(tokenizer.decode([first, ...ids], { skipSpecial: true }).replace(/\uFFFD+$/, ""), cold.text);
    }
  });
});

Deno.test("first tokens are not special, are whole characters, and do not come twice before all were used", async () => {
  await withDemo(async (model, tokenizer) => {
    // One token behind the first: the text shows both.
    const texts = await all(model, { count: 40, tokens: 2, seed: 1 });
    for (const { text } of texts) {
      assert.ok(text.trim() !== "");
      const [first] = tokenizer.encode(text);
      assert.ok(first !== undefined && !tokenizer.isSpecial(first));
    }
    assert.ok(new Set(texts.map(({ text }) => text)).size > 36, "40 first tokens give about as many texts");
  });
});

Deno.test("texts are the same however many are written in step, and progress tells their share", async () => {
  await withDemo(async (model) => {
    const settings = { ...SETTINGS, count: 7, tokens: 12 }, shares: number[] = [];
    const texts = await all(model, { ...settings, onProgress: (share) => shares.push(share) });
    assert.deepEqual(shares, shares.toSorted((a, b) => a - b));
    assert.ok(shares.length > 3 && (shares[0] ?? 1) > 0 && shares.at(-1) === 1, shares.join());
    for (const atOnce of [1, 3]) {
      // A text takes one page.
      const cacheBytes = 2 * atOnce * pageBytes(model.spec).reduce((sum, layer) => sum + layer, 0);
      assert.deepEqual(await all(model, { ...settings, cacheBytes }), texts, `${atOnce} at once`);
    }
  });
});

Deno.test("ranks share texts out, and get and write those of one process", async () => {
  await withDemo(async (model) => {
    const settings = { ...SETTINGS, count: 7 }, texts = await all(model, settings);
    for (const size of [2, 3]) {
      const got = await Promise.all(together(size).map((ranks) => all(model, { ...settings, skip: 1, ranks })));
      for (const own of got) assert.deepEqual(own, texts.slice(1), `${size} ranks`);
    }
    await inTemporaryFolder(async (folder) => {
      const path = `${folder}/own.jsonl`, seen: number[] = [];
      const file = { ...settings, path, onText: ({ index }: SelfText): void => void seen.push(index) };
      const results = await Promise.all(together(2).map((ranks) => writeTextFile(model, { ...file, ranks })));
      assert.deepEqual(seen, texts.map(({ index }) => index), "the first rank alone tells of texts");
      for (const result of results) assert.deepEqual(result, results[0]);
      const lines = texts.map(({ text, hasEnded }) => JSON.stringify(hasEnded ? { text } : { text, ended: false }));
      assert.equal(await Deno.readTextFile(path), lines.map((line) => `${line}\n`).join(""));
      const odd = together(2).map((ranks) => writeTextFile(model, { ...file, seed: 4 + ranks.rank, ranks }));
      for (const one of odd) await rejects(one, "mismatch", { value: 2, names: "rank 1" });
    });
  });
});

Deno.test("a text that would be empty begins anew with another token, beside others; where none goes on, that is an error", async () => {
  const device = await sharedDevice();
  const { source, tokenizer } = await openModelFiles(DEMO);
  if (!tokenizer) assert.fail("the demo has a tokenizer");
  const writing = async (eosIds: readonly number[]): Promise<readonly SelfText[]> => {
    using model = await loadModelFrom({ ...source, spec: { ...source.spec, eosIds } }, { device, tokenizer });
    return await all(model, { count: 6, tokens: 2, seed: 1 });
  };
  const texts = await writing([]), ids = texts.map(({ text }) => tokenizer.encode(text).at(-1) ?? -1);
  const [end = -1] = ids, ended = new Set(ids.flatMap((id, index) => id === end ? [index] : []));
  assert.ok(ended.size < ids.length, "not all are alike");
  for (const [index, { text, tokens }] of (await writing([end])).entries()) {
    assert.equal(tokens, 2);
    if (ended.has(index)) assert.notEqual(text, texts[index]?.text);
    else assert.equal(text, texts[index]?.text);
  }
  // What is written before one that fails is not lost.
  const every = Array.from({ length: source.spec.vocab }, (_, id) => id), seen: number[] = [];
  const eosIds = every.filter((id) => id !== end);
  using model = await loadModelFrom({ ...source, spec: { ...source.spec, eosIds } }, { device, tokenizer });
  await rejects(
    async () => {
      for await (const { index } of writeTexts(model, { count: 6, tokens: 2, seed: 1 })) seen.push(index);
    },
    "numeric",
    { names: ["text 2", 8] },
  );
  assert.equal(seen[0], 0);
  // Nor are texts of a file: they are kept with as many as there are, as the error says.
  await inTemporaryFolder(async (folder) => {
    const file = { path: `${folder}/own.jsonl`, tokens: 2, seed: 1, count: 6 }, there = seen.length;
    for (const resume of [false, true]) {
      await rejects(writeTextFile(model, { ...file, resume }), "numeric", {
        names: [`text ${there + 1}`, `generate.count: ${there}`],
      });
    }
    assert.equal((await writeTextFile(model, { ...file, count: there, resume: true })).count, there);
    assert.equal((await readRows(file.path)).rows.length, there);
    using silent = await loadModelFrom({ ...source, spec: { ...source.spec, eosIds: every } }, { device, tokenizer });
    await rejects(writeTextFile(silent, { ...file, path: `${folder}/none.jsonl` }), "numeric", { names: "text 1" });
  });
  await rejects(writing(every), "numeric", { names: "text 1" });
});

Deno.test("the file holds the texts, one {text} a line, with what was cut off, and reads as data", async () => {
  await withDemo(async (model) => {
    await inTemporaryFolder(async (folder) => {
      const path = `${folder}/deep/own.jsonl`, seen: number[] = [];
      const result = await writeTextFile(model, { ...SETTINGS, path, onText: ({ index }) => void seen.push(index) });
      const texts = await all(model, SETTINGS);
      const expected = texts.map(({ text, hasEnded }) =>
        JSON.stringify(hasEnded ? { text } : { text, ended: false }) + "\n"
      ).join("");
      assert.equal(await Deno.readTextFile(path), expected);
      const tokens = texts.reduce((sum, text) => sum + text.tokens, 0);
      assert.deepEqual(result, { path, count: 4, resumed: 0, tokens });
      assert.deepEqual(seen, [0, 1, 2, 3]);
      assert.deepEqual(await namesIn(`${folder}/deep`), ["own.jsonl"]);
      const { kind, rows } = await readRows(path);
      assert.deepEqual([kind, rows.length], ["text", 4]);
    });
  });
});

Deno.test("a run that was stopped goes on to the bytes of one that was not, wherever its last line was cut", async () => {
  await withDemo(async (model) => {
    await inTemporaryFolder(async (folder) => {
      const whole = { ...SETTINGS, path: `${folder}/whole.jsonl` };
      await writeTextFile(model, whole);
      const expected = await Deno.readTextFile(whole.path);

      const stop = new AbortController(), path = `${folder}/own.jsonl`;
      const options: SelfDataFileOptions = { ...SETTINGS, path };
      const onText = ({ index }: SelfText): void => {
        if (index === 2) stop.abort(new CompressoError("aborted", { what: "stopped" }));
      };
      await rejects(writeTextFile(model, { ...options, signal: stop.signal, onText }), "aborted");
      assert.deepEqual(await namesIn(folder), ["own.jsonl.part", "whole.jsonl"]);
      const part = await Deno.readFile(partPath(path));

      for (const cut of [0, 1, 20]) {
        await Deno.writeFile(partPath(path), part.subarray(0, part.length - cut));
        let there = -1;
        const { resumed } = await writeTextFile(model, {
          ...options,
          resume: true,
          onStart: (count) => void (there = count),
        });
        assert.equal(await Deno.readTextFile(path), expected);
        assert.deepEqual([resumed, there], cut === 0 ? [3, 3] : [2, 2], `cut by ${cut}`);
        assert.deepEqual(await namesIn(folder), ["own.jsonl", "whole.jsonl"]);
      }
      // Two that write one file would write over each other.
      const other: SelfDataFileOptions = { ...options, path: `${folder}/shared.jsonl` }, told: Promise<unknown>[] = [];
      const onShared = (): void => {
        if (told.length === 0) told.push(writeTextFile(model, other).catch((error: unknown) => error));
      };
      await writeTextFile(model, { ...other, onText: onShared });
      checkRefusal(await told[0], "usage", { names: "shared.jsonl" });
      await Deno.remove(other.path);
      // A part cut within its first line is no part.
      await Deno.writeFile(partPath(path), part.subarray(0, 7));
      assert.equal((await writeTextFile(model, { ...options, resume: true })).resumed, 0);
      assert.equal(await Deno.readTextFile(path), expected);
      // Fewer texts than are written are refused, and nothing is lost; more go on.
      await Deno.writeFile(partPath(path), part);
      await rejects(writeTextFile(model, { ...options, count: 2, resume: true }), "usage", { value: [3, 2] });
      assert.deepEqual(await Deno.readFile(partPath(path)), part);
      await writeTextFile(model, { ...options, count: options.count + 1, resume: true });
      const more = await Deno.readTextFile(path);
      assert.equal(more.trimEnd().split("\n").length, options.count + 1);
      assert.ok(more.startsWith(expected));
    });
  });
});

Deno.test("a run is not continued with other settings, and a wrong option leaves its part alone", async () => {
  await withDemo(async (model) => {
    await inTemporaryFolder(async (folder) => {
      const path = `${folder}/own.jsonl`;
      const stop = new AbortController();
      const onText = (): void => stop.abort(new CompressoError("aborted", { what: "stopped" }));
      const options: SelfDataFileOptions = { ...SETTINGS, path, identity: { weights: "abc" } };
      await rejects(writeTextFile(model, { ...options, signal: stop.signal, onText }), "aborted");
      const part = await Deno.readTextFile(partPath(path));
      const resume = (change: Partial<SelfDataFileOptions>): Promise<unknown> =>
        writeTextFile(model, { ...options, resume: true, ...change });
      for (const change of [{ seed: 4 }, { tokens: 10 }, { temperature: 0.5 }, { identity: { weights: "abd" } }]) {
        await rejects(resume(change), "mismatch", { value: ['"settings"', '"tokens"'] });
      }
      await rejects(resume({ tokens: 1 }), "usage", { names: 2 });
      await rejects(writeTextFile(model, { ...options, count: 0 }), "usage", { value: 0 });
      assert.equal(await Deno.readTextFile(partPath(path)), part);
    });
  });
});

Deno.test("options out of range and a model without tokenizer are refused at once", async () => {
  const device = await sharedDevice();
  const demo = await openDemo(device);
  using model = demo.model;
  const refused = (change: Partial<SelfDataOptions>): () => unknown => () =>
    writeTexts(model, { ...SETTINGS, ...change });
  for (const count of [0, 1.5]) refuses(refused({ count }), "usage", { names: 1 });
  for (const tokens of [1, model.spec.maxPosition + 1, NaN]) {
    refuses(refused({ tokens }), "usage", { names: 512 });
  }
  for (const temperature of [0, -1, Infinity]) {
    refuses(refused({ temperature }), "usage", { names: 0 });
  }
  for (const cacheBytes of [-1, NaN]) refuses(refused({ cacheBytes }), "usage", { names: "cacheBytes" });
  await inTemporaryFolder(async (folder) => {
    const file = { ...SETTINGS, path: `${folder}/texts.jsonl`, count: 1, cacheBytes: -1 };
    await rejects(writeTextFile(model, file), "usage", { names: "cacheBytes" });
  });
  refuses(refused({ skip: -1 }), "usage", { value: -1 });
  refuses(refused({ seed: -1 }), "usage", { value: -1 });
  const { model: bare } = await openGoldenModel("gqa_f16", { device });
  using _bare = bare;
  refuses(() => writeTexts(bare, SETTINGS), "input", { names: "tokenizer.json" });
});

async function namesIn(folder: string): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of Deno.readDir(folder)) names.push(name);
  return names.sort();
}
