// The charts of the results: their titles and series.
import { si } from "./chart.ts";
import { barChart, stackedChart } from "./chart_bars.ts";
import { lineChart, type Panel } from "./chart_lines.ts";
import type { DecodeRow } from "./decoding.ts";
import type { AxisResult } from "./growth.ts";
import type { KernelRow } from "./kernels.ts";
import { fitText } from "./report.ts";
import { evaluate } from "./stats.ts";
import { sectionSeconds } from "./step.ts";
import type { BenchResults } from "./suite.ts";

const COMPUTE_PEAK = "the adapter's peak: multiply-adds in registers";

/** File names and SVG texts. */
export function charts(results: BenchResults): Map<string, string> {
  const made = new Map<string, string>();
  const set = (name: string, svg: string | null): void => {
    if (svg !== null) made.set(`${name}.svg`, svg);
  };
  const { kernels = [], machine, growth } = results;
  const products = kernels.filter(({ group }) => group.startsWith("products"));
  for (const direction of ["forward", "backward"] as const) {
    const isForward = direction === "forward";
    const rows = products.filter(({ name }) => name.endsWith("ᵀ") === isForward);
    set(`products_${direction}`, productChart(results, rows, direction));
  }
  const others = kernels.filter(({ group }) => !group.startsWith("products"));
  set("kernels_compute", kernelChart(results, others.filter(({ unit }) => unit === "flops")));
  set("kernels_memory", kernelChart(results, others.filter(({ unit }) => unit === "bytes")));
  set("step", stepChart(results));
  set("step_sections", sectionChart(results));
  set("decode", decodeChart(results));
  set("files", fileChart(results));
  if (growth) {
    set("growth_time", growthChart(results, growth.axes, { isTime: true }));
    set("growth_memory", growthChart(results, growth.axes, { isTime: false }));
  }
  return new Map(
    [...made].map(([name, svg]) => [name, svg.replace("<style>", `<!-- ${machine.adapter.description} -->\n<style>`)]),
  );
}

function where({ machine }: BenchResults): string {
  const { adapter, cpu, cores, clock } = machine;
  return `${adapter.description}${adapter.isCpu ? ` on ${cores} × ${cpu}` : ""}, by ${
    clock.kind === "cpu" ? "CPU time" : "wall clock"
  }, medians`;
}

function productChart(results: BenchResults, rows: readonly KernelRow[], direction: string): string | null {
  if (rows.length === 0) return null;
  const seriesOf = ({ program, variant }: KernelRow): string =>
    `${program === "ours" ? "Compresso" : program} ${variant}`;
  const series = [...new Set(rows.map(seriesOf))];
  const names = [...new Set(rows.map(({ name }) => name))];
  return barChart({
    title: `Matrix products, ${direction}`,
    subtitle: where(results),
    unit: "GFLOP/s",
    series,
    rows: names.map((label) => ({
      label,
      values: series.map((one) => {
        const row = rows.find((candidate) => candidate.name === label && seriesOf(candidate) === one);
        return row ? row.rate / 1e9 : null;
      }),
    })),
    limit: { value: results.machine.peaks.flops / 1e9, label: COMPUTE_PEAK },
  });
}

function kernelChart(results: BenchResults, rows: readonly KernelRow[]): string | null {
  const [first] = rows;
  if (!first) return null;
  const isCompute = first.unit === "flops";
  return barChart({
    title: isCompute ? "Attention" : "Kernels bound by memory",
    subtitle: `${where(results)}${isCompute ? "" : "; bytes that must be read and written at least"}`,
    unit: isCompute ? "GFLOP/s" : "GB/s",
    series: ["Compresso"],
    rows: rows.map(({ name, rate }) => ({ label: name, values: [rate / 1e9] })),
    limit: {
      value: results.machine.peaks[first.unit] / 1e9,
      label: isCompute ? COMPUTE_PEAK : "the adapter's peak: a kernel that streams",
    },
  });
}

function stepChart(results: BenchResults): string | null {
  const { step } = results;
  if (!step) return null;
  return barChart({
    title: "One training step of LoRA and masks",
    subtitle: `${step.model}, ${step.batch} × ${step.seq} tokens; ${where(results)}`,
    unit: "tokens/s",
    series: [""],
    rows: step.rows.map((
      { program, version, variant, tokensPerSecond },
    ) => ({
      label: program === "ours" ? `Compresso, ${variant}` : `${program} ${version}, ${variant}`,
      values: [tokensPerSecond],
    })),
  });
}

function sectionChart({ step, machine }: BenchResults): string | null {
  const rows = step?.rows.filter(({ sections }) => sections) ?? [];
  if (!step || rows.length === 0) return null;
  const parts = Object.keys(rows[0]?.sections ?? {});
  return stackedChart({
    title: "Where the time of a training step goes",
    subtitle: `${step.model}, ${step.batch} × ${step.seq} tokens; each section replayed alone`,
    parts,
    rows: rows.map(({ variant, sections, typicalSeconds }) => {
      const seconds = sectionSeconds(machine.clock, sections ?? {});
      return { label: variant, total: si(typicalSeconds, "s"), values: parts.map((name) => seconds[name] ?? 0) };
    }),
  });
}

function decodeChart(results: BenchResults): string | null {
  const { decode } = results;
  if (!decode) return null;
  const labelOf = ({ program, variant }: DecodeRow): string =>
    `${program === "ours" ? "Compresso" : program}, ${variant}`;
  const cuts = [...new Set(decode.rows.map(({ sparsity }) => sparsity))];
  return barChart({
    title: "Decoding",
    subtitle: `${decode.model}; ${decode.tokens} tokens after a prompt of ${decode.prompt}; ${where(results)}`,
    unit: "tokens/s",
    series: cuts.map((sparsity) => sparsity === 0 ? "whole" : `cut by ${100 * sparsity} %`),
    rows: [...new Set(decode.rows.map(labelOf))].map((label) => ({
      label,
      values: cuts.map((cut) =>
        decode.rows.find((row) => labelOf(row) === label && row.sparsity === cut)?.tokensPerSecond ?? null
      ),
    })),
  });
}

function fileChart({ load = [], slice = [], machine }: BenchResults): string | null {
  if (load.length + slice.length === 0) return null;
  return barChart({
    title: "Models from and to disk",
    subtitle: `${
      machine.clock.kind === "cpu" ? "by CPU seconds of one core" : "by wall clock"
    }, medians; files in the cache of the system`,
    unit: "GB/s of the file",
    series: [""],
    rows: [
      ...load.map(({ name, rate }) => ({ label: `load ${name}`, values: [rate / 1e9] })),
      ...slice.map(({ name, rate }) => ({ label: name, values: [rate / 1e9] })),
    ],
  });
}

/** Quantities that are drawn beside the whole step: the largest ones. */
const DRAWN = ["time", "products", "attention", "head", "elementwise"];

function growthChart(
  results: BenchResults,
  axes: readonly AxisResult[],
  { isTime }: { readonly isTime: boolean },
): string {
  const series = isTime ? DRAWN : ["memory"], main = series[0];
  const panels = axes.map(({ axis, growths }): Panel => {
    const shown = growths.filter(({ quantity }) => series.includes(quantity));
    const whole = shown.find(({ quantity }) => quantity === main);
    return {
      title: axis,
      note: whole ? `${whole.quantity} = ${fitText(whole)}; x^${whole.exponent.toFixed(2)}` : "",
      xLabel:
        { sequence: "tokens of a sequence", batch: "sequences", layers: "layers", vocabulary: "vocabulary" }[axis],
      lines: shown.map(({ quantity, x, y, fit }) => ({
        name: quantity,
        points: x.map((value, index) => [value, y[index] ?? NaN] as const),
        curve: (value) => evaluate(fit.coefficients, value),
      })),
    };
  });
  return lineChart({
    title: isTime ? "How the time of a training step grows" : "How the GPU memory of a training step grows",
    subtitle: isTime
      ? `small random model; dots measured, dashes fitted; ${where(results)}`
      : "small random model; peak, dots measured, dashes fitted",
    unit: isTime ? "s" : "B",
    series,
    panels,
  });
}
