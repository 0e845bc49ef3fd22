// Writes the two inputs of prototype.py: rows as the toolkit encodes them, and the tokens of a text.
import { parseArgs } from "node:util";
import process from "node:process";
import { readRows } from "../../lib/local/rows.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { COLLABORATIVE_PROMPT } from "../../lib/data/prompts/encode.ts";
import { encodeRows } from "../../lib/data/encode_rows.ts";

const HELP = `usage: deno run -A scripts/prototype/tokens.ts MODEL --data FILE --text FILE --out DIR [options]

Writes DIR/rows.json, [{ids, labels}] with label -100 where a token does not count, and DIR/text.json, the ids of the text.

  --no-prompt        rows without the collaborative prompt
  --seq N            longest row in tokens (256)
  --limit-chars N    characters of the text (160000)
  --help             this text`;

const { values: options, positionals: [path] } = parseArgs({
  allowPositionals: true,
  options: {
    data: { type: "string" },
    text: { type: "string" },
    out: { type: "string" },
    "no-prompt": { type: "boolean", default: false },
    seq: { type: "string", default: "256" },
    "limit-chars": { type: "string", default: "160000" },
    help: { type: "boolean", default: false },
  },
});
const { data, text, out } = options;
if (options.help) {
  console.log(HELP);
  process.exit(0);
}
if (path === undefined || data === undefined || text === undefined || out === undefined) {
  console.error(HELP);
  process.exit(2);
}

const { tokenizer } = await openModelFiles(path);
if (!tokenizer) throw new Error(`${path} has no tokenizer`);
const { rows } = await readRows(data);
const prompt = options["no-prompt"] ? null : COLLABORATIVE_PROMPT;
const { examples } = encodeRows(rows, { tokenizer, seq: Number(options.seq), prompt, packing: false });
const ids = tokenizer.encode((await Deno.readTextFile(text)).slice(0, Number(options["limit-chars"])));
await Deno.mkdir(out, { recursive: true });
await Deno.writeTextFile(
  `${out}/rows.json`,
  JSON.stringify(examples.map(({ tokens, labels }) => ({ ids: [...tokens], labels: [...labels] }))),
);
await Deno.writeTextFile(`${out}/text.json`, JSON.stringify([...ids]));
console.log(`${examples.length} rows, ${ids.length} tokens of text`);
