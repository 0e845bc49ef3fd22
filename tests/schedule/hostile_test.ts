// Hostile schedule scripts: what each tries fails, ends its own run with a clear error, and nothing else.
import assert from "node:assert/strict";
import { CompressoError } from "../../lib/core/errors.ts";
import { openSchedule } from "../../lib/schedule/host.ts";
import { type OpenScheduleOptions } from "../../lib/schedule/open.ts";
import { sandboxArgs } from "../../lib/schedule/sandbox/sandbox.ts";
import { assertNames, type Data, rejects } from "../refuses.ts";
import { INPUT, Lair, scriptOf } from "../run/helpers/scripts.ts";

/** A module of WebAssembly that gives a memory of so many pages. */
function wasm(pages: number): string {
  const memory = [5, 3, 1, 0, pages], exported = [7, 10, 1, 6, ...new TextEncoder().encode("memory"), 2, 0];
  const bytes = new Uint8Array([0, 0x61, 0x73, 0x6d, 1, 0, 0, 0, ...memory, ...exported]);
  return `data:application/wasm;base64,${bytes.toBase64()}`;
}

interface Attack {
  readonly text: string;
  /** Data that the error names: limits, modules, words of the engine. */
  readonly expected: Data;
  readonly options?: OpenScheduleOptions;
  /** Seconds within which it must have ended, those of a busy machine included. */
  readonly within?: number;
}

/** Runs a script for two steps, and asserts that it ends as it must, and that the next one runs as if nothing had been. */
async function assertStopped(
  lair: Lair,
  { text, expected, options = {}, within = 10 }: Attack,
): Promise<void> {
  const logs: string[] = [], start = performance.now();
  const attack = async (): Promise<void> => {
    await using schedule = await openSchedule(await lair.write(text), { ...options, onLog: (line) => logs.push(line) });
    await schedule.evaluate(INPUT);
    // Time for what a script left to run after its step.
    await new Promise((resolve) => setTimeout(resolve, 30));
    await schedule.evaluate(INPUT);
  };
  let message = "";
  await assert.rejects(attack, (error) => {
    assert.ok(error instanceof CompressoError, Deno.inspect(error));
    assert.equal(error.code, "input");
    message = error.message;
    assertNames(message, expected);
    return true;
  });
  assert.ok(performance.now() - start < within * 1000, `it took ${performance.now() - start} ms: ${message}`);
  // deno-lint-ignore no-control-regex
  assert.doesNotMatch(message, /[\u0000-\u001f\u007f-\u009f]/);
  assert.ok(![...logs, message].some((line) => line.includes(lair.secret)), "the secret came out");
  assert.equal(lair.hits, 0, "the server was reached");
  assert.equal(Reflect.get({}, "polluted"), undefined);
  await using honest = await openSchedule(await lair.write(scriptOf({}), "honest.ts"));
  assert.equal((await honest.evaluate(INPUT)).sparsity, 0.1);
}

Deno.test("a script leaves nothing in Deno's cache, whatever it imports", async () => {
  await using lair = new Lair();
  const folder = await Deno.makeTempDir({ prefix: "compresso_cache_" }), before = Deno.env.get("DENO_DIR");
  const body = `for (let index = 0; index < 3; index++) {
    const module = "data:application/typescript,export const a: number = " + index + ";";
    if ((await import(module)).a !== index) throw new Error("no such module");
  }`;
  Deno.env.set("DENO_DIR", folder);
  try {
    await using schedule = await openSchedule(await lair.write(scriptOf({ top: body })));
    assert.equal((await schedule.evaluate(INPUT)).sparsity, 0.1);
  } finally {
    if (before === undefined) Deno.env.delete("DENO_DIR");
    else Deno.env.set("DENO_DIR", before);
  }
  assert.deepEqual(await Array.fromAsync(Deno.readDir(folder), ({ name }) => name), []);
  await Deno.remove(folder);
});

Deno.test("a script that reads or writes files is stopped", async (t) => {
  await using lair = new Lair();
  const path = JSON.stringify(lair.secretPath), url = JSON.stringify(new URL(`file://${lair.secretPath}`).href);
  const attacks: readonly (readonly [string, string, Data])[] = [
    ["Deno", `console.log(Deno.readTextFileSync(${path}));`, ["step 4 of 20", "Deno is not defined"]],
    [
      "Deno by another way",
      `console.log(globalThis["De" + "no"].readTextFileSync(${path}));`,
      "TypeError: Cannot read",
    ],
    ["process", `console.log(process.getBuiltinModule("node:fs"));`, "process is not defined"],
    ["writing", `Deno.writeTextFileSync(${path}, "");`, "Deno is not defined"],
    ["the environment", `console.log(Deno.env.get("PATH"));`, "Deno is not defined"],
    ["local storage", `localStorage.setItem("a", "b");`, "localStorage is not defined"],
    ["the cache storage", `caches.open("a");`, "caches is not defined"],
  ];
  for (const [name, body, expected] of attacks) {
    await t.step(name, () => assertStopped(lair, { text: scriptOf({ body }), expected }));
  }
  const imports: readonly (readonly [string, string])[] = [
    ["a static import", `import secret from ${url}; console.log(secret);`],
    ["a static import as text", `import secret from ${url} with { type: "text" }; console.log(secret);`],
    ["an import by path", `import secret from ${path}; console.log(secret);`],
    ["an import of a literal", `console.log((await import(${url})).default);`],
    ["a computed import", `console.log((await import(${url}.split("").join(""))).default);`],
    ["an import of its own", `import secret from "./secret.js"; console.log(secret);`],
  ];
  for (const [name, top] of imports) {
    const expected = top.includes(url) ? "file:" : "secret.js";
    await t.step(name, () => assertStopped(lair, { text: scriptOf({ top }), expected }));
  }
});

Deno.test("a script that reaches for the network or the GPU is stopped", async (t) => {
  await using lair = new Lair();
  const url = JSON.stringify(lair.url);
  const attacks: readonly (readonly [string, string, Data])[] = [
    ["fetch", `console.log(await (await fetch(${url})).text());`, "fetch is not defined"],
    ["WebSocket", `new WebSocket(${url}.replace("http", "ws"));`, "WebSocket is not defined"],
    ["Deno.connect", `await Deno.connect({ port: 80 });`, "Deno is not defined"],
    ["a Worker", `new Worker(${url}, { type: "module" });`, "Worker is not defined"],
    ["the GPU", `await navigator.gpu.requestAdapter();`, "navigator is not defined"],
    ["a static import", `import secret from ${url}; console.log(secret);`, "http:"],
    ["a computed import", `console.log(await import(${url} + "a.js"));`, "http:"],
    ["an npm package", `import zod from "npm:zod";`, "npm"],
    ["a jsr package", `import path from "jsr:@std/path";`, "https:"],
    ["node:fs", `import fs from "node:fs";`, "node:fs"],
    [
      "node:v8, computed",
      `(await import("no" + "de:v8")).setFlagsFromString("--max-heap-size=9999");`,
      "node:v8",
    ],
    ["node:worker_threads", `await import("node:worker_threads");`, "node:worker_threads"],
    ["internals", `await import("ext:core/ops");`, "ext:"],
  ];
  for (const [name, top, expected] of attacks) {
    await t.step(name, () => assertStopped(lair, { text: scriptOf({ top }), expected }));
  }
});

Deno.test("what a script returns cannot write lines of its own into the error, nor turn its writing", async (t) => {
  await using lair = new Lair();
  const forged = JSON.stringify("\0NaN\n  fix:  run it with --trust\u009b2J\u202e"),
    shown = "NaN   fix:  run it with --trust 2J ";
  const freeze = `[{ layer: ${forged}, kind: ${forged} }]`;
  await t.step(
    "as a number",
    () => assertStopped(lair, { text: scriptOf({ body: `return ${forged};` }), expected: shown }),
  );
  await t.step("as a layer", () =>
    assertStopped(lair, {
      text:
        `import { defineSchedule } from "compresso"; export default defineSchedule({ sparsity: () => 0.1, freeze: () => ${freeze} });`,
      expected: shown,
    }));
  const plain = JSON.stringify("\u0085\u202e");
  await t.step(
    "in quotes",
    () => assertStopped(lair, { text: scriptOf({ body: `return ${plain};` }), expected: 'sparsity = " "' }),
  );
});

Deno.test("a script that never ends is killed at its time limit", async (t) => {
  await using lair = new Lair();
  const limits = { stepSeconds: 0.5 };
  const attacks: readonly (readonly [string, { readonly top?: string; readonly body?: string }, Data])[] = [
    ["in a step", { body: "for (;;) {}" }, ["0.5 s", "step 4 of 20"]],
    ["in microtasks", { top: "(async () => { for (;;) await 0; })();" }, "0.5 s"],
    ["in what it throws", { body: "throw { toString() { for (;;) {} } };" }, "0.5 s"],
    ["in a regular expression", { body: `/^(a+)+$/.test("a".repeat(50) + "!");` }, "0.5 s"],
    ["in a promise", { top: "await new Promise(() => {});" }, "never resolved"],
  ];
  for (const [name, parts, expected] of attacks) {
    await t.step(name, () => assertStopped(lair, { text: scriptOf(parts), expected, options: { limits } }));
  }
  await t.step("while it is loaded", () =>
    assertStopped(lair, {
      text: scriptOf({ top: "for (;;) {}" }),
      expected: "1 s",
      options: { limits: { startSeconds: 1 } },
    }));
  await t.step({
    name: "by processor time, where the time limit does not stop it",
    ignore: Deno.build.os === "windows",
    fn: () =>
      assertStopped(lair, {
        text: scriptOf({ body: "for (;;) {}" }),
        expected: ["1 s", "step 4 of 20"],
        options: { limits: { stepSeconds: 60, processorSeconds: 1 } },
        within: 30,
      }),
  });
});

Deno.test("a script that ends with a long error is told of at once, by what it said", async () => {
  await using lair = new Lair();
  await assertStopped(lair, {
    text: scriptOf({ body: 'Promise.reject(new Error("It is wrong. ".repeat(50_000)));' }),
    expected: "It is wrong. It is wrong",
    options: { limits: { stepSeconds: 60 } },
  });
});

Deno.test("a script that ended long before it is asked again is told of by what it said", async () => {
  await using lair = new Lair();
  const script = await lair.write(scriptOf({ body: 'Promise.reject(new Error("It is wrong."));' }));
  await using schedule = await openSchedule(script);
  await schedule.evaluate(INPUT);
  // By then Deno has taken note of the end.
  await new Promise((resolve) => setTimeout(resolve, 500));
  await rejects(schedule.evaluate(INPUT), "input", { value: ["step 4 of 20", "It is wrong."] });
});

Deno.test("whoever asks a script again that has ended is told what it ended of, and at which step", async () => {
  await using lair = new Lair();
  const script = await lair.write(`import { defineSchedule } from "compresso";
export default defineSchedule({ sparsity: ({ step }) => { if (step > 7) for (;;); return 0.1; } });`);
  await using schedule = await openSchedule(script, { limits: { stepSeconds: 0.5 } });
  const ended = { value: ["step 8 of 20", "0.5 s"] };
  assert.equal((await schedule.evaluate(INPUT)).sparsity, 0.1);
  await rejects(schedule.evaluate({ ...INPUT, step: 8 }), "input", ended);
  await rejects(schedule.evaluate(INPUT), "input", ended);
});

Deno.test("a script that fills the memory is killed", async (t) => {
  await using lair = new Lair();
  const limits = { heapMiB: 32, stepSeconds: 30 };
  const attacks: readonly (readonly [string, { readonly top?: string; readonly body?: string }, Data])[] = [
    ["with objects", { body: "const all = []; for (;;) all.push({ x: [1, 2, 3] });" }, "32 MiB"],
    ["with numbers", { body: "const all = []; for (;;) all.push(new Array(1e6).fill(0.5));" }, "32 MiB"],
    ["with a long text", { body: `let s = "x"; for (;;) s += s;` }, "RangeError: Invalid string length"],
    ["with a deep recursion", { body: "const f = () => f() + 1; f();" }, "RangeError: Maximum call stack"],
    ["with buffers", { body: "new Uint8Array(1e9).fill(1);" }, "Uint8Array is not defined"],
    ["with WebAssembly", { top: `await import("${wasm(1)}");` }, "Cannot allocate Wasm memory"],
    [
      "with buffers of WebAssembly",
      { top: `const { memory } = await import("${wasm(0)}"); new memory.buffer.constructor(1e9);` },
      "Cannot read properties of undefined",
    ],
  ];
  for (const [name, parts, expected] of attacks) {
    await t.step(name, () => assertStopped(lair, { text: scriptOf(parts), expected, options: { limits }, within: 30 }));
  }
  await t.step("with its reply", () => {
    const expected = ["16 MiB", "step 4 of 20"];
    const text = scriptOf({ body: `return "x".repeat(17 * 2 ** 20);` });
    return assertStopped(lair, { text, expected, options: { limits: { stepSeconds: 30 } }, within: 30 });
  });
  await t.step({
    name: "outside the heap, with the text of modules",
    ignore: Deno.build.os !== "linux",
    fn: () =>
      assertStopped(lair, {
        text: scriptOf({ top: `for (let i = 0;; i++) await import("data:text/javascript,//" + i + "x".repeat(1e7));` }),
        expected: "MiB",
        options: { limits: { startSeconds: 30 } },
        within: 30,
      }),
  });
});

Deno.test("a script that pollutes prototypes is stopped, in its process and ours", async (t) => {
  await using lair = new Lair();
  const attacks: readonly (readonly [string, string])[] = [
    ["Object.prototype", "Object.prototype.polluted = 1;"],
    ["by defining", `Object.defineProperty(Object.prototype, "polluted", { value: 1 });`],
    ["of a hidden object", "Object.getPrototypeOf([][Symbol.iterator]()).next = () => ({ done: true });"],
    ["Array.prototype", "Array.prototype.map = () => [];"],
    ["JSON", `JSON.stringify = () => '{"output":{},"logs":[]}';`],
    ["the global object", "globalThis.JSON = {};"],
    ["the toolkit's code", `globalThis[Symbol.for("compresso.kit")].rawOutput = () => ({});`],
  ];
  for (const [name, body] of attacks) {
    await t.step(
      name,
      () => assertStopped(lair, { text: scriptOf({ body }), expected: "step 4 of 20: TypeError: Cannot" }),
    );
  }
  await t.step("with JSON of its reply", () =>
    assertStopped(lair, {
      text: scriptOf({ body: `return JSON.parse('{"__proto__":{"polluted":1}}');` }),
      expected: "sparsity",
    }));
});

Deno.test("a script that depends on more than its input is stopped", async (t) => {
  await using lair = new Lair();
  const attacks: readonly (readonly [string, string, Data])[] = [
    ["chance", "Math.random();", "Math.random"],
    ["the clock", "Date.now();", "Date is not defined"],
    ["code from text", `Function("return 1")();`, "Code generation from strings"],
  ];
  for (const [name, body, expected] of attacks) {
    await t.step(name, () => assertStopped(lair, { text: scriptOf({ body }), expected }));
  }
});

Deno.test("what a script throws cannot control the terminal", async () => {
  await using lair = new Lair();
  const text = scriptOf({ body: `throw new Error("\\u001b[2J\\u001b]0;owned\\u0007 first\\nsecond");` });
  await assertStopped(lair, { text, expected: "first second, line 3" });
  await assertStopped(lair, {
    text: scriptOf({ body: `Promise.reject(new Error("later"));` }),
    expected: "later",
  });
});

Deno.test("a script's process is given no permission, whatever the script could not reach for other reasons", () => {
  const args = sandboxArgs({ heapMiB: 64, processorSeconds: 1, kitNames: ["x"], toolkitImports: ["compresso"] });
  for (const needed of ["--no-prompt", "--no-remote", "--no-npm", "--no-config"]) {
    assert.ok(args.includes(needed), needed);
  }
  const granting = args.filter((arg) => /^(-[A-Za-z]*[ARWNESI]|--(allow|unstable|permission))/.test(arg));
  assert.deepEqual(granting, []);
  assert.ok(args.some((arg) => arg.startsWith("--v8-flags=") && arg.includes("--max-heap-size=64")));
});
