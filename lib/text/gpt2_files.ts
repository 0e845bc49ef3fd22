// GPT-2's tokenizer from vocab.json and merges.txt, where a folder has no tokenizer.json.
import type { Json } from "../core/guards.ts";
import { tokenText } from "./tokenizer_json.ts";

/** Content of the two files, and what tokenizer_config.json and special_tokens_map.json say. */
export interface Gpt2Files {
  /** Ids by token. */
  readonly vocab: Json;
  /** A merge a line, in order; a first line with #version is left out. */
  readonly merges: string;
  /** Settings with the special tokens. */
  readonly config: Json;
}

/** The tokenizer.json that transformers 5 makes of them: byte-level BPE, with BOS before a text if `add_bos_token` says so. */
export function gpt2TokenizerJson({ vocab, merges, config }: Gpt2Files): Json {
  const lines = merges.split("\n").map((line) => line.replace(/\r$/, ""));
  const prefix = config["add_prefix_space"] === true,
    bytes = { type: "ByteLevel", trim_offsets: true, use_regex: true };
  const bos = config["add_bos_token"] === true ? tokenText(config["bos_token"]) : null;
  const id = bos === null ? undefined : vocab[bos];
  return {
    version: "1.0",
    added_tokens: [],
    normalizer: null,
    pre_tokenizer: { ...bytes, add_prefix_space: prefix },
    post_processor: bos === null || id === undefined ? null : {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: bos, type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { [bos]: { id: bos, ids: [id], tokens: [bos] } },
    },
    decoder: { ...bytes, add_prefix_space: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      vocab,
      merges: lines.filter((line) => line !== "" && !line.startsWith("#version")),
    },
  };
}
