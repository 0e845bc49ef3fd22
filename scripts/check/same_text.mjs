// Compares the greedy text of two GGUFs in llama.cpp (through the npm package node-llama-cpp): a cut vocabulary has other
// ids for the same tokens, so texts are compared.
// usage: node scripts/check/same_text.mjs FIRST.gguf SECOND.gguf --tokens N --prompt TEXT [--prompt TEXT …]
// deno-lint-ignore-file explicit-function-return-type -- JavaScript has no place to write one
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { parseArgs } from "node:util";
import { install, VERSION } from "../node_llama_cpp.mjs";

const { values: { tokens, prompt: prompts }, positionals } = parseArgs({
  allowPositionals: true,
  options: { tokens: { type: "string", default: "24" }, prompt: { type: "string", multiple: true, default: [] } },
});
const { getLlama } = await import(pathToFileURL(install(join(tmpdir(), `node-llama-cpp-${VERSION}`))).href);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 2 });
const [first, second] = [await continuations(positionals[0]), await continuations(positionals[1])];
let differ = 0;
prompts.forEach((prompt, index) => {
  const [a, b] = [first[index], second[index]], places = Math.max(a.length, b.length);
  let same = 0;
  while (same < places && a[same] === b[same]) same++;
  if (same < places) differ++;
  console.log(
    `${same < places ? "FAIL" : "PASS"} ${JSON.stringify(prompt)}: ${same} of ${places} tokens have the same text` +
      (same < places
        ? `, then ${JSON.stringify(a[same])} and ${JSON.stringify(b[same])}`
        : `: ${JSON.stringify(a.join(""))}`),
  );
});
console.log(`${prompts.length - differ} of ${prompts.length} prompts have the same text`);

/** The texts of the greedy tokens after each prompt. */
async function continuations(path) {
  const model = await llama.loadModel({ modelPath: resolve(path), gpuLayers: 0 });
  const context = await model.createContext({ contextSize: 512, flashAttention: false, threads: 2 });
  const sequence = context.getSequence(), found = [];
  for (const prompt of prompts) {
    const { bos, shouldPrependBosToken } = model.tokens, texts = [];
    let input = [...shouldPrependBosToken && bos !== null ? [bos] : [], ...model.tokenize(prompt, true)];
    await sequence.clearHistory();
    for (let step = 0; step < Number(tokens); step++) {
      const results = await sequence.controlledEvaluate(
        input.map((token, place) =>
          place < input.length - 1
            ? token
            : [token, { generateNext: { logits: { filter: { tokens: [], includeTop: 1 } } } }]
        ),
      );
      const [[best]] = results.at(-1).next.logits;
      if (model.isEogToken(best)) break;
      texts.push(model.detokenize([best], true, input));
      input = [best];
    }
    found.push(texts);
  }
  await model.dispose();
  return found;
}
