// What the tests of tokenizers and prompts share: the tiny tokenizers of fixtures/tokenizer with their golden values.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { createTokenizer, type Tokenizer } from "../../lib/text/tokenizer.ts";
import { loadHfTokenizer } from "../disk.ts";

export interface GoldenCase {
  readonly text: string;
  readonly ids: readonly number[];
  readonly withSpecial: readonly number[];
  readonly decoded: string;
  readonly skipped: string;
}

export interface Golden {
  readonly cases: readonly GoldenCase[];
  readonly chats: readonly {
    readonly messages: readonly { readonly role: "user" | "assistant"; readonly content: string }[];
    readonly addGenerationPrompt: boolean;
    readonly text: string;
  }[];
  readonly tokens: readonly string[];
  readonly scores: readonly number[];
  readonly types: readonly number[];
  readonly sentencepiece: readonly { readonly text: string; readonly ids: readonly number[] }[];
}

export type FixtureName = "byte_level" | "sentencepiece";

export function fixtureFolder(name: FixtureName): string {
  return fileURLToPath(new URL(`../../fixtures/tokenizer/${name}`, import.meta.url));
}

export async function golden(name: FixtureName): Promise<Golden> {
  return JSON.parse(await Deno.readTextFile(`${fixtureFolder(name)}/golden.json`));
}

export async function tokenizerOf(name: FixtureName): Promise<Tokenizer> {
  const tokenizer = await loadHfTokenizer(fixtureFolder(name));
  assert(tokenizer);
  return tokenizer;
}

/** The tokenizer with another config and chat template. */
export function withConfig(
  tokenizer: Tokenizer,
  config: Readonly<Record<string, unknown>>,
  chatTemplate: string | null,
): Tokenizer {
  return createTokenizer(tokenizer.json, { config: { ...tokenizer.config, ...config }, chatTemplate });
}

/** Runs a test in a folder that is removed afterwards. */
export async function inFolder(run: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await run(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}
