// Formats of models: safetensors, GGUF, Hugging Face folders with their configuration, shards and tokenizer, PEFT adapters and checkpoints.
import { memoryFiles, memorySource } from "../../lib/files/memory.ts";
import { openModel, readSpec } from "../../lib/formats/open.ts";
import { type GgufExportOptions, stageGguf } from "../../lib/formats/gguf/export.ts";
import type { GgufWriteType } from "../../lib/formats/gguf/mixes.ts";
import { ggufTokenizerMetadata } from "../../lib/formats/gguf/tokenizer_export.ts";
import { stageHf } from "../../lib/formats/hf/export.ts";
import { openPeftAdapter, stagePeftAdapter } from "../../lib/formats/peft/adapter.ts";
import { openSafetensors } from "../../lib/formats/safetensors/read.ts";
import { readCheckpoint, writeCheckpoint } from "../../lib/run/checkpoint.ts";
import type { RunPosition, TrainerArrays } from "../../lib/run/contract.ts";
import { planMemory } from "../../lib/run/memory/plan.ts";
import { type DecoderSpec, parameterCount, tensorShapes } from "../../lib/spec/decoder.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { loraModules } from "../../lib/spec/lora.ts";
import { renderChat } from "../../lib/text/chat_template.ts";
import { createStreamDecoder, loadHfTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { randomNumbers, randomSource, SPEC } from "../formats/models.ts";
import { type Case, type Files, fixture, type Format, jsonFile, single, utf8 } from "./format.ts";
import { bytes, json, oneOf, safetensors, text } from "./mutate.ts";

const TEXT = "Tom went to Rome by train,  and it's 1234 stars\n\té 日本 <s>🙂";
const BLOCKS: DecoderSpec = {
  ...SPEC,
  hidden: 32,
  headDim: 8,
  layers: [{ heads: 4, kvHeads: 2, ffn: 64 }],
  tied: true,
};

const MXFP4: DecoderSpec = {
  ...BLOCKS,
  vocab: 400,
  layers: [{ heads: 4, kvHeads: 2, ffn: 0, experts: { count: 3, ffn: 32 } }],
  router: { topK: 2, renormalised: true },
};

/** Folders of the golden models, of all families, as `golden/NAME/model`; first those with experts. */
function goldenModels(): string[] {
  return ["golden_experts", "golden", "golden_hybrids"].flatMap((root) => {
    const folder = new URL(`../../fixtures/${root}/`, import.meta.url);
    return [...Deno.readDirSync(folder)].map(({ name }) => name).sort().filter((name) => {
      try {
        return Deno.statSync(new URL(`${name}/model/config.json`, folder)).isFile;
      } catch {
        return false;
      }
    }).map((name) => `${root}/${name}/model`);
  });
}

/** A golden model, as a folder at `model`; `name` with the folder of its kind. */
function goldenFolder(name: string): Files {
  const file = (one: string): [string, Uint8Array<ArrayBuffer>] => [
    `model/${one}`,
    fixture(`${name}/model/${one}`),
  ];
  return new Map(["config.json", "model.safetensors"].map(file));
}

/** The files of a folder of a model of random weights. */
async function hfFolder(spec: DecoderSpec, options: { readonly maxShardBytes?: number } = {}): Promise<Files> {
  const files = memoryFiles();
  using staged = await stageHf(randomSource(spec), "model", { dtype: "f16", tokenizer: null, files, ...options });
  await staged.commit();
  return files.files;
}

/** A GGUF of a model of random weights. */
export async function ggufFile(spec: DecoderSpec, dtype: GgufWriteType): Promise<Uint8Array<ArrayBuffer>> {
  const tokenizer = await tokenizerIn(tokenizerFiles("byte_level"));
  const tokenizerMetadata = tokenizer ? ggufTokenizerMetadata(tokenizer, { vocab: spec.vocab }) : new Map();
  return await ggufOf(randomSource(spec), { dtype, tokenizerMetadata });
}

async function ggufOf(
  source: WeightSource,
  how: Pick<GgufExportOptions, "dtype" | "tokenizerMetadata">,
): Promise<Uint8Array<ArrayBuffer>> {
  const files = memoryFiles();
  using staged = await stageGguf(source, "a.gguf", { ...how, name: "fuzz", files });
  await staged.commit();
  return files.files.get("a.gguf") ?? new Uint8Array();
}

/** Reads every tensor, and works with the tokenizer. */
export async function useModel(files: Files, path: string): Promise<void> {
  const { source, tokenizer } = await openModel(memoryFiles(files), path);
  for (const name of tensorShapes(source.spec).keys()) await source.read(name);
  if (tokenizer) useTokenizer(tokenizer);
}

function useTokenizer(tokenizer: Tokenizer): void {
  const ids = tokenizer.encode(TEXT, { addSpecial: true });
  tokenizer.decode(ids);
  tokenizer.decode(ids, { skipSpecial: true });
  const stream = createStreamDecoder(tokenizer);
  for (const id of ids.slice(0, 8)) stream.push(id);
  stream.end();
  for (const id of [0, 1, tokenizer.vocabSize - 1]) tokenizer.idToToken(id);
}

function tokenizerFiles(name: "byte_level" | "sentencepiece"): Files {
  const file = (one: string): [string, Uint8Array<ArrayBuffer>] => [`t/${one}`, fixture(`tokenizer/${name}/${one}`)];
  return new Map([file("tokenizer.json"), file("tokenizer_config.json")]);
}

async function tokenizerIn(files: Files): Promise<Tokenizer | null> {
  return await loadHfTokenizer(memoryFiles(files), "t");
}

/** Places of whole numbers in the header of a GGUF: the counts, and each place where a small number of 4 or 8 bytes may be. */
export function ggufPlaces(file: Uint8Array): number[] {
  const view = new DataView(file.buffer, file.byteOffset, file.length), places = [4, 8, 16];
  for (let at = 24; at + 8 <= Math.min(file.length, 8192); at++) {
    if (view.getUint32(at, true) < 64 && view.getUint32(at + 4, true) === 0) places.push(at);
  }
  return places;
}

const GGUF: Format = {
  name: "GGUF",
  cases: async () =>
    single(
      "a.gguf",
      bytes(ggufPlaces),
      await ggufFile({ ...SPEC, vocab: 400 }, "f16"),
      await ggufFile({ ...BLOCKS, vocab: 400 }, "q8_0"),
      await ggufFile({ ...BLOCKS, vocab: 400 }, "q4_0"),
      await ggufFile(MXFP4, "mxfp4_moe"),
      ...await Promise.all(
        ["golden_experts/mixtral", "golden_experts/glm4_moe", "golden_hybrids/lfm2_long"].map(async (name) => {
          const { source } = await openModel(memoryFiles(goldenFolder(name)), "model");
          return await ggufOf(source, { dtype: "f32", tokenizerMetadata: new Map() });
        }),
      ),
    ),
  read: (files) => useModel(files, "a.gguf"),
};

const SAFETENSORS: Format = {
  name: "safetensors",
  cases: async () =>
    single(
      "a.safetensors",
      safetensors,
      fixture("golden/peft/qv/adapter_model.safetensors"),
      fixture("golden/mqa_bf16_sharded/model/model-00004-of-00004.safetensors"),
      (await hfFolder({ ...SPEC, vocab: 7 })).get("model/model.safetensors") ?? new Uint8Array(),
    ),
  async read(files): Promise<void> {
    const file = await openSafetensors(memorySource("a.safetensors", files.get("a.safetensors") ?? new Uint8Array()));
    for (const name of file.tensors.keys()) await file.read(name);
  },
};

const CONFIG: Format = {
  name: "config.json",
  async cases(): Promise<Case[]> {
    const own = (config: unknown): Case => ({
      files: new Map([["model/config.json", jsonFile(config)]]),
      mutators: { "model/config.json": json },
    });
    const configs = goldenModels().map((name): unknown =>
      JSON.parse(new TextDecoder().decode(fixture(`${name}/config.json`)))
    );
    const folder = await hfFolder(SPEC),
      mutators = { "model/config.json": oneOf(json, bytes()), "model/generation_config.json": json };
    return [...configs.map(own), { files: folder, mutators }];
  },
  async read(files, draw): Promise<void> {
    const system = memoryFiles(files), spec = await readSpec(system, "model");
    parameterCount(spec);
    // The plan of a run is what `plan` makes of a config; it takes far longer than the rest.
    if (draw.onceIn(40)) await planMemory(spec, { batch: 1, seq: 8 });
    if (files.has("model/model.safetensors")) await useModel(files, "model");
  },
};

const INDEX: Format = {
  name: "shard index and experts",
  async cases(): Promise<Case[]> {
    const files = await hfFolder(SPEC, { maxShardBytes: 4000 }), index = "model/model.safetensors.index.json";
    const shard = [...files.keys()].find((path) => path.endsWith(".safetensors")) ?? "";
    // The tensors of experts, one for each or all in a stack, or of convolutions, and the configuration that says how many there are.
    const ofOthers = { "model/config.json": json, "model/model.safetensors": safetensors };
    return [
      { files, mutators: { [index]: json } },
      { files, mutators: { [index]: json, [shard]: safetensors } },
      ...["golden_experts/qwen2_moe", "golden_experts/granitemoe", "golden_hybrids/lfm2"].map((name) => ({
        files: goldenFolder(name),
        mutators: ofOthers,
      })),
    ];
  },
  read: (files) => useModel(files, "model"),
};

const LETTERS = ["<unk>", ..."abcdefghijklmnopqrstuvwxyzTR0123456789'▁ ", "Tom", "##om", "train", "<0xC3>", "<0xA9>"];
const VOCAB = Object.fromEntries(LETTERS.map((letter, id) => [letter, id]));
const ADDED = { special: true, lstrip: true, rstrip: false, normalized: false, single_word: false };

/** A tokenizer.json with steps of each kind. */
function madeTokenizer(model: Readonly<Record<string, unknown>>): Case {
  const pattern = { Regex: "\\s+(?!\\S)|'s|\\p{N}{1,3}" };
  const tokenizer = {
    added_tokens: [{ id: LETTERS.length, content: "<s>", ...ADDED }],
    normalizer: {
      type: "Sequence",
      normalizers: [
        ...["NFC", "Lowercase", "StripAccents"].map((type) => ({ type })),
        { type: "Replace", pattern: { String: "  " }, content: " " },
        { type: "Prepend", prepend: "▁" },
        { type: "Strip", strip_left: true, strip_right: false },
      ],
    },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern, behavior: "Isolated", invert: false },
        { type: "Punctuation", behavior: "Isolated" },
        { type: "Digits", individual_digits: true },
        { type: "Metaspace", replacement: "▁", prepend_scheme: "first", split: true },
        { type: "FixedLength", length: 5 },
      ],
    },
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: "<s>", type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
      special_tokens: { "<s>": { id: "<s>", ids: [LETTERS.length], tokens: ["<s>"] } },
    },
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        ...["ByteFallback", "Fuse"].map((type) => ({ type })),
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model,
  };
  return { files: new Map([["t/tokenizer.json", jsonFile(tokenizer)]]), mutators: { "t/tokenizer.json": json } };
}

const TOKENIZER: Format = {
  name: "tokenizer.json",
  cases: () => [
    ...(["byte_level", "sentencepiece"] as const).map((name) => ({
      files: tokenizerFiles(name),
      mutators: { "t/tokenizer.json": json },
    })),
    madeTokenizer({
      type: "BPE",
      vocab: { ...VOCAB, tr: LETTERS.length + 1, ai: LETTERS.length + 2 },
      merges: ["t r", "a i"],
      unk_token: "<unk>",
    }),
    madeTokenizer({ type: "WordLevel", vocab: VOCAB, unk_token: "<unk>" }),
    madeTokenizer({
      ...{ type: "WordPiece", vocab: VOCAB, unk_token: "<unk>", continuing_subword_prefix: "##" },
      max_input_chars_per_word: 100,
    }),
    madeTokenizer({
      type: "Unigram",
      vocab: LETTERS.map((letter, id) => [letter, -id]),
      unk_id: 0,
      byte_fallback: true,
    }),
  ],
  async read(files): Promise<void> {
    const tokenizer = await tokenizerIn(files);
    if (tokenizer) useTokenizer(tokenizer);
  },
};

const TEMPLATE = "{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' and loop.first %}" +
  "{{ '<s>' + m['content'] | trim }}{% elif m.role == 'user' %}{{- bos_token ~ m.content[:9] | upper }}{% else %}" +
  "{% set ns.n = ns.n + 1 %}{{ m.content | replace('a', 'b') | tojson }}{% endif %}{% for i in range(3) %}{{ i * 2 }}" +
  "{% endfor %}{% endfor %}{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}{% if add_generation_prompt %}A:{% endif %}";

const SETTINGS: Format = {
  name: "tokenizer settings and chat templates",
  cases(): Case[] {
    const map = { bos_token: "<s>", eos_token: { content: "</s>", lstrip: false }, unk_token: "<unk>" };
    return (["byte_level", "sentencepiece"] as const).map((name) => ({
      files: new Map([
        ...tokenizerFiles(name),
        ["t/special_tokens_map.json", jsonFile(map)],
        ["t/added_tokens.json", jsonFile({ "<extra>": 400 })],
        ["t/chat_template.jinja", utf8(TEMPLATE)],
        ["t/additional_chat_templates/other.jinja", utf8(TEMPLATE)],
      ]),
      mutators: {
        "t/tokenizer_config.json": json,
        "t/special_tokens_map.json": json,
        "t/added_tokens.json": json,
        "t/chat_template.jinja": oneOf(text, bytes()),
        "t/additional_chat_templates/other.jinja": text,
      },
    }));
  },
  async read(files): Promise<void> {
    const tokenizer = await tokenizerIn(files);
    if (!tokenizer) return;
    useTokenizer(tokenizer);
    if (tokenizer.chatTemplate === null) return;
    const messages = [{ role: "system", content: " Be brief. " }, { role: "user", content: "Where is Ann?" }] as const;
    renderChat(tokenizer, [...messages, { role: "assistant", content: "in Rome" }], { addGenerationPrompt: true });
  },
};

const PEFT_FILES = { "a/adapter_config.json": json, "a/adapter_model.safetensors": safetensors };

const PEFT: Format = {
  name: "PEFT adapter",
  async cases(): Promise<Case[]> {
    const made: Case[] = [];
    for (const targets of [["q", "v"], ["q", "k", "v", "o", "gate", "up", "down"]] as const) {
      const files = memoryFiles(), config = { rank: 3, alpha: 6, rsLora: false, targets, dropout: 0.1 };
      const weights = new Map(
        [...loraModules(SPEC, targets)].flatMap(({ layer, projection, shape: [rows, columns] }) => [
          [`lora.${layer}.${projection}.A`, randomNumbers(3 * columns, 1)] as const,
          [`lora.${layer}.${projection}.B`, randomNumbers(3 * rows, 2)] as const,
        ]),
      );
      using staged = await stagePeftAdapter(files, "a", { spec: SPEC, config, weights, baseModel: null });
      await staged.commit();
      made.push({ files: files.files, mutators: PEFT_FILES });
    }
    const [first] = made, file = first?.files.get("a/adapter_config.json") ?? new Uint8Array();
    const patterns = { rank_pattern: { "layers.0.self_attn.q_proj": 3 }, alpha_pattern: { q_proj: 4 } };
    const config = jsonFile({ ...JSON.parse(new TextDecoder().decode(file)), ...patterns });
    if (first) made.push({ ...first, files: new Map([...first.files, ["a/adapter_config.json", config]]) });
    return made;
  },
  async read(files): Promise<void> {
    await openPeftAdapter(memoryFiles(files), "a", { spec: SPEC });
  },
};

const POSITION: RunPosition = {
  ...{ stage: 1, stageStep: 2, step: 4, loraUpdates: 4, maskUpdates: 2, records: 4, expected: null, target: null },
  ...{ layerTargets: null, begun: null, seen: null, leftOut: 0, recent: [], seconds: { prune: 1 }, tokens: 99 },
  ...{ aim: null, alarms: [], unsaid: [], halvings: 0 },
  cursor: { epoch: 0, index: 4 },
} as unknown as RunPosition;

const CHECKPOINT: Format = {
  name: "checkpoint",
  async cases(): Promise<Case[]> {
    const files = memoryFiles(), one = (seed: number): Float32Array<ArrayBuffer> => randomNumbers(9, seed);
    const arrays: TrainerArrays = {
      ...{ lora: one(1), loraM: one(2), loraV: one(3), logAlpha: one(4), maskMoments: one(5) },
      ...{ constraint: one(6), slots: one(7), written: one(8) },
    };
    const state = { position: POSITION, arrays };
    await writeCheckpoint("a", { identity: { seed: 1 }, ...state, kept: [state] }, { files });
    return single("a", oneOf(safetensors, bytes()), files.files.get("a") ?? new Uint8Array());
  },
  async read(files): Promise<void> {
    await readCheckpoint("a", { files: memoryFiles(files) });
  },
};

export const MODEL_FORMATS: readonly Format[] = [
  ...[SAFETENSORS, GGUF, CONFIG, INDEX, TOKENIZER, SETTINGS, PEFT, CHECKPOINT],
];
