// The benchmark suite's own arithmetic, and a run of all its parts at tiny sizes: that it measures, writes and draws, not how fast anything is.
import assert from "node:assert/strict";
import { openDevice } from "../../lib/gpu/device.ts";
import { EMBEDDING, projectionName } from "../../lib/spec/decoder.ts";
import { refuses } from "../refuses.ts";
import { shares } from "../../scripts/bench/cases.ts";
import { linearTicks, logTicks, si } from "../../scripts/bench/chart.ts";
import { findings, fits } from "../../scripts/bench/growth.ts";
import { bench } from "../../scripts/bench/main.ts";
import { measureBatches, measureMemory, runTests } from "../../scripts/bench/gpu_parts.ts";
import { parseOptions, PARTS } from "../../scripts/bench/options.ts";
import { randomModel, SMOLLM2, specOf } from "../../scripts/bench/random_model.ts";
import { evaluate, logLogExponent, median, polynomialFit } from "../../scripts/bench/stats.ts";
import { type BenchResults, MODELS } from "../../scripts/bench/suite.ts";
import { type Timing, typical } from "../../scripts/bench/timing.ts";
import { assertStandsAlone } from "../report/svg.ts";

Deno.test("median() is the middle of the sorted values, the mean of two for an even count", () => {
  assert.equal(median([10, 9, 100]), 10);
  assert.equal(median([4, 1, 3, 2]), 2.5);
  assert.equal(median([7]), 7);
  assert.ok(Number.isNaN(median([])));
});

Deno.test("the benchmark of a GPU machine plans the memory that a step takes, and decodes several sequences", async () => {
  using device = await openDevice();
  const source = randomModel(specOf(MODELS.tiny), { seed: 1 });
  const [memory] = await measureMemory(device, source, { scale: "tiny" });
  assert.ok(memory && memory.measured > 0);
  assert.equal(memory.planned, memory.measured);
  const rows = await measureBatches(device, source, { scale: "tiny", counts: [1, 3] });
  assert.deepEqual(rows.map(({ sequences }) => sequences), [1, 3]);
  assert.equal(device.liveCount, 0);
});

Deno.test("a run of test files is counted, and cut short where its time is over", async () => {
  const whole = await runTests("tests/core/digest_test.ts", { seconds: 120 });
  assert.ok(whole.isWhole && whole.passed > 0 && whole.failed === 0);
  const none = await runTests("tests/core/digest_test.ts", { seconds: 0.01 });
  assert.deepEqual(none, { passed: 0, failed: 0, isWhole: false, tail: "" });
});

Deno.test("polynomialFit() finds the coefficients of exact data, whatever their sizes", () => {
  const x = [128, 256, 512, 1024, 2048];
  for (const exact of [[0.02, 3e-5], [5e-3, 1e-4, 5e-8], [1e9, 0, 2], [0, 7]]) {
    const y = x.map((value) => evaluate(exact, value));
    const { coefficients, r2 } = polynomialFit(x, y, { degree: exact.length - 1 });
    // Each term against the largest y: a coefficient of 0 has no relative error. Rounding of the normal equations stays far below 1e-9.
    coefficients.forEach((value, power) => {
      const error = Math.abs(value - (exact[power] ?? NaN)) * 2048 ** power / Math.max(...y);
      assert.ok(error < 1e-9, `coefficient ${power} is ${value}, not ${exact[power]}`);
    });
    assert.ok(r2 > 1 - 1e-9, `r² is ${r2}`);
  }
});

Deno.test("polynomialFit() weighs points by their relative error and refuses too few of them", () => {
  // Twice y at the small end pulls as hard as twice y at the large end.
  const { coefficients } = polynomialFit([1, 1000], [2, 4], { degree: 0 });
  assert.ok(Math.abs((coefficients[0] ?? NaN) - (1 / 2 + 1 / 4) / (1 / 4 + 1 / 16)) < 1e-12);
  assert.throws(() => polynomialFit([1, 2], [1, 2], { degree: 2 }), RangeError);
});

Deno.test("logLogExponent() finds the power of an exact power law", () => {
  const x = [1, 2, 4, 8];
  for (const power of [0, 1, 1.7, 2, -1]) {
    const found = logLogExponent(x, x.map((value) => 3e-4 * value ** power));
    assert.ok(Math.abs(found - power) < 1e-12, `${found} is not ${power}`);
  }
});

Deno.test("findings() names what grows faster than the mathematics requires, and nothing else", () => {
  const clock = { kind: "wall", cores: 2 } as const;
  const timing = (seconds: number): Timing => ({ seconds: [seconds], cpuSeconds: [seconds] });
  const measured = (products: number): string[] => {
    const points = [128, 256, 512, 1024].map((x) => ({
      x,
      timing: timing(1e-6 * (x ** 2 + x ** products)),
      peakBytes: 1e6 + 1000 * x,
      // Attention is quadratic, as it must be; copies are cubic, but too small to matter.
      sections: {
        attention: timing(1e-6 * x ** 2),
        products: timing(1e-6 * x ** products),
        copies: timing(1e-13 * x ** 3),
      },
    }));
    return findings({ axis: "sequence", growths: fits("sequence", points, { clock }) });
  };
  assert.deepEqual(measured(1), []);
  assert.deepEqual(measured(1.5), ["products grows with sequence as x^1.50 at its largest sizes; x^1 is required"]);
});

Deno.test("typical() divides CPU seconds by the cores, and takes wall seconds as they are", () => {
  const timing = { seconds: [3, 9, 5], cpuSeconds: [4, 2, 6] };
  assert.equal(typical({ kind: "cpu", cores: 2 }, timing), 2);
  assert.equal(typical({ kind: "wall", cores: 2 }, timing), 5);
});

Deno.test("shares() cuts repeats into parts that add up, each at least one", () => {
  assert.deepEqual(shares(7, 4), [1, 2, 2, 2]);
  assert.deepEqual(shares(3, 1), [3]);
  assert.deepEqual(shares(2, 3), [1, 1, 1]);
});

Deno.test("ticks are round and cover the values", () => {
  assert.deepEqual(linearTicks(187, 6), [0, 50, 100, 150, 200]);
  assert.deepEqual(logTicks([0.9, 110], 6), [1, 3, 10, 30, 100]);
  assert.equal(si(0.00213, "s"), "2.13 ms");
  assert.equal(si(47.5e6, "B"), "47.5 MB");
});

Deno.test("parseOptions() refuses unknown parts and options", () => {
  assert.deepEqual([...parseOptions(["--only", "growth,kernels"])?.parts ?? []], ["kernels", "growth"]);
  assert.equal(parseOptions(["--help"]), null);
  refuses(() => parseOptions(["--only", "kernel"]), "usage", { value: "kernel" });
  refuses(() => parseOptions(["--fast"]), "usage", { value: "--fast" });
});

Deno.test("randomModel() gives the same values whichever rows are read, with the variance of its initialization", async () => {
  const spec = specOf({ ...SMOLLM2, layers: 1, vocab: 100 }), source = randomModel(spec, { seed: 3 });
  const name = projectionName(0, "down"), whole = await source.read(name);
  const part = await source.read(name, { start: 5, count: 2 });
  assert.ok(
    part.every((value, index) => value === whole[5 * 1536 + index]),
    "rows 5 and 6 alone are those of the whole",
  );
  const square = whole.reduce((sum, value) => sum + value * value, 0) / whole.length;
  // 884,736 values: the mean square is within 1 % of 1 / in with room to spare.
  assert.ok(Math.abs(square * 1536 - 1) < 0.01, `mean square · in is ${square * 1536}`);
  const other = await randomModel(spec, { seed: 4 }).read(EMBEDDING), own = await source.read(EMBEDDING);
  assert.ok(other.some((value, index) => value !== own[index]), "another seed gives other values");
});

Deno.test("the suite measures every part at tiny sizes, and writes bench.json and charts", async () => {
  const out = await Deno.makeTempDir();
  try {
    const options = { parts: new Set(PARTS), model: null, scale: "tiny", peers: false, filter: "", out } as const;
    const text = await bench(options, () => {});
    assert.match(text, /GFLOP\/s of multiply-adds/);
    const results: BenchResults = JSON.parse(await Deno.readTextFile(`${out}/bench.json`));
    checkResults(results);
    const files = [...Deno.readDirSync(out)].map(({ name }) => name).sort();
    assert.deepEqual(files, [
      "bench.json",
      "decode.svg",
      "files.svg",
      "growth_memory.svg",
      "growth_time.svg",
      "kernels_compute.svg",
      "kernels_memory.svg",
      "products_backward.svg",
      "products_forward.svg",
      "step.svg",
      "step_sections.svg",
    ]);
    for (const name of files.filter((file) => file.endsWith(".svg"))) {
      assertStandsAlone(await Deno.readTextFile(`${out}/${name}`), name);
    }
  } finally {
    await Deno.remove(out, { recursive: true });
  }
});

function checkResults(
  { machine, kernels = [], step, decode, load, slice, growth, families, date, problems }: BenchResults,
): void {
  assert.ok(machine.peaks.flops > 1e8 && machine.peaks.bytes > 1e8, "both peaks are measured");
  assert.ok(machine.peaks.probes.every(({ timing }) => timing.seconds.length === 2), "every probe has its repeats");
  assert.ok(!Number.isNaN(Date.parse(date)));
  assert.deepEqual(problems, []);
  assert.deepEqual(families?.rows.map(({ family }) => family), ["Gemma 2", "OPT-350m"]);
  for (const { family, timing, ratio, flops, expected, extra } of families?.rows ?? []) {
    assert.equal(timing.seconds.length, 2, family);
    assert.ok(ratio > 0 && Object.values(extra).every(Number.isFinite), family);
    // A window and one FFN matrix fewer save some of LLaMA's operations.
    assert.ok(flops < 1 && expected > 0, `${family}: ${flops}, ${expected}`);
  }
  for (const { name, unit, work, timing, typicalSeconds, rate, share } of kernels) {
    assert.equal(timing.seconds.length, 2, name);
    assert.equal(timing.cpuSeconds.length, 2, name);
    assert.ok(Math.abs(typicalSeconds - typical(machine.clock, timing)) <= 1e-12 * typicalSeconds, name);
    assert.ok(Math.abs(rate * typicalSeconds / work - 1) < 1e-9, name);
    assert.ok(Math.abs(share * machine.peaks[unit] / rate - 1) < 1e-9, name);
  }
  const groups = new Set(kernels.map(({ group }) => group));
  assert.equal(groups.size, 5, [...groups].join("; "));
  assert.deepEqual(
    new Set(kernels.filter(({ group }) => group.startsWith("products")).map(({ variant }) => variant)).size,
    4,
  );
  assert.ok(step?.rows.every(({ sections, tokensPerSecond }) => tokensPerSecond > 0 && "products" in (sections ?? {})));
  assert.ok(decode?.rows.some(({ sparsity, shrinkage }) => sparsity === 0.4 && (shrinkage ?? 0) > 1));
  assert.deepEqual([load?.length, slice?.length], [13, 3]);
  assert.deepEqual(growth?.axes.map(({ axis }) => axis), ["sequence", "vocabulary"]);
  for (const { points, growths } of growth?.axes ?? []) {
    assert.equal(points.length, 3);
    assert.ok(points.every(({ peakBytes }) => peakBytes > 0));
    assert.ok(
      growths.some(({ quantity }) => quantity === "time") && growths.some(({ quantity }) => quantity === "memory"),
    );
  }
}
