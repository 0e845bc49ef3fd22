// The product on matrix units. No adapter here has them: the operations on matrices are replaced by loops, which tests
// all else of the kernel, its probe, and when it is chosen. tests/api/webgpu_test.ts compiles it with Dawn.
import assert from "node:assert/strict";
import { type MatrixOperations, type MatrixUnits, productMatrix, UNIT_STEP, UNIT_TILE } from "../../kernels/mod.ts";
import { Device } from "../../lib/gpu/device.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { compileKernel } from "../../lib/gpu/kernel.ts";
import { offeredUnits, unitsAreRight } from "../../lib/gpu/matrix_units.ts";
import { Plan, u32 } from "../../lib/gpu/plan.ts";
import { recordLinear } from "../../lib/nn/products/linear.ts";
import { operand, OperandPool } from "../../lib/nn/products/operand.ts";
import { createMatrix, writeRows } from "../../lib/nn/products/matrix.ts";
import { assertCells, random } from "./helpers/cells.ts";

/** Large, as every multiplication in the text of the kernel is compiled anew. */
const SHAPES: readonly MatrixUnits[] = [{ lanes: 8, m: 32, n: 32, k: 16 }, { lanes: 8, m: 16, n: 32, k: 8 }];

/**
 * The operations as loops: a loaded matrix is its place in memory, and an invocation has every `lanes`th value of a
 * result. `added` is the new value of sum[i], from the factors l and r.
 */
function loops({ lanes, m, n, k }: MatrixUnits, added = "sum[i] + l * r"): MatrixOperations {
  const own = `let e = lane + i * ${lanes}u; let row = e / ${n}u; let column = e % ${n}u;`;
  return {
    enable: "enable f16;\n",
    declare: `
struct Sum { values: array<f32, ${m * n / lanes}> }
fn multiply(left: vec2u, right: vec2u, old: Sum, lane: u32) -> Sum {
  var sum = old.values;
  for (var i = 0u; i < ${m * n / lanes}u; i++) {
    ${own}
    for (var j = 0u; j < ${k}u; j++) {
      let l = f32(tile[left.x + row * left.y + j]);
      let r = f32(weights[right.x + column * right.y + j]);
      sum[i] = ${added};
    }
  }
  return Sum(sum);
}
fn put(at: u32, sum: Sum, lane: u32) {
  var values = sum.values;
  for (var i = 0u; i < ${m * n / lanes}u; i++) { ${own} stage[at + row * ${n}u + column] = values[i]; }
}
`,
    zero: "Sum()",
    left: (at, pitch) => `vec2u(${at}, ${pitch})`,
    right: (at, stride) => `vec2u(${at}, ${stride})`,
    multiply: (left, right, sum) => `multiply(${left}, ${right}, ${sum}, t % ${lanes}u)`,
    store: (at, sum) => `put(${at}, ${sum}, t % ${lanes}u);`,
  };
}

const adapter = await navigator.gpu.requestAdapter();
const isHalf = adapter?.features.has("shader-f16") ?? false;
if (!isHalf) console.log("the kernel of matrix units is left out: the adapter has no f16");
const gpu = isHalf && adapter ? await adapter.requestDevice({ requiredFeatures: ["shader-f16"] }) : null;

Deno.test({
  name: "matrix units that multiply are right, and those that lose bits or order are not",
  ignore: !gpu,
  fn: async () => {
    assert.ok(gpu);
    for (const units of SHAPES) assert.ok(await unitsAreRight(gpu, units, productMatrix(units, loops(units))));
    const [units] = SHAPES;
    assert.ok(units);
    for (
      const added of [
        "bitcast<f32>(bitcast<u32>(sum[i] + l * r) & 0xffffe000u)", // sums of 11 bits
        "sum[i] + bitcast<f32>(bitcast<u32>(l * r) & 0xffff0000u)", // products cut off
        "sum[i] + l * f32(weights[right.x + row * right.y + j])", // rows and columns mixed up
        "sum[i]", // nothing is added
      ]
    ) {
      assert.equal(await unitsAreRight(gpu, units, productMatrix(units, loops(units, added))), false, added);
    }
    // WGSL that the compiler refuses, as Deno's does the real kernel.
    assert.equal(await unitsAreRight(gpu, units), false);
  },
});

Deno.test({
  name: "the product on matrix units writes its rows and columns alone, and adds to what is there",
  ignore: !gpu,
  fn: async () => {
    assert.ok(gpu);
    const device = new Device(gpu, { description: "with f16", vendor: "", isCpu: true });
    const [units] = SHAPES, [rows, outputs, inputs] = [67, 100, 80], stride = 128, width = 192, first = 32;
    assert.ok(units);
    const w = random(outputs * inputs, 1).map((value) => new Float16Array([value])[0] ?? 0);
    // Rows of very different sizes: each has a power of two of its own.
    const x = new Float32Array(rows * stride), values = random(rows * inputs, 2);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < inputs; i++) x[row * stride + i] = (values[row * inputs + i] ?? 0) * 10 ** (row % 13 - 6);
    }
    using matrix = createMatrix(device, "w", { rows: outputs, cols: inputs, dtype: "f16", placement: "buffer" });
    writeRows(device, matrix, 0, w);
    const [shard] = matrix.shards;
    assert.ok(shard);
    const before = random(rows * width, 3);
    using bufferX = device.uploadBuffer("x", x);
    using y = device.uploadBuffer("y", before);
    using plan = new Plan(device);
    const columns = 128 - 24;
    const params = [
      rows,
      columns,
      matrix.stride / UNIT_STEP,
      0,
      stride / 4,
      matrix.stride / 4,
      first / 4,
      width / 4,
      1,
    ];
    const kernel = compileKernel(device, productMatrix(units, loops(units)));
    plan.dispatch(kernel, [bufferX, ...shard.resources, y, { params: params.map(u32) }], {
      groups: [Math.ceil(rows / UNIT_TILE), Math.ceil(columns / UNIT_TILE)],
    });
    await plan.finish().run();
    const got = await device.readFloats(y, rows * width);
    assertCells(got, {
      what: "y",
      rows,
      stride: width,
      want: (row, at) => {
        const column = at - first, old = before[row * width + at] ?? 0;
        let value = old, size = 0;
        for (let i = 0; column >= 0 && column < outputs && i < inputs; i++) {
          const term = (x[row * stride + i] ?? 0) * (w[column * inputs + i] ?? 0);
          value += term;
          size += Math.abs(term);
        }
        // Twice the sums of f32, and what the halves of x lose.
        return { value, bound: size === 0 ? 0 : (2 * inputs + 8) * 2 ** -24 * size + 2 ** -23 * Math.abs(value) };
      },
    });
    device.check();
    device[Symbol.dispose]();
  },
});

Deno.test("matrix units are offered by an adapter with f16, sums in f32, and subgroups of one size", () => {
  const features = new Set(["chromium-experimental-subgroup-matrix", "shader-f16", "subgroups"]);
  const configs = [
    { componentType: "f16", resultComponentType: "f16", M: 16, N: 16, K: 16 },
    { componentType: "f16", resultComponentType: "f32", M: 12, N: 16, K: 16 },
    { componentType: "f16", resultComponentType: "f32", M: 8, N: 16, K: 16 },
  ];
  const info = { subgroupMinSize: 32, subgroupMaxSize: 32, subgroupMatrixConfigs: configs };
  const offered = (changes: object, own = features): MatrixUnits | null =>
    offeredUnits({ features: own, info: { ...info, ...changes } } as unknown as GPUAdapter);
  assert.deepEqual(offered({}), { lanes: 32, m: 8, n: 16, k: 16 });
  assert.equal(offered({ subgroupMinSize: 16 }), null);
  assert.equal(offered({ subgroupMatrixConfigs: configs.slice(0, 2) }), null);
  assert.equal(offered({ subgroupMatrixConfigs: undefined }), null);
  for (const name of features) assert.equal(offered({}, new Set([...features].filter((own) => own !== name))), null);
});

Deno.test("forward products with f16 weights of many rows use matrix units, others do not", () => {
  const names = (direction: "forward" | "backward", dtype: "f16" | "q8" | "f32", rows: number): string[] => {
    using device = openDryDevice({ isCpu: false });
    Object.defineProperty(device, "matrixUnits", { value: { lanes: 32, m: 16, n: 16, k: 16 } });
    const made: string[] = [], { gpu } = device, make = gpu.createComputePipeline.bind(gpu);
    gpu.createComputePipeline = (descriptor) => (made.push(descriptor.label ?? ""), make(descriptor));
    using w = createMatrix(device, "w", { rows: 128, cols: 128, dtype });
    using x = device.createBuffer("x", 4 * 128 * 128);
    using y = device.createBuffer("y", 4 * 128 * 128);
    using pool = new OperandPool(device);
    using plan = new Plan(device);
    const view = operand(plan, pool, x, { rows, stride: 128 });
    recordLinear(plan, view, w, { buffer: y, stride: 128 }, { rows, direction });
    return made;
  };
  assert.deepEqual(names("forward", "f16", 100), ["product-matrix-f16-16x16x16"]);
  for (
    const [direction, dtype, rows] of [["forward", "f16", 8], ["backward", "f16", 100], ["forward", "q8", 100]] as const
  ) {
    assert.match(names(direction, dtype, rows).join(), /^product-tiled-/);
  }
});
