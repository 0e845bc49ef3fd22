// Formats results as text tables.
import type { BenchResults } from "./suite.ts";
import { short, si } from "./chart.ts";
import { sectionSeconds } from "./step.ts";
import type { KernelRow } from "./kernels.ts";
import type { Growth } from "./growth.ts";
import { typical } from "./timing.ts";

/** Cells as text, columns aligned: the first to the left, all others to the right. */
export function table(headers: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = headers.map((header, col) => Math.max(header.length, ...rows.map((row) => (row[col] ?? "").length)));
  const line = (cells: readonly string[]): string =>
    cells.map((cell, col) => col === 0 ? cell.padEnd(widths[col] ?? 0) : cell.padStart(widths[col] ?? 0)).join("  ")
      .trimEnd();
  return [line(headers), widths.map((width) => "-".repeat(width)).join("  "), ...rows.map(line)].join("\n");
}

/** The whole report. */
export function report(results: BenchResults): string {
  const { kernels, step, decode, load, slice, growth, families, problems } = results;
  return [
    machineText(results),
    ...(kernels ? [productText(kernels), kernelText(kernels)] : []),
    ...(step ? [stepText(results)] : []),
    ...(decode ? [decodeText(results)] : []),
    ...(load?.length ? [fileText("load, to GPU memory; f16 where nothing else is said", load)] : []),
    ...(slice?.length ? [fileText("slice and export", slice)] : []),
    ...(growth ? [growthText(results)] : []),
    ...(families ? [familiesText(results)] : []),
    ...problems,
  ].filter((part) => part !== "").join("\n\n");
}

function machineText({ machine, date, commit, options }: BenchResults): string {
  const { adapter, driver, backend, deno, system, cpu, cores, clock, peaks } = machine;
  return [
    `${adapter.description}${driver ? `, ${driver}` : ""}, ${backend}; Deno ${deno}; ${system}; ${cpu}, ${cores} cores`,
    `${date}, commit ${commit ?? "unknown"}, ${options.scale}`,
    `peaks: ${giga(peaks.flops)} GFLOP/s of multiply-adds in registers, ${giga(peaks.bytes)} GB/s streamed by a kernel`,
    clock.kind === "cpu"
      ? "figures by CPU time: a CPU runs the shaders, so seconds are CPU seconds of the process / cores; wall seconds are in bench.json"
      : "figures by wall clock",
  ].join("\n");
}

/** Products: a row a shape, a column a program and dtype, and ratios of ours to the peers. */
function productText(kernels: readonly KernelRow[]): string {
  const rows = kernels.filter(({ group }) => group.startsWith("products"));
  if (rows.length === 0) return "";
  const columns = [...new Set(rows.map(columnOf))];
  const peers = [...new Set(rows.filter(({ program }) => program !== "ours").map(columnOf))];
  const ours = ["ours f16", "ours f32"].filter((column) => columns.includes(column));
  const ratios = peers.flatMap((peer) => ours.map((own) => [own, peer] as const));
  const names = [...new Set(rows.map(({ name }) => name))];
  const find = (name: string, column: string): KernelRow | undefined =>
    rows.find((row) => row.name === name && columnOf(row) === column);
  const cells = names.map((name) => [
    name,
    ...columns.map((column) => {
      const row = find(name, column);
      if (!row) return "–";
      return row.program === "ours" ? `${giga(row.rate)} ${percent(row.share)}` : giga(row.rate);
    }),
    ...ratios.map(([own, peer]) => {
      const [a, b] = [find(name, own), find(name, peer)];
      return a && b ? `${(a.rate / b.rate).toFixed(2)}×` : "–";
    }),
  ]);
  const headers = ["products, GFLOP/s", ...columns, ...ratios.map(([own, peer]) => `${own.slice(5)} : ${peer}`)];
  const versions = [
    ...new Set(rows.filter(({ program }) => program !== "ours").map((row) => `${row.program} ${row.version}`)),
  ];
  return [table(headers, cells), ...(versions.length > 0 ? [versions.join(", ")] : [])].join("\n");
}

function columnOf({ program, variant }: KernelRow): string {
  return `${program} ${variant}`;
}

/** All other kernels: a row each. */
function kernelText(kernels: readonly KernelRow[]): string {
  const rows = kernels.filter(({ group }) => !group.startsWith("products"));
  if (rows.length === 0) return "";
  const headers = ["kernel", "rate", "", "of peak", "ms"];
  return table(
    headers,
    rows.map(({ name, unit, rate, share, typicalSeconds }) => [
      name,
      giga(rate),
      unit === "flops" ? "GFLOP/s" : "GB/s   ",
      percent(share),
      short(1000 * typicalSeconds),
    ]),
  );
}

function stepText({ step, machine }: BenchResults): string {
  if (!step) return "";
  const { batch, seq, model, training, rows } = step;
  const title = `step: ${model}; ${batch} × ${seq} tokens, LoRA of rank ${training.rank} on ${
    training.targets.join(", ")
  }, masks of ${training.units.join(", ")}`;
  const own = rows.find(({ program }) => program === "ours");
  const main = table(
    ["", "tokens/s", "s", "GPU memory", `${own?.variant ?? ""} :`],
    rows.map((row) => [
      `${row.program} ${row.version} ${row.variant}`.replace("  ", " "),
      short(row.tokensPerSecond),
      short(row.typicalSeconds),
      row.peakBytes === null ? "–" : si(row.peakBytes, "B"),
      own ? `${(own.tokensPerSecond / row.tokensPerSecond).toFixed(2)}×` : "–",
    ]),
  );
  const shown = rows.filter(({ sections }) => sections);
  const names = Object.keys(shown[0]?.sections ?? {});
  const sections = table(
    ["section, replayed alone", ...shown.map(({ variant }) => variant)],
    names.map((name) => [
      name,
      ...shown.map(({ sections }) => {
        const seconds = sectionSeconds(machine.clock, sections ?? {});
        const sum = Object.values(seconds).reduce((all, value) => all + value, 0);
        return percent((seconds[name] ?? 0) / sum);
      }),
    ]),
  );
  const notes = rows.flatMap(({ program, note }) => note === undefined ? [] : [`${program}: ${note}`]);
  return [title, "", main, ...notes, "", sections].join("\n");
}

function decodeText({ decode }: BenchResults): string {
  if (!decode) return "";
  const { model, prompt, tokens, rows } = decode;
  const factor = (value: number | null): string => value === null ? "–" : `${value.toFixed(2)}×`;
  const notes = rows.flatMap(({ program, note }) => note === undefined ? [] : [`\n${program}: ${note}`]);
  return `decode: ${model}; ${tokens} tokens after a prompt of ${prompt}\n\n${
    table(
      ["", "cut", "tokens/s", "weights/token", "of peak", "parameters", "faster", "smaller"],
      rows.map((row) => [
        `${row.program} ${row.version} ${row.variant}`.replace("  ", " "),
        percent(row.sparsity),
        short(row.tokensPerSecond),
        row.bytesPerToken === null ? "–" : si(row.bytesPerToken, "B"),
        row.share === null ? "–" : percent(row.share),
        si(row.parameters, ""),
        factor(row.speedup),
        factor(row.shrinkage),
      ]),
    )
  }${notes.join("")}`;
}

function fileText(title: string, rows: NonNullable<BenchResults["load"]>): string {
  return table(
    [title, "GB/s", "s", "file", "parameters"],
    rows.map(({ name, rate, typicalSeconds, bytes, parameters }) => [
      name,
      giga(rate, 2),
      short(typicalSeconds),
      si(bytes, "B"),
      si(parameters, ""),
    ]),
  );
}

function growthText({ growth }: BenchResults): string {
  if (!growth) return "";
  const rows = growth.axes.flatMap(({ axis, growths }) =>
    growths.map((one) => [
      `${axis}: ${one.quantity}`,
      ...[one.y[0] ?? NaN, one.y.at(-1) ?? NaN].map((value) => si(value, one.unit)),
      fitText(one),
      one.exponent.toFixed(2),
      one.lastExponent.toFixed(2),
      String(one.allowed),
    ])
  );
  const { hidden, layers, vocab, ffn } = growth.model;
  const title =
    `growth of a step, hidden ${hidden}, ${layers} layers, FFN ${ffn}, vocabulary ${vocab} where not varied`;
  const headers = ["quantity", "smallest", "largest", "fit", "exponent", "of largest 3", "required"];
  const found = growth.findings.length > 0
    ? growth.findings.join("\n")
    : "nothing grows faster than the mathematics requires";
  return `${title}\n\n${table(headers, rows)}\n\n${found}`;
}

function familiesText({ families, machine: { clock } }: BenchResults): string {
  if (!families) return "";
  const { batch, seq, config: { hidden, layers, heads, kvHeads, ffn, vocab }, llama, rows } = families;
  const title =
    `step of each family, ${batch} × ${seq} tokens; hidden ${hidden}, ${layers} layers of ${heads} heads, ${kvHeads} KV heads and ` +
    `FFN ${ffn}, vocabulary ${vocab}; masks of FFN columns; LLaMA takes ${short(typical(clock, llama))} s`;
  const cells = rows.map(({ family, ratio, flops, expected, extra, decoding }) => {
    const shown = Object.entries(extra).toSorted((a, b) => b[1] - a[1]).slice(0, 2).filter(([, value]) => value > 0);
    return [
      family,
      ...[ratio, expected, flops, ratio / expected].map((value) => value.toFixed(3)),
      decoding.toFixed(2),
      shown.map(([name, value]) => `${name} ${short(1000 * value)} ms`).join(", "),
    ];
  });
  return `${title}\n\n${table(["", "to LLaMA", "expected", "FLOPs", "to expected", "decoding", "slower by"], cells)}`;
}

/** A rate in thousands of millions. */
function giga(value: number, digits = 1): string {
  return (value / 1e9).toFixed(digits);
}

function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

/** a + b·x + c·x² with its numbers. */
export function fitText({ fit, unit }: Growth): string {
  const powers = ["", "·x", "·x²"];
  const terms = fit.coefficients.map((value, power) => `${si(value, unit)}${powers[power] ?? ""}`);
  return terms.join(" + ").replaceAll("+ -", "− ").replace(/^-/, "−");
}
