import assert from "node:assert/strict";
import {
  type DecoderSpec,
  type LayerSpec,
  PROJECTIONS,
  tensorShapes,
  withBiases,
  withWindow,
} from "../../lib/spec/decoder.ts";
import { openGgufFile } from "../disk.ts";
import { deciLayers } from "../../lib/families/llama.ts";
import type { GgufExportOptions } from "../../lib/formats/gguf/export.ts";
import { exportGguf } from "../disk.ts";
import { type GgufSource } from "../../lib/formats/gguf/model.ts";
import { openGguf } from "../disk.ts";
import type { GgufValue } from "../../lib/formats/gguf/types.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { type Refusal, rejects } from "../refuses.ts";
import { inTemporaryFolder } from "./files.ts";
import { assertSameWeights, randomSource, SPEC } from "./models.ts";

const OPTIONS: GgufExportOptions = { dtype: "f32", tokenizerMetadata: new Map(), name: "test" };

/** Exports into a temporary folder and hands the file, opened again, to `body`. */
async function exported(
  source: WeightSource,
  options: Partial<GgufExportOptions>,
  body: (source: GgufSource, fellBack: readonly string[]) => void | Promise<void>,
): Promise<void> {
  await inTemporaryFolder(async (folder) => {
    const { fellBack } = await exportGguf(source, `${folder}/a.gguf`, { ...OPTIONS, ...options });
    await body(await openGguf(`${folder}/a.gguf`), fellBack);
  });
}

function withLayers(...layers: (readonly [number, number, number, number?])[]): DecoderSpec {
  const specOf = ([heads, kvHeads, ffn, window]: typeof layers[number]) => withWindow({ heads, kvHeads, ffn }, window);
  return { ...SPEC, layers: layers.map(specOf) };
}

Deno.test("exportGguf() writes alike layers as arch llama, and openGguf() gives the same model back", async () => {
  for (const tied of [false, true]) {
    const source = randomSource({ ...SPEC, tied });
    await exported(source, {}, async (read) => {
      assert.deepEqual(read.spec, source.spec);
      assert.equal(read.metadata.get("general.architecture"), "llama");
      assert.equal(read.metadata.get("general.name"), "test");
      assert.equal(read.metadata.get("llama.attention.head_count_kv"), 2);
      assert.equal(read.metadata.get("tokenizer.ggml.eot_token_id"), 5);
      await assertSameWeights(read, source);
    });
  }
});

Deno.test("all tokens that end a text are still those in a GGUF, whichever of them is the tokenizer's", async () => {
  for (const own of [null, 2, 5, 7, 9]) {
    for (const eosIds of [[2, 5, 7], [2, 5, 7, 11, 13]]) {
      const source = randomSource({ ...SPEC, eosIds });
      const tokenizerMetadata = new Map(own === null ? [] : [["tokenizer.ggml.eos_token_id", own] as const]);
      await exported(source, { tokenizerMetadata }, ({ spec }) => {
        const wanted = new Set([...eosIds, ...own === null ? [] : [own]]);
        assert.deepEqual(spec.eosIds.toSorted((a, b) => a - b), [...wanted].sort((a, b) => a - b), `${own}`);
        return Promise.resolve();
      });
    }
  }
});

Deno.test("exportGguf() writes the rows of q and k in llama.cpp's order, those of v as they are", async () => {
  await inTemporaryFolder(async (folder) => {
    const source = randomSource(SPEC);
    await exportGguf(source, `${folder}/a`, OPTIONS);
    const file = await openGgufFile(`${folder}/a`);
    const rows = (data: Float32Array, ...order: number[]): number[] =>
      order.flatMap((row) => [...data.slice(row * 20, row * 20 + 20)]);
    for (const [own, name] of [["attn_q", "q"], ["attn_k", "k"]] as const) {
      const stored = await file.readTensor(`blk.0.${own}.weight`);
      const original = await source.read(`model.layers.0.self_attn.${name}_proj.weight`);
      assert.deepEqual(rows(stored, 0, 1, 2, 3, 4, 5, 6, 7), rows(original, 0, 3, 1, 4, 2, 5, 6, 9), name);
    }
    assert.deepEqual(
      await file.readTensor("blk.0.attn_v.weight"),
      await source.read("model.layers.0.self_attn.v_proj.weight"),
    );
  });
});

Deno.test("exportGguf() writes layers that differ as arch deci, without the tensors of absent parts", async () => {
  const source = randomSource(withLayers([4, 2, 33], [0, 0, 7], [3, 1, 1], [0, 0, 0], [6, 6, 5]));
  await exported(source, {}, async (read) => {
    assert.equal(read.metadata.get("general.architecture"), "deci");
    assert.deepEqual(read.metadata.get("deci.attention.head_count"), Int32Array.of(4, 0, 3, 0, 6));
    assert.deepEqual(read.metadata.get("deci.attention.head_count_kv"), Int32Array.of(2, 0, 1, 0, 6));
    assert.deepEqual(read.metadata.get("deci.feed_forward_length"), Int32Array.of(33, 7, 1, 0, 5));
    assert.equal(read.metadata.get("deci.rope.freq_base"), 12345);
    assert.deepEqual(read.spec, source.spec);
    assert.ok(!read.tensors.has("blk.1.attn_norm.weight") && !read.tensors.has("blk.3.ffn_norm.weight"));
    await assertSameWeights(read, source);
  });
});

Deno.test("exportGguf() writes the sliding window and which layers have it, and openGguf() gives them back", async () => {
  const windowed = (...windows: readonly (number | undefined)[]): DecoderSpec => {
    const { layers: [layer] } = SPEC;
    assert.ok(layer);
    return { ...SPEC, layers: windows.map((window) => withWindow(layer, window)) };
  };
  for (
    const [spec, pattern] of [
      [windowed(7, 7), undefined],
      [windowed(7, undefined, 7), [true, false, true]],
      [withLayers([4, 2, 33, 9], [2, 1, 7]), [true, false]],
    ] as const
  ) {
    const source = randomSource(spec);
    await exported(source, {}, async (read) => {
      const arch = String(read.metadata.get("general.architecture"));
      assert.equal(read.metadata.get(`${arch}.attention.sliding_window`), spec.layers[0]?.window);
      assert.deepEqual(read.metadata.get(`${arch}.attention.sliding_window_pattern`), pattern);
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    });
  }
  await inTemporaryFolder(async (folder) => {
    const source = randomSource(windowed(7, 9));
    await rejects(exportGguf(source, `${folder}/a`, OPTIONS), "input", { value: [7, 9] });
  });
});

Deno.test("exportGguf() writes biases, those of q and k in llama.cpp's order, and openGguf() finds them", async () => {
  for (const biases of [PROJECTIONS, ["o", "down"], ["q", "k", "v"]] as const) {
    const alike = randomSource(withBiases(SPEC, biases));
    const differing = randomSource(withBiases(withLayers([4, 2, 33], [0, 0, 7], [3, 1, 1]), biases));
    for (const source of [alike, differing]) {
      await exported(source, { dtype: "f16" }, async (read) => {
        assert.deepEqual(read.spec, source.spec);
        await assertSameWeights(read, source, 2 ** -12);
        for (const name of tensorShapes(source.spec).keys()) {
          if (name.endsWith(".bias")) assert.equal(read.storedDtype(name), "f32", name);
        }
      });
    }
  }
  await inTemporaryFolder(async (folder) => {
    const source = randomSource(withBiases(SPEC, ["k", "v"]));
    await exportGguf(source, `${folder}/a`, OPTIONS);
    const file = await openGgufFile(`${folder}/a`);
    const original = await source.read("model.layers.1.self_attn.k_proj.bias");
    const order = [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11];
    assert.deepEqual([...await file.readTensor("blk.1.attn_k.bias")], order.map((row) => original[row]));
    assert.deepEqual(
      await file.readTensor("blk.1.attn_v.bias"),
      await source.read("model.layers.1.self_attn.v_proj.bias"),
    );
  });
});

/** A Qwen2: heads · head_dim = hidden, and biases of q, k and v. */
const QWEN2: DecoderSpec = withBiases({ ...SPEC, hidden: 24 }, ["q", "k", "v"]);

Deno.test("exportGguf() writes a Qwen2 as arch qwen2 with the rows of q and k as they are, and openGguf() gives it back", async () => {
  const linear = { base: 500, scaling: { kind: "linear", factor: 2.5 } } as const;
  for (const spec of [QWEN2, { ...QWEN2, tied: true, rope: linear }]) {
    const source = randomSource(spec);
    await exported(source, {}, async (read) => {
      assert.equal(read.metadata.get("general.architecture"), "qwen2");
      assert.equal(read.metadata.get("qwen2.attention.head_count_kv"), 2);
      assert.ok(![...read.metadata.keys()].some((key) => key.startsWith("llama.")));
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    });
  }
  await inTemporaryFolder(async (folder) => {
    const source = randomSource(QWEN2);
    await exportGguf(source, `${folder}/a`, OPTIONS);
    const file = await openGgufFile(`${folder}/a`);
    for (const part of ["weight", "bias"]) {
      const stored = await file.readTensor(`blk.1.attn_q.${part}`);
      assert.deepEqual(stored, await source.read(`model.layers.1.self_attn.q_proj.${part}`));
    }
  });
});

Deno.test("exportGguf() takes llama or deci for biases where llama.cpp's qwen2 does not fit, and refuses qwen2 by name", async () => {
  const factors = { base: 500, scaling: { kind: "factors", factors: [1, 2, 4] } } as const;
  const cases: readonly (readonly [DecoderSpec, string, Refusal])[] = [
    [withBiases(QWEN2, PROJECTIONS), "llama", { names: "qwen2" }],
    [withBiases(QWEN2, []), "llama", { names: "qwen2" }],
    [{ ...QWEN2, hidden: 20 }, "llama", { value: 24, names: ["head_dim", 20] }],
    [{ ...QWEN2, rope: factors }, "llama", { names: "RoPE" }],
    [{ ...QWEN2, layers: [L(4, 2, 33), L(4, 2, 32)] }, "deci", { value: ["layer 1", 4, "KV", 32] }],
  ];
  for (const [spec, arch, error] of cases) {
    const source = randomSource(spec);
    await exported(source, {}, async (read) => {
      assert.equal(read.metadata.get("general.architecture"), arch);
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    });
    await inTemporaryFolder(async (folder) => {
      await rejects(exportGguf(source, `${folder}/a`, { ...OPTIONS, arch: "qwen2" }), "usage", error);
    });
  }
});

Deno.test("exportGguf() writes norms of q and k heads as arch qwen3, and says why no other shape has one", async () => {
  const qwen3: DecoderSpec = { ...SPEC, qkNorm: "head" };
  for (const spec of [qwen3, { ...qwen3, tied: true }]) {
    const source = randomSource(spec);
    await exported(source, {}, async (read) => {
      assert.equal(read.metadata.get("general.architecture"), "qwen3");
      assert.equal(read.metadata.get("qwen3.attention.key_length"), 6);
      assert.deepEqual(read.tensors.get("blk.1.attn_q_norm.weight")?.shape, [6]);
      assert.deepEqual(read.spec, spec);
      await assertSameWeights(read, source);
    });
  }
  const cases: readonly (readonly [DecoderSpec, Refusal])[] = [
    [
      { ...qwen3, layers: [L(4, 2, 33), L(4, 2, 32)] },
      { value: "layer 1", names: "qwen3" },
    ],
    [withBiases(qwen3, ["q", "k", "v", "o"]), { names: "qwen3" }],
    [{ ...qwen3, rope: { base: 500, scaling: { kind: "factors", factors: [1, 2, 4] } } }, { value: "factors" }],
  ];
  await inTemporaryFolder(async (folder) => {
    for (const [spec, error] of cases) {
      await rejects(exportGguf(randomSource(spec), `${folder}/a`, OPTIONS), "input", error);
    }
    const untied = { ...OPTIONS, arch: "openelm" as const };
    await rejects(exportGguf(randomSource(qwen3), `${folder}/a`, untied), "usage", { names: "openelm" });
    const llama = { ...OPTIONS, arch: "llama" as const };
    await rejects(exportGguf(randomSource(qwen3), `${folder}/a`, llama), "usage", { names: "qwen3" });
    const plain = { ...OPTIONS, arch: "qwen3" as const };
    await rejects(exportGguf(randomSource(SPEC), `${folder}/a`, plain), "usage", { names: "qwen3" });
  });
});

Deno.test("exportGguf() writes normed heads of layers that differ as arch openelm, q, k and v in one tensor, which reads back in ranges", async () => {
  const spec: DecoderSpec = { ...SPEC, tied: true, qkNorm: "head", layers: [L(4, 2, 33), L(0, 0, 7), L(3, 1, 0)] };
  const source = randomSource(spec);
  await exported(source, {}, async (read) => {
    assert.equal(read.metadata.get("general.architecture"), "openelm");
    assert.deepEqual(read.spec, { ...spec, layers: [L(4, 2, 33), L(1, 1, 7), L(3, 1, 1)] });
    assert.deepEqual(read.tensors.get("blk.0.attn_qkv.weight")?.shape, [48, 20]);
    assert.ok(!read.tensors.has("blk.0.attn_q.weight"));
    await assertSameWeights(read, source);
    for (const part of ["q", "k", "v"]) {
      const name = `model.layers.0.self_attn.${part}_proj.weight`, range = { start: 5, count: 3 };
      assert.deepEqual(await read.read(name, range), await source.read(name, range));
    }
    assert.ok((await read.read("model.layers.1.self_attn.k_proj.weight")).every((value) => value === 0));
    assert.ok((await read.read("model.layers.1.self_attn.k_norm.weight")).every((value) => value === 1));
  });
  const wide = randomSource({ ...spec, hidden: 32, headDim: 8 });
  await exported(wide, { dtype: "q8_0" }, async (read) => {
    const name = "model.layers.0.self_attn.v_proj.weight", whole = await read.read(name);
    const blocks = await read.readBlocks?.(name, { bits: 8, rows: { start: 4, count: 2 } });
    assert.equal(blocks?.codes.length, 2 * 32);
    assert.deepEqual(await read.read(name, { start: 4, count: 2 }), whole.slice(4 * 32, 6 * 32));
  });
});

const L = (heads: number, kvHeads: number, ffn: number): LayerSpec => ({ heads, kvHeads, ffn });

Deno.test("deciLayers() keeps a zero FFN column where a layer has heads: llama.cpp would drop their output", () => {
  assert.deepEqual(deciLayers([L(4, 2, 8), L(4, 2, 0), L(4, 2, 8)]), [L(4, 2, 8), L(4, 2, 1), L(4, 2, 8)]);
});

Deno.test("deciLayers() keeps a zero head in layer 0, and with it a zero FFN column: llama.cpp would fail to load", () => {
  assert.deepEqual(deciLayers([L(0, 0, 8), L(0, 0, 8)]), [L(1, 1, 8), L(0, 0, 8)]);
  assert.deepEqual(deciLayers([L(0, 0, 0), L(0, 0, 8)]), [L(1, 1, 1), L(0, 0, 8)]);
});

Deno.test("deciLayers() keeps a zero FFN column in the last layer: llama.cpp would abort", () => {
  assert.deepEqual(deciLayers([L(4, 2, 8), L(0, 0, 0), L(0, 0, 0)]), [L(4, 2, 8), L(0, 0, 0), L(0, 0, 1)]);
});

Deno.test("exportGguf() adds zero heads and columns with norms of 1, and leaves the rest as it is", async () => {
  const source = randomSource(withBiases(withLayers([0, 0, 9], [2, 1, 0], [0, 0, 0]), ["o", "down"]));
  await exported(source, { dtype: "f16" }, async (read, fellBack) => {
    assert.deepEqual(read.spec.layers, [L(1, 1, 9), L(2, 1, 1), L(0, 0, 1)]);
    assert.deepEqual(fellBack, []);
    for (const name of tensorShapes(read.spec).keys()) {
      if (tensorShapes(source.spec).has(name)) continue;
      const values = await read.read(name);
      const expected = name.endsWith("layernorm.weight") ? 1 : 0;
      assert.ok(values.length > 0 && values.every((value) => value === expected), name);
    }
    // f16 keeps 11 bits of values below 1.
    await assertSameWeights(read, source, 2 ** -12);
  });
});

Deno.test("exportGguf() refuses arch llama for layers that differ, and writes alike layers as deci when told to", async () => {
  await inTemporaryFolder(async (folder) => {
    const options = { ...OPTIONS, arch: "llama" as const };
    const differing = randomSource(withLayers([4, 2, 33], [4, 2, 32]));
    await rejects(exportGguf(differing, `${folder}/a`, options), "usage", { value: ["layer 1", 4, "KV", 32] });
    const empty = randomSource(withLayers([4, 2, 0], [4, 2, 0]));
    await rejects(exportGguf(empty, `${folder}/a`, options), "usage", { value: ["layer 0", 4, 2, "KV"] });
    assert.deepEqual(await Array.fromAsync(Deno.readDir(folder)), []);
  });
  await exported(randomSource(SPEC), { arch: "deci" }, (read) => {
    assert.equal(read.metadata.get("general.architecture"), "deci");
    assert.deepEqual(read.spec, SPEC);
  });
});

Deno.test("exportGguf() quantises what has rows of 32 values, and says what fell back to f16", async () => {
  const spec: DecoderSpec = { ...SPEC, hidden: 64, headDim: 16, layers: [L(4, 2, 96), L(4, 2, 33)] };
  const source = randomSource(spec);
  const quality = { q8_0: 0.0045, q4_0: 0.075 };
  for (const dtype of ["q8_0", "q4_0"] as const) {
    await exported(source, { dtype }, async (read, fellBack) => {
      assert.deepEqual(fellBack, ["blk.1.ffn_down.weight"]);
      assert.equal(read.storedDtype("model.layers.1.mlp.down_proj.weight"), "f16");
      assert.equal(read.storedDtype("model.layers.0.mlp.down_proj.weight"), dtype);
      assert.equal(read.storedDtype("model.layers.0.self_attn.q_proj.weight"), dtype);
      assert.equal(read.storedDtype("lm_head.weight"), "q8_0");
      assert.equal(read.metadata.get("general.file_type"), { q8_0: 7, q4_0: 2 }[dtype]);
      assert.equal(read.storedDtype("model.layers.1.input_layernorm.weight"), "f32");
      // Half a step: 1/127 for q8_0, 1/8 for q4_0 (a whole one at its positive end), and the f16 rounding of the scale.
      await assertSameWeights(read, source, dtype === "q4_0" ? 0.126 : quality[dtype]);
    });
  }
});

Deno.test("exportGguf() names f16 where most weights are, whatever was asked for", async () => {
  const source = randomSource({ ...SPEC, hidden: 36, headDim: 8, layers: [L(4, 2, 96)] });
  await exported(source, { dtype: "q4_0" }, (read) => {
    assert.equal(read.storedDtype("model.layers.0.mlp.down_proj.weight"), "q4_0");
    assert.equal(read.storedDtype("model.layers.0.mlp.up_proj.weight"), "f16");
    assert.equal(read.metadata.get("general.file_type"), 1);
  });
});

Deno.test("exportGguf() writes llama3 scaling as its divisors: 1 for short waves, the factor for long ones", async () => {
  const scaling = { kind: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPosition: 64 } as const;
  const spec: DecoderSpec = { ...SPEC, headDim: 8, hidden: 32, rope: { base: 500, scaling } };
  await exported(randomSource(spec), {}, (read) => {
    assert.ok(read.spec.rope.scaling.kind === "factors");
    // By hand: wavelengths 2π · 500^(i / 4) = 6.28, 29.7, 140.5, 664.4; short up to 16, long from 64 on, between them
    // s = (64 / 29.7113 − 1) / 3 = 0.38469, divisor 1 / ((1 − s) / 8 + s) = 2.16637.
    const expected = [1, 2.16637, 8, 8];
    read.spec.rope.scaling.factors.forEach((factor, i) =>
      assert.ok(Math.abs(factor - Number(expected[i])) < 2e-5, `${i}: ${factor}`)
    );
  });
});

Deno.test("exportGguf() writes linear scaling and divisors so that they come back", async () => {
  for (const scaling of [{ kind: "linear", factor: 2.5 }, { kind: "factors", factors: [1, 2.5, 8] }] as const) {
    const spec = { ...SPEC, rope: { base: 500, scaling } };
    await exported(randomSource(spec), {}, (read) => {
      if (scaling.kind === "linear") return assert.deepEqual(read.spec.rope, spec.rope);
      assert.ok(read.spec.rope.scaling.kind === "factors");
      read.spec.rope.scaling.factors.forEach((factor, i) =>
        assert.ok(Math.abs(factor - Number(scaling.factors[i])) < 1e-6)
      );
    });
  }
});

Deno.test("exportGguf() passes the tokenizer on, and fills in the token ids that it does not name", async () => {
  const tokens = Array.from({ length: SPEC.vocab }, (_, id) => `t${id}`);
  const tokenizerMetadata = new Map<string, GgufValue>(
    [
      ["tokenizer.ggml.model", "gpt2"],
      ["tokenizer.ggml.tokens", tokens],
      ["tokenizer.ggml.eos_token_id", 5],
      ["tokenizer.ggml.token_type", Int32Array.from(tokens, (_, id) => id === 1 ? 3 : 1)],
    ],
  );
  await exported(randomSource(SPEC), { tokenizerMetadata }, (read) => {
    for (const [key, value] of tokenizerMetadata) assert.deepEqual(read.metadata.get(key), value);
    assert.deepEqual(read.spec.eosIds, [5, 2]);
    assert.equal(read.spec.bosId, 1);
  });
  await inTemporaryFolder(async (folder) => {
    const short = new Map([["tokenizer.ggml.tokens", tokens.slice(1)]]);
    const failing = exportGguf(randomSource(SPEC), `${folder}/a`, { ...OPTIONS, tokenizerMetadata: short });
    await rejects(failing, "mismatch", { value: 36, names: 37 });
    const foreign = new Map([["llama.block_count", 3]]);
    const other = exportGguf(randomSource(SPEC), `${folder}/a`, { ...OPTIONS, tokenizerMetadata: foreign });
    await rejects(other, "usage", { value: "llama.block_count" });
  });
});

Deno.test("exportGguf() names no token for BOS or padding that stands in texts by its type", async () => {
  const source = randomSource({ ...SPEC, padId: 4 });
  // Unknown to the file, normal, unknown, control, user-defined, unused, byte.
  for (const [type, isNamed] of [[0, true], [1, false], [2, true], [3, true], [4, false], [5, true], [6, false]]) {
    const types: [string, GgufValue][] = type === 0
      ? []
      : [["tokenizer.ggml.token_type", new Int32Array(SPEC.vocab).fill(Number(type))]];
    await exported(source, { tokenizerMetadata: new Map(types) }, (read) => {
      assert.deepEqual([read.spec.bosId, read.spec.padId], isNamed ? [1, 4] : [null, null], `type ${type}`);
      assert.deepEqual(read.spec.eosIds, SPEC.eosIds);
    });
  }
});

Deno.test("exportGguf() may write over the file that it reads", async () => {
  await inTemporaryFolder(async (folder) => {
    const path = `${folder}/a.gguf`;
    const original = randomSource(SPEC);
    await exportGguf(original, path, OPTIONS);
    await exportGguf(await openGguf(path), path, { ...OPTIONS, name: "again" });
    const again = await openGguf(path);
    assert.equal(again.metadata.get("general.name"), "again");
    await assertSameWeights(again, original);
  });
});
