// Opening schedules: every kind of source, isolated and trusted, gives the same values; what is wrong is named.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { CompressoError, type ErrorCode } from "../../lib/core/errors.ts";
import { constant, cosine, cubic, type CurveFunction, exponential, linear, steps } from "../../lib/schedule/curves.ts";
import type { ScheduleOutput } from "../../lib/schedule/output.ts";
import { defineSchedule, type RecordView, type ScheduleInput } from "../../lib/schedule/definition.ts";
import { openSchedule, SCRIPT_API } from "../../lib/schedule/host.ts";
import { type OpenScheduleOptions, type ScheduleSource } from "../../lib/schedule/open.ts";
import { assertNames, type Refusal, rejects } from "../refuses.ts";
import { INPUT, Lair, scriptOf } from "../run/helpers/scripts.ts";

const ENTRY = new URL("../../lib/schedule/mod.ts", import.meta.url);
const EXAMPLES = new URL("../../scripts/examples/", import.meta.url);

async function evaluate(
  source: ScheduleSource,
  { input = INPUT, ...options }: OpenScheduleOptions & { readonly input?: ScheduleInput } = {},
): Promise<ScheduleOutput> {
  await using schedule = await openSchedule(source, options);
  return await schedule.evaluate(input);
}

/** A script that uses the builders, with types, and everything that it sees. */
function wholeScript(mod: string): string {
  return `import { cubic, defineSchedule, type ScheduleInput } from ${JSON.stringify(mod)};
const curve = cubic({ to: "target", warmup: 0.5 });
export default defineSchedule({
  sparsity: (input: ScheduleInput): number => curve(input),
  layers: ({ layers }) => layers.map(({ heads }, layer) => layer === 0 ? null : heads),
  freeze: ({ records }) => records.length > 1 ? [{ layer: 1, kind: "ffn" }] : [],
  end: ({ step, steps }) => step + 1 === steps,
  rates: { lora: 1e-4, temperature: ({ records }) => records.at(-1)?.loss ?? 0.5 },
});`;
}

Deno.test("a script gives the same isolated, trusted and inline", async () => {
  await using lair = new Lair();
  const record = { stage: "prune", step: 3, target: 0.1, expected: null, lambda1: 0.1, lambda2: -0.2, gradNorm: 1 };
  const records = [2.5, 1 / 3].map((loss) => ({ ...record, stage: "prune", loss, learningRate: 1e-4 }) as const);
  const input = { ...INPUT, records };
  const path = await lair.write(wholeScript(ENTRY.href));
  const expected = {
    sparsity: cubic({ to: "target", warmup: 0.5 })(input),
    layers: [null, 0.3],
    freeze: [{ layer: 1, kind: "ffn" }],
    end: false,
    rates: { lora: 1e-4, temperature: 1 / 3 },
  };
  assert.deepEqual(await evaluate(path, { input }), expected);
  assert.deepEqual(await evaluate(path, { input, trust: true }), expected);
  const inline = defineSchedule({ sparsity: cubic({ to: "target", warmup: 0.5 }) });
  assert.equal((await evaluate(inline, { input })).sparsity, expected.sparsity);
});

Deno.test("what a program gives in place of a schedule is refused, by its part where it has one", async () => {
  const refused = (source: unknown): Promise<unknown> => Reflect.apply(openSchedule, null, [source]);
  const cases: readonly (readonly [unknown, Refusal])[] = [
    [
      { sparsity: 0.2 },
      { names: "defineSchedule" },
    ],
    [() => 0.2, { value: "function" }],
    [null, { value: "null" }],
    [
      { definition: { sparcity: 0.1 } },
      { value: "sparcity" },
    ],
    [{ definition: { sparsity: 2 } }, { value: 2 }],
  ];
  for (const [source, message] of cases) {
    await rejects(refused(source), "usage", message);
  }
});

Deno.test("a script is told from another by its text, trusted or not", async () => {
  await using lair = new Lair();
  const write = (to: number): Promise<string> =>
    lair.write(
      `import { cubic, defineSchedule } from ${JSON.stringify(ENTRY.href)};
export default defineSchedule({ sparsity: cubic({ to: ${to}, warmup: 0.5 }) });`,
      `to${to}.ts`,
    );
  const paths = [await write(0.2), await write(0.5)];
  const identities: string[] = [];
  for (const trust of [false, true]) {
    for (const path of paths) {
      await using schedule = await openSchedule(path, { trust });
      identities.push(schedule.identity);
    }
  }
  const [first, second, ...trusted] = identities;
  assert.notEqual(first, second);
  assert.deepEqual(trusted, [first, second]);
  const importing: string[] = [];
  for (const share of [0.1, 0.2]) {
    await using other = new Lair();
    await other.write(`export const sparsity = ({ progress }) => ${share} * progress;`, "shape.js");
    const mod = JSON.stringify(ENTRY.href);
    const path = await other.write(
      `import { defineSchedule } from ${mod}; import { sparsity } from "./shape.js"; export default defineSchedule({ sparsity });`,
    );
    await using schedule = await openSchedule(path, { trust: true });
    importing.push(schedule.identity);
  }
  assert.notEqual(importing[0], importing[1]);
});

Deno.test("a schedule of curves is told from another by what they were made with, and by nothing else", async () => {
  const identityOf = async (...curves: readonly CurveFunction[]): Promise<string[]> => {
    const found: string[] = [];
    for (const sparsity of curves) {
      await using schedule = await openSchedule(defineSchedule({ sparsity }));
      found.push(schedule.identity);
    }
    return found;
  };
  const to = "target";
  const other = [
    ...[
      cubic({ to }),
      cubic({ to: 0.1 }),
      cubic({ to, warmup: 0.5 }),
      cubic({ to, from: 0.1 }),
      linear({ to }),
      cosine({ to }),
    ],
    ...[exponential({ to }), exponential({ to, steepness: 4 }), constant(0.1), constant(to)],
    ...[steps([[0, 0.1], [0.5, to]]), steps([[0, 0.1], [0.6, to]])],
  ];
  assert.equal(new Set(await identityOf(...other)).size, other.length);
  const [first, second, third, fourth] = await identityOf(
    cubic({ to }),
    cubic({ warmup: 1, from: 0, to }),
    exponential({ to }),
    exponential({ to, steepness: 5 }),
  );
  assert.equal(first, second);
  assert.equal(third, fourth);
});

Deno.test("a built-in schedule is opened by its name", async () => {
  assert.equal((await evaluate("linear", { warmup: 0.5 })).sparsity, 0.15);
  assert.equal((await evaluate("constant")).sparsity, 0.3);
});

Deno.test("the toolkit may be imported by path, by URL and by name", async () => {
  await using lair = new Lair();
  for (
    const mod of [
      "./mod.ts",
      "../../lib/schedule/mod.ts",
      "https://example.com/compresso@1/lib/schedule/mod.ts",
      "compresso",
      "compresso/schedule",
      "jsr:@compresso/compresso@^1",
      "jsr:@compresso/compresso@^1/schedule",
    ]
  ) {
    const { sparsity } = await evaluate(await lair.write(wholeScript(mod)));
    assert.equal(sparsity, cubic({ to: "target", warmup: 0.5 })(INPUT), mod);
  }
});

Deno.test("an isolated script gets every builder that compresso/schedule has, and is told what it cannot have", async () => {
  await using lair = new Lair();
  const { defineSchedule: _, ...others } = Object.fromEntries(SCRIPT_API.map((name) => [name, name]));
  const names = Object.keys(others).join(", ");
  const path = await lair.write(scriptOf({
    top: `import { ${names} } from "./mod.ts";\nconsole.log([${names}].map((builder) => typeof builder).join(" "));`,
  }));
  const logs: string[] = [];
  await evaluate(path, { onLog: (line) => logs.push(line) });
  assert.deepEqual(logs, [Object.keys(others).map(() => "function").join(" ")]);
  const odd = "const ring = {}; ring.ring = ring; console.log({ n: 1n }, ring, new RangeError('far'), { a: 1 });";
  await evaluate(await lair.write(scriptOf({ top: odd })), { onLog: (line) => logs.push(line) });
  assert.equal(logs.at(-1), 'what has no text what has no text RangeError: far {"a":1}');
  await rejects(
    evaluate(await lair.write(scriptOf({ top: `import { loadModel } from "./mod.ts"; loadModel();` }))),
    "input",
    { value: "loadModel" },
  );
});

Deno.test("the name of every builder in an isolated script is one of compresso/schedule", async () => {
  const mod: Record<string, unknown> = await import(ENTRY.href);
  for (const name of SCRIPT_API) assert.equal(typeof mod[name], "function", name);
});

Deno.test("a value out of range is refused with step and value, isolated too", async () => {
  await using lair = new Lair();
  const cases: readonly (readonly [string, ErrorCode, string])[] = [
    ["return 0 / 0;", "numeric", "sparsity = NaN"],
    ["return -1 / 0;", "numeric", "sparsity = -Infinity"],
    ["return;", "input", "sparsity = undefined"],
    ["return 10n;", "input", "sparsity = 10n"],
    ["return '0.2';", "input", 'sparsity = "0.2"'],
    ["return 1;", "input", "sparsity = 1"],
  ];
  for (const [body, code, value] of cases) {
    await rejects(evaluate(await lair.write(scriptOf({ body }))), code, { value, names: ["step 4", 20] });
  }
});

Deno.test("an async function is refused, and what it throws later ends nothing", async () => {
  await using lair = new Lair();
  for (const part of ["sparsity", "layers", "end"]) {
    const script = await lair.write(
      `import { defineSchedule } from "compresso"; export default defineSchedule({ async ${part}() { throw new Error("late"); } });`,
    );
    for (const trust of [false, true]) {
      await rejects(evaluate(script, { trust }), "input", { value: "promise" });
    }
  }
  for (const [part, list] of [["layers", "layers.map(async () => { throw 1; })"], ["freeze", "[Promise.reject(1)]"]]) {
    const script = await lair.write(
      `import { defineSchedule } from "compresso"; export default defineSchedule({ ${part}: ({ layers }) => ${list} });`,
    );
    await rejects(evaluate(script, { trust: true }), "input", { names: ["step 4", 20] });
  }
  await new Promise((resolve) => setTimeout(resolve, 10));
});

Deno.test("a script with a mistake is named with its line", async () => {
  await using lair = new Lair();
  const cases: readonly (readonly [string, Refusal])[] = [
    [scriptOf({ top: "const a = ;" }), { value: ["SyntaxError", "line 2"] }],
    [
      scriptOf({ body: "\n\n  return undefinedThing;" }),
      { value: ["step 4", 20, "ReferenceError", "undefinedThing"] },
    ],
    ["export const a = 1;", { names: "defineSchedule" }],
  ];
  for (const [text, message] of cases) await rejects(evaluate(await lair.write(text)), "input", message);
});

Deno.test("a script that cannot be read is refused", async () => {
  await using lair = new Lair();
  await Deno.writeFile(lair.at("latin1.ts"), new Uint8Array([0x2f, 0x2f, 0xe9]));
  await Deno.writeFile(lair.at("long.ts"), new Uint8Array((1 << 20) + 1).fill(0x20));
  const imports = (count: number): string =>
    Array.from({ length: count }, (_, index) => `// from "${"x".repeat(400)}${index}/mod.ts"`).join("\n");
  await lair.write(imports(33), "names.ts");
  await lair.write(`${imports(31)}\n${wholeScript("compresso")}`, "fewer.ts");
  assert.ok((await evaluate(lair.at("fewer.ts"))).sparsity !== null);
  const cases: readonly (readonly [string, Refusal])[] = [
    [lair.at("none.ts"), { names: ["none.ts", "UTF-8"] }],
    [lair.at("."), { names: "UTF-8" }],
    [lair.at("latin1.ts"), { value: "UTF-8" }],
    [lair.at("long.ts"), { value: 1048577 }],
    [lair.at("names.ts"), { value: 33, names: 32 }],
    ["ftp://example.com/a.ts", { names: "URL" }],
    ["https://", { value: "URL" }],
  ];
  for (const [source, message] of cases) {
    await rejects(evaluate(source), source.includes("://") ? "usage" : "input", message);
  }
});

Deno.test("a script at a URL runs isolated, and what is no script there is refused", async () => {
  const replies: Readonly<Record<string, Response>> = {
    "/mine.ts": new Response(wholeScript("../mod.ts")),
    "/page": new Response("<html></html>", { headers: { "content-type": "text/html; charset=utf-8" } }),
    "/long.ts": new Response(new Uint8Array((1 << 20) + 1).fill(0x20)),
  };
  const server = Deno.serve(
    { port: 0, hostname: "127.0.0.1", onListen: () => {} },
    (request) => replies[new URL(request.url).pathname] ?? new Response("nothing", { status: 404 }),
  );
  const at = (path: string): URL => new URL(path, `http://127.0.0.1:${server.addr.port}`);
  try {
    await using schedule = await openSchedule(at("/mine.ts").href);
    assert.ok(schedule.isolated);
    assert.equal((await schedule.evaluate(INPUT)).sparsity, cubic({ to: "target", warmup: 0.5 })(INPUT));
    await rejects(evaluate(at("/page")), "input", { value: "HTML" });
    await rejects(evaluate(at("/long.ts")), "input", { value: 1048576 });
    await rejects(evaluate(at("/none.ts")), "input", { value: 404 });
  } finally {
    await server.shutdown();
  }
});

Deno.test("an abort ends the script at once, with the signal's reason", async () => {
  await using lair = new Lair();
  const controller = new AbortController(), reason = new CompressoError("aborted", { what: "stopped by the test" });
  await using schedule = await openSchedule(await lair.write(scriptOf({ body: "for (;;) {}" })), {
    signal: controller.signal,
    limits: { stepSeconds: 60 },
  });
  const start = performance.now(), timer = setTimeout(() => controller.abort(reason), 50);
  await assert.rejects(schedule.evaluate(INPUT), (error) => error === reason);
  clearTimeout(timer);
  assert.ok(performance.now() - start < 10_000);
  await assert.rejects(openSchedule(lair.at("script.ts"), { signal: controller.signal }), (error) => error === reason);
});

Deno.test("a schedule that is never disposed does not keep its program alive", async () => {
  await using lair = new Lair();
  const host = new URL("../../lib/schedule/host.ts", import.meta.url).href;
  const program = await lair.write(
    `const { openSchedule } = await import(${JSON.stringify(host)});
const schedule = await openSchedule(${JSON.stringify(await lair.write(scriptOf({}), "schedule.ts"))});
console.log((await schedule.evaluate(${JSON.stringify(INPUT)})).sparsity);`,
    "program.ts",
  );
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--config", fileURLToPath(new URL("../../deno.json", import.meta.url)), program],
    signal: AbortSignal.timeout(30_000),
  }).output();
  assert.equal(new TextDecoder().decode(stdout).trim(), "0.1", new TextDecoder().decode(stderr));
  assert.equal(code, 0);
});

Deno.test("a program that waits for a script has its error, though nothing else keeps it alive", async () => {
  await using lair = new Lair();
  const host = new URL("../../lib/schedule/host.ts", import.meta.url).href;
  const script = await lair.write(scriptOf({ body: "for (;;) {}" }), "schedule.ts");
  // Without an await at its top level a program ends where nothing is left to wait for.
  const program = await lair.write(
    `import(${JSON.stringify(host)}).then(async ({ openSchedule }) => {
  const schedule = await openSchedule(${JSON.stringify(script)}, { limits: { stepSeconds: 0.3 } });
  console.log((await schedule.evaluate(${JSON.stringify(INPUT)})).sparsity);
});`,
    "program.ts",
  );
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--config", fileURLToPath(new URL("../../deno.json", import.meta.url)), program],
    signal: AbortSignal.timeout(30_000),
  }).output();
  assertNames(new TextDecoder().decode(stderr), "0.3 s");
  assert.equal(code, 1);
});

Deno.test("early_stop.ts ends a stage whose loss runs away, and no other", async () => {
  await using schedule = await openSchedule(new URL("early_stop.ts", EXAMPLES));
  const ends = async (lossAt: (index: number) => number): Promise<boolean> => {
    const records = Array.from({ length: 20 }, (_, index): RecordView => ({
      ...{ stage: "prune", step: index + 1, loss: lossAt(index), target: 0.1, expected: 0.1 },
      ...{ lambda1: 0, lambda2: 0, gradNorm: 1, learningRate: 1e-3 },
    }));
    return (await schedule.evaluate({ ...INPUT, records })).end;
  };
  assert.equal(await ends((index) => 2 + 0.05 * index), true);
  assert.equal(await ends((index) => 2 + 0.01 * index), false);
  assert.equal(await ends((index) => index === 19 ? 3.5 : 2), false, "one step says little");
  assert.equal(await ends((index) => 4 - 0.1 * index), false);
});

Deno.test("cubic_with_plateaus.ts climbs on three ramps, rests after each, and lets the noise fall", async () => {
  await using schedule = await openSchedule(new URL("cubic_with_plateaus.ts", EXAMPLES));
  const at = async (progress: number): Promise<number> =>
    (await schedule.evaluate({ ...INPUT, progress })).sparsity ?? NaN;
  const near = (actual: number, expected: number): void =>
    assert.ok(Math.abs(actual - expected) < 1e-12, `${actual}, not ${expected}`);
  for (const [index, rest] of [[0.25, 0.3, 0.35], [0.55, 0.6, 0.65], [0.8, 0.9, 1]].entries()) {
    for (const progress of rest) near(await at(progress), INPUT.sparsity * (index + 1) / 3);
  }
  for (const ramp of [[0.05, 0.1, 0.2], [0.4, 0.45, 0.5], [0.7, 0.75, 0.79]]) {
    const values: number[] = [];
    for (const progress of ramp) values.push(await at(progress));
    assert.deepEqual(values, [...new Set(values)].sort((a, b) => a - b), "it climbs");
  }
  const noise = async (progress: number): Promise<number> =>
    (await schedule.evaluate({ ...INPUT, progress })).rates.noise ?? NaN;
  near(await noise(0), 0.3);
  near(await noise(1), 0.05);
});

Deno.test("the example schedules give values in range at every step, isolated and trusted", async () => {
  for (const name of ["cubic_with_plateaus.ts", "early_stop.ts", "layerwise.ts"]) {
    await using isolated = await openSchedule(new URL(name, EXAMPLES));
    await using trusted = await openSchedule(new URL(name, EXAMPLES), { trust: true });
    let last = -1;
    for (let step = 0; step < INPUT.steps; step++) {
      const input = { ...INPUT, step, progress: (step + 1) / INPUT.steps };
      const output = await isolated.evaluate(input);
      assert.deepEqual(output, await trusted.evaluate(input));
      assert.ok((output.sparsity ?? NaN) >= last, `${name} falls at step ${step}`);
      last = output.sparsity ?? NaN;
    }
    assert.ok(Math.abs(last - INPUT.sparsity) < 1e-12, `${name} ends at ${last}`);
  }
  await using stopping = await openSchedule(new URL("early_stop.ts", EXAMPLES), { trust: true });
  await using cubic = await openSchedule("cubic");
  for (const progress of [0.1, 0.35, 0.7]) {
    const [own, builtin] = [stopping, cubic].map((schedule) => schedule.evaluate({ ...INPUT, progress }));
    assert.equal((await own)?.sparsity, (await builtin)?.sparsity, "early_stop.ts is the built-in curve");
  }
});
