// Times greedy decoding of a GGUF file in llama.cpp (npm package node-llama-cpp, on the CPU): `node llama_cpp.mjs [--folder DIR] < cases.json`.
// It writes only to the folder that it installs the package in, the same as scripts/check/llama_cpp.mjs.
// deno-lint-ignore-file explicit-function-return-type -- JavaScript has no place to write one
// Plain Node on purpose: the addon is loaded by Node, and nobody who only uses the toolkit needs it.
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { json } from "node:stream/consumers";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { install, VERSION } from "../../node_llama_cpp.mjs";

const PEER = "llama.cpp";
const THREADS = availableParallelism();

const { values: options } = parseArgs({
  options: { folder: { type: "string", default: join(tmpdir(), `node-llama-cpp-${VERSION}`) } },
});
const emit = (line) => console.log(JSON.stringify({ peer: PEER, ...line }));
const { cases, repeats = 7 } = await json(process.stdin);
let llama;
try {
  const { getLlama } = await import(pathToFileURL(install(options.folder)).href);
  llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: THREADS });
} catch (error) {
  emit({ missing: error.message });
  process.exit(0);
}
const version = `${VERSION} (llama.cpp ${llama.llamaCppRelease.release})`;
for (const work of cases) {
  try {
    if (work.kind !== "decode") throw new Error(`llama.cpp has no case of kind ${work.kind}`);
    emit({ version, case: work.name, ...await decode(work) });
  } catch (error) {
    emit({ version, case: work.name, error: error.message });
  }
}
await llama.dispose();

/**
 * Seconds of `count` tokens after the first, which comes out of the prompt; end tokens do not stop it.
 * llama.cpp's threads spin while they wait: beside other processes its seconds are far too long, of both kinds.
 */
async function decode({ model: modelPath, prompt, tokens: count, threads = THREADS }) {
  const model = await llama.loadModel({ modelPath, gpuLayers: 0 });
  const context = await model.createContext({ contextSize: prompt.length + count + 1, threads });
  const sequence = context.getSequence();
  const seconds = [], cpuSeconds = [];
  let first;
  for (let repeat = -1; repeat < repeats; repeat++) { // the first warms up
    await sequence.clearHistory();
    const output = sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true });
    const found = [(await output.next()).value];
    const start = performance.now(), before = process.cpuUsage();
    while (found.length <= count) found.push((await output.next()).value);
    const { user, system } = process.cpuUsage(before);
    const elapsed = (performance.now() - start) / 1000;
    await output.return();
    first ??= found;
    if (found.join() !== first.join()) throw new Error("greedy tokens differ from one repeat to the next");
    if (found.some((token) => !Number.isInteger(token))) throw new Error(`decoding ended before ${count} tokens`);
    if (repeat < 0) continue;
    seconds.push(elapsed);
    cpuSeconds.push((user + system) / 1e6);
  }
  await model.dispose();
  const begins = first.slice(0, 4).join(" ");
  return {
    seconds,
    cpuSeconds,
    note: `${threads} threads, weights as in the file, KV cache f16; tokens begin ${begins}`,
  };
}
