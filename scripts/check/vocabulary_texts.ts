// Encodes 10,000 texts with a cut tokenizer, from its folder and from its GGUF, and writes them with their tokens for the other programs.
// usage: deno run -A scripts/check/vocabulary_texts.ts MODEL OUT TEXTS...
import { openModelFiles } from "../../lib/model/mod.ts";

const TEXTS = 10_000;
const [model = "", out = "", ...paths] = Deno.args;

/** A character of each block of 64 in Unicode, three in a row and between letters; surrogates and non-characters are none. */
function unicode(): string[] {
  return Array.from({ length: 0x110000 / 64 }, (_, block) => block * 64 + 33)
    .filter((code) => code >= 0x80 && (code < 0xd800 || code > 0xdfff))
    .map((code) => `${String.fromCodePoint(code, code + 1, code + 2)} a${String.fromCodePoint(code)}b`);
}

/** Each character of one byte but NUL, at which C ends a text. */
const ASCII = Array.from({ length: 0x7f }, (_, code) => `x${String.fromCharCode(code + 1)} y`);

/** Every other byte that UTF-8 has: those that go on with a character, and the first of characters of two to four bytes. */
const BYTES = [
  ...Array.from({ length: 0x40 }, (_, code) => 0x80 + code),
  ...Array.from({ length: 30 }, (_, lead) => 0x80 + 0x40 * lead),
  ...[0x800, ...Array.from({ length: 15 }, (_, lead) => 0x1000 * (lead + 1))].filter((code) => code !== 0xd000),
  ...[0xd000, 0x10000, 0x40000, 0x80000, 0xc0000, 0x100000],
].map((code) => `x${String.fromCodePoint(code)} y`);

const lines = paths.flatMap((path) => Deno.readTextFileSync(path).split("\n")).filter((line) => line.trim() !== "");
const blocks = unicode(), step = Math.max(1, Math.floor(blocks.length / 2500));
const others = [...ASCII, ...BYTES, ...blocks.filter((_, place) => place % step === 0)].slice(0, 3000);
const used = Math.min(lines.length, TEXTS - others.length);
const texts = [
  ...Array.from({ length: used }, (_, place) => (lines[Math.floor(place * lines.length / used)] ?? "").slice(0, 400)),
  ...others,
].map((text) => text.toWellFormed());

const dense = (await openModelFiles(model)).tokenizer, folder = (await openModelFiles(`${out}/model`)).tokenizer;
const gguf = (await openModelFiles(`${out}/model.gguf`)).tokenizer;
if (!dense || !folder || !gguf) throw new Error("a tokenizer is missing");
const { kept }: { kept: number[] } = JSON.parse(Deno.readTextFileSync(`${out}/vocabulary.json`));
const places = new Map(kept.map((id, place) => [id, place]));
let same = 0, tokens = 0, before = 0;
const failures: string[] = [], bytes = new Set<number>();
const found = texts.map((text) => {
  const ids = folder.encode(text), old = dense.encode(text), decoded = folder.decode(ids);
  tokens += ids.length;
  before += old.length;
  for (const byte of new TextEncoder().encode(text)) bytes.add(byte);
  if (gguf.encode(text).join() !== ids.join()) failures.push(`the GGUF encodes otherwise: ${JSON.stringify(text)}`);
  if (decoded !== dense.decode(old)) failures.push(`decodes otherwise than before: ${JSON.stringify(text)}`);
  if (old.every((id) => places.has(id))) {
    same++;
    if (old.map((id) => places.get(id)).join() !== ids.join()) failures.push(`other tokens: ${JSON.stringify(text)}`);
  }
  return { text, ids, decoded };
});
Deno.writeTextFileSync(`${out}/texts.json`, JSON.stringify(found));
const figures =
  `${texts.length} texts with ${bytes.size} of the 242 bytes that UTF-8 has but for NUL; ${same} have the tokens of the whole vocabulary; ` +
  `${tokens} tokens, ${before} before`;
console.log(
  failures.length > 0 ? `FAIL ${failures.length}: ${failures[0]} | ${figures}` : `PASS Compresso: ${figures}`,
);
Deno.exit(failures.length > 0 ? 1 : 0);
