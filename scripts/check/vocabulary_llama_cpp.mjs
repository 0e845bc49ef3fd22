// Compares what llama.cpp (through the npm package node-llama-cpp) makes of texts with the tokens and texts of Compresso.
// usage: node scripts/check/vocabulary_llama_cpp.mjs MODEL.gguf TEXTS.json      TEXTS.json is that of vocabulary_texts.ts
import { readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { pathToFileURL } from "node:url";
import { install, VERSION } from "../node_llama_cpp.mjs";

const [modelPath, textsPath] = process.argv.slice(2);
const { getLlama } = await import(pathToFileURL(install(join(tmpdir(), `node-llama-cpp-${VERSION}`))).href);
const llama = await getLlama({ gpu: false, build: "never", logLevel: "error", maxThreads: 1 });
const model = await llama.loadModel({ modelPath: resolve(modelPath), gpuLayers: 0, vocabOnly: true });
const texts = JSON.parse(readFileSync(textsPath, "utf8")), failures = [];
for (const { text, ids, decoded } of texts) {
  const own = [...model.tokenize(text, true)].map(Number);
  if (own.join() !== ids.join()) failures.push(`tokens of ${JSON.stringify(text)}: ${own}, ours ${ids}`);
  // Of SentencePiece it keeps the space before a text.
  const said = model.detokenize(ids, true);
  if (said !== decoded && said !== ` ${decoded}`) {
    failures.push(`text of ${ids}: ${JSON.stringify(said)}, ours ${JSON.stringify(decoded)}`);
  }
}
console.log(
  failures.length > 0
    ? `FAIL llama.cpp: ${failures.length}, first ${failures[0]}`
    : `PASS llama.cpp: ${texts.length} texts`,
);
process.exit(failures.length > 0 ? 1 : 0);
