// Targets in parameters of the whole model and in bytes of its file: met to within one unit, and turned into a sparsity.
import assert from "node:assert/strict";
import { byteMeasure, byteTarget, type FileKind } from "../../lib/units/file_size.ts";
import { exportHf } from "../disk.ts";
import { type DecoderSpec, parameterCount, tensorShapes, withBiases } from "../../lib/spec/decoder.ts";
import { hardSelection } from "../../lib/masks/harden.ts";
import { parameterMeasure, parameterTarget, restPerDim, targetSparsity } from "../../lib/units/target_size.ts";
import { uniformCounts } from "../../lib/units/uniform.ts";
import { hardSparsity, leastSize, selectedSpec, selectUnits, type SizeTarget } from "../../lib/units/selection.ts";
import { type Selection, type UnitTable, unitTable } from "../../lib/units/table.ts";
import { uniform } from "../../lib/core/random.ts";
import { type Refusal, refuses } from "../refuses.ts";
import { decoder, GROUPED, KINDS, LAYER_KINDS, MULTI_HEAD, UNEVEN } from "./helpers/decoders.ts";

const UNTIED: DecoderSpec = { ...GROUPED, tied: false, vocab: 300 };
const BIASED = withBiases({ ...MULTI_HEAD, vocab: 64 }, ["q", "k", "v"]);
/** Every part is a multiple of 32, so that blocks fit at first. */
const BLOCKED = decoder(Array.from({ length: 3 }, () => ({ heads: 4, kvHeads: 4, ffn: 96 })), {
  hidden: 64,
  headDim: 16,
});
const SPECS = [UNEVEN, UNTIED, BIASED, BLOCKED];
const FILES: readonly FileKind[] = [
  { format: "hf", dtype: "f32" },
  { format: "hf", dtype: "f16" },
  { format: "gguf", dtype: "f16" },
  { format: "gguf", dtype: "q8_0" },
  { format: "gguf", dtype: "q4_0" },
];
const scoresOf = (table: UnitTable, seed: number): Float64Array =>
  Float64Array.from({ length: table.count }, (_, unit) => uniform(seed, unit));

function fails(run: () => unknown, message: Refusal): void {
  refuses(run, "usage", message);
}

/** Bytes of all tensors by the rules of the formats, written out. */
function bytesOf(spec: DecoderSpec, { format, dtype }: FileKind): number {
  const perValue: Readonly<Record<string, number>> = { f32: 4, f16: 2, bf16: 2, q8_0: 34 / 32, q4_0: 18 / 32 };
  let total = 0;
  for (const [name, shape] of tensorShapes(spec)) {
    const values = shape.reduce((product, size) => product * size, 1), isTable = /embed_tokens|lm_head/.test(name);
    const wanted = dtype === "q4_0" && isTable ? "q8_0" : dtype;
    const isBlocked = wanted.startsWith("q"), fits = !isBlocked || (shape.at(-1) ?? 0) % 32 === 0;
    const type = format === "gguf" && shape.length === 1 ? "f32" : fits ? wanted : "f16";
    const bytes = values * (perValue[type] ?? NaN);
    total += format === "gguf" ? 32 * Math.ceil(bytes / 32) : bytes; // tensors are aligned
  }
  return total;
}

function sizeOf(spec: DecoderSpec, { measure }: SizeTarget): number {
  return spec.layers.reduce((sum, layer) => sum + measure.layer(layer, spec.hidden), measure.rest(spec.hidden));
}

Deno.test("measures count what parameterCount() and the tensors of a file do", () => {
  for (
    const spec of [
      ...SPECS,
      { ...UNEVEN, qkNorm: "head" as const },
      { ...BLOCKED, hidden: 50 },
      { ...BLOCKED, layers: [{ heads: 3, kvHeads: 1, ffn: 0 }] },
    ]
  ) {
    assert.equal(sizeOf(spec, { measure: parameterMeasure(spec), most: 0, unit: "" }), parameterCount(spec));
    for (const file of FILES) {
      assert.equal(
        sizeOf(spec, { measure: byteMeasure(spec, file), most: 0, unit: "" }),
        bytesOf(spec, file),
        file.dtype,
      );
    }
  }
});

Deno.test("the bytes are those of a folder's weights, its header left out", async () => {
  for (const dtype of ["f16", "f32"] as const) {
    const folder = await Deno.makeTempDir(), spec = { ...MULTI_HEAD, tied: false }, shapes = tensorShapes(spec);
    const read = (name: string): Promise<Float32Array<ArrayBuffer>> =>
      Promise.resolve(new Float32Array((shapes.get(name) ?? []).reduce((product, size) => product * size, 1)));
    await exportHf({ spec, read, storedDtype: () => "f32" }, `${folder}/model`, { dtype, tokenizer: null });
    const bytes = await Deno.readFile(`${folder}/model/model.safetensors`);
    const header = Number(new DataView(bytes.buffer).getBigUint64(0, true));
    assert.equal(bytes.length - 8 - header, sizeOf(spec, byteTarget(spec, 1, { format: "hf", dtype })));
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("a selection meets a size and not with one unit back, whatever is cut and however it is stored", () => {
  let checked = 0;
  for (const [s, spec] of SPECS.entries()) {
    for (const [k, kinds] of [...KINDS, ...LAYER_KINDS].entries()) {
      if (k < 2) continue; // heads alone are too little of these models
      const table = unitTable(spec, kinds);
      const targets = [
        (most: number) => parameterTarget(spec, most),
        ...FILES.map((file) => (most: number) => byteTarget(spec, most, file)),
      ];
      for (const [t, target] of targets.entries()) {
        const whole = sizeOf(spec, target(1)), share = 0.05 + 0.2 * uniform(4, s, k, t);
        const size = target(Math.floor((1 - share) * whole)), scores = scoresOf(table, t + 10 * k);
        const kept = selectUnits(table, scores, { size }), reached = sizeOf(selectedSpec(table, kept), size);
        const what = `${size.most} ${size.unit} of ${whole}, ${kinds}, ${JSON.stringify(spec.layers[0])}`;
        assert.ok(reached <= size.most, `${reached}: ${what}`);
        // What a dead layer's own units would add, its gate decides.
        const isDead = (u: number): boolean =>
          u < table.ranges.hidden.first && kept[table.layers[table.layer[u] ?? 0]?.gate ?? -1] === 0;
        const cut = [...kept.keys()].filter((u) => kept[u] === 0 && !isDead(u));
        const free = cut.filter((u) => sizeOf(selectedSpec(table, withUnit(kept, u)), size) <= size.most);
        // Without alignment a row that is cut to whole blocks saves more than one that is cut further: then not all are tight.
        const isBlocked = FILES[t - 1]?.dtype.startsWith("q") ?? false;
        assert.ok(isBlocked ? free.length < cut.length : free.length === 0, `${free} could come back: ${what}`);
        checked++;
      }
    }
  }
  assert.ok(checked > 200);

  function withUnit(kept: Selection, unit: number): Selection {
    const more = kept.slice();
    more[unit] = 1;
    return more;
  }
});

Deno.test("aligned blocks fall in order though a block that rows then fit in saves more than the next", () => {
  // Down from 100 to 96 columns down_proj becomes q4_0, which saves much more than 4 columns: passed over, no other block may fall.
  const layer = { heads: 4, kvHeads: 4, ffn: 100 }, spec = decoder([layer, layer], { hidden: 64, headDim: 16 });
  const table = unitTable(spec, ["ffn"], { align: 32 }), file: FileKind = { format: "gguf", dtype: "q4_0" };
  let met = 0;
  for (let most = 50_000; most < sizeOf(spec, byteTarget(spec, 1, file)); most += 97) {
    const size = byteTarget(spec, most, file), kept = selectUnits(table, scoresOf(table, 0), { size });
    const { layers, hidden } = selectedSpec(table, kept);
    for (const { ffn } of layers) assert.ok(ffn === 100 || ffn % 32 === 0, `${ffn} columns for ${most} bytes`);
    assert.ok(sizeOf({ ...spec, layers, hidden }, size) <= most);
    met++;
  }
  assert.ok(met > 50, `${met}`);
});

Deno.test("targetSparsity() is that of the selection that meets the size, also with layers alike", () => {
  for (const spec of [UNTIED, BLOCKED]) {
    for (const kinds of [["kv", "ffn"], ["ffn"], ["kv", "ffn", "hidden"]] as const) {
      const table = unitTable(spec, kinds),
        most = Math.floor(0.8 * parameterCount(spec)),
        size = parameterTarget(spec, most);
      const scores = scoresOf(table, 3), sparsity = targetSparsity(table, size, { scores });
      const kept = selectUnits(table, scores, { target: sparsity });
      const parameters = parameterCount(selectedSpec(table, kept));
      assert.ok(parameters <= most, `${parameters} of ${most} for ${kinds}`);
      assert.equal(hardSparsity(table, kept), sparsity);
      const even = targetSparsity(table, size, { isUniform: true }), counts = uniformCounts(table, { size });
      const shape = { ...spec, hidden: counts.hidden, layers: spec.layers.map(() => counts) };
      assert.ok(parameterCount(shape) <= most && even > 0, `${parameterCount(shape)} of ${most}, alike`);
      assert.ok(
        parameterCount(selectedSpec(table, hardSelection(table, scores, { target: even, size, layout: "uniform" }))) <=
          most,
      );
    }
  }
  // Heads in groups count like their groups.
  const layers = Array.from({ length: 5 }, () => ({ heads: 6, kvHeads: 3, ffn: 24 }));
  const grouped = decoder(layers, { hidden: 48, headDim: 8 });
  const [heads = 0, groups = 0] = (["heads", "kv"] as const).map((kind) =>
    targetSparsity(unitTable(grouped, [kind, "ffn"]), parameterTarget(grouped, 0.82 * parameterCount(grouped)))
  );
  assert.ok(Math.abs(heads - groups) < 0.02, `${heads} and ${groups}`);
  // Without hidden dims the sparsity does not depend on which units fall: embedding and head stay as they are.
  const table = unitTable(BLOCKED, ["ffn"]), size = parameterTarget(BLOCKED, 80_000);
  const [one, other] = [1, 2].map((seed) => targetSparsity(table, size, { scores: scoresOf(table, seed) }));
  assert.equal(one, other);
});

Deno.test("counting embedding and head makes the sparsity that of the whole, however many hidden dims fall", () => {
  for (
    const target of [
      parameterTarget,
      (spec: DecoderSpec, most: number) => byteTarget(spec, most, { format: "gguf", dtype: "f16" }),
    ]
  ) {
    const spec = { ...UNTIED, vocab: 900 }, whole = sizeOf(spec, target(spec, 1)), size = target(spec, 0.75 * whole);
    const rest = restPerDim(spec, size);
    const plain = unitTable(spec, ["ffn", "hidden"]), table = unitTable(spec, ["ffn", "hidden"], { rest });
    const found = [1, 2, 3, 4].map((seed) => {
      const scores = scoresOf(table, seed);
      for (let u = table.ranges.hidden.first; u < table.count; u++) scores[u] = (scores[u] ?? 0) * seed / 2; // ever fewer fall
      return [targetSparsity(table, size, { scores }), targetSparsity(plain, size, { scores })] as const;
    });
    // A hidden dim is 1 / 36 of the whole; norms, which only hidden dims cut, are counted as weights of the layers.
    for (const [sparsity] of found) assert.ok(Math.abs(sparsity - 0.25) < 0.005, `${sparsity}`);
    const linear = found.map(([, sparsity]) => sparsity);
    assert.ok(
      Math.max(...linear) - Math.min(...linear) > 0.05,
      `the share of the layers does depend on them: ${linear}`,
    );
  }
});

Deno.test("sizes that the model has already, or cannot come down to, are refused with the bounds", () => {
  const table = unitTable(UNTIED, ["kv", "ffn"]), whole = parameterCount(UNTIED);
  for (const most of [whole, 2 * whole, 0, -1, NaN]) {
    fails(
      () => targetSparsity(table, parameterTarget(UNTIED, most)),
      { names: "56,736" },
    );
  }
  fails(
    () => targetSparsity(table, parameterTarget(UNTIED, 10_000)),
    { value: "10,000", names: "56,736" },
  );
  fails(
    () => targetSparsity(table, byteTarget(UNTIED, 9999, { format: "hf", dtype: "f16" }), { isUniform: true }),
    { names: "113,472" },
  );
  targetSparsity(table, parameterTarget(UNTIED, whole - 1));
});

Deno.test("where a rule keeps a size out of reach, the least size without it is said, and can be had", () => {
  const free = unitTable(UNTIED, ["kv", "ffn"]), table = unitTable(UNTIED, ["kv", "ffn"], { protect: [0] });
  const size = parameterTarget(UNTIED, 10_000), least = leastSize(free, size);
  fails(() => targetSparsity(table, size), { value: ["10,000", least.toLocaleString("en")] });
  targetSparsity(free, { ...size, most: least });
});
