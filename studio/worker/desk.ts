// What lies on the worker's desk: the GPU, the model and rows that were chosen, and the finished run.
import { openModelFiles, readRows } from "../../lib/browser/open.ts";
import { refuse } from "../../lib/core/errors.ts";
import type { Row } from "../../lib/data/rows.ts";
import type { Chat, ChatOptions } from "../../lib/generate/chat.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import type { ModelFiles } from "../../lib/formats/open.ts";
import type { Model } from "../../lib/model/model.ts";
import { modelBefore } from "../../lib/run/mask_summary.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import type { Command, ModelFacts, NamedFile, RowFacts } from "../messages.ts";
import { tell } from "./tell.ts";

/** Files of the demo. They lie in the folder `demo`, next to the page. */
const DEMO_FILES = [
  "config.json",
  "generation_config.json",
  "model.safetensors",
  "tokenizer.json",
  "tokenizer_config.json",
];

/** A model that was chosen. */
export interface ChosenModel extends ModelFiles {
  readonly facts: ModelFacts;
  /** Its files; those of a model of the Hub as they were fetched. */
  readonly files: "demo" | readonly NamedFile[];
  /** Whether they lie in the storage of the studio. */
  readonly isKept: boolean;
}

/** Rows that were chosen. */
export interface ChosenRows {
  readonly rows: readonly Row[];
  readonly facts: RowFacts;
  readonly bytes: number;
  readonly file: Extract<Command, { kind: "rows" }>["file"];
  /** Whether it lies in the storage of the studio. */
  readonly isKept: boolean;
}

/** Opens the demo, a GGUF, the files of a folder, or a model of the Hub, which is fetched. Weights are read later. */
export async function openChosen(
  { files }: Extract<Command, { kind: "model" }>,
  { base, hub, signal }: { readonly base: string; readonly hub: string; readonly signal: AbortSignal },
): Promise<ChosenModel> {
  if (files === "demo") {
    const named = DEMO_FILES.map((name) => [name, new URL(`demo/${name}`, base)] as const);
    const [opened, questions] = await Promise.all([openModelFiles(Object.fromEntries(named)), demoQuestions(base)]);
    return { ...opened, files, isKept: false, facts: factsOf(opened, { name: "demo", questions }) };
  }
  if ("hub" in files) {
    const { fetchHubModel } = await import("../../lib/browser/hub.ts"), tellSometimes = sometimes();
    const fetched = await fetchHubModel(files.hub, { endpoint: hub, signal, onProgress: tellSometimes });
    const opened = await openModelFiles(fetched);
    const name = files.hub.split("/").at(-1) ?? "model",
      parts = fetched instanceof Blob ? { [name]: fetched } : fetched;
    const named = Object.entries(parts).map(([name, blob]) => ({ name, file: new File([blob], name) }));
    return { ...opened, files: named, isKept: false, facts: factsOf(opened, { name, questions: [] }) };
  }
  const [first] = files, gguf = files.find(({ name }) => name.toLowerCase().endsWith(".gguf")) ?? first;
  if (!gguf) {
    refuse("input", "cannot open the model", { rule: "a file or a folder is chosen", value: "an empty folder" });
  }
  const isFolder = files.some(({ name }) => name === "config.json");
  const opened = await openModelFiles(
    isFolder ? Object.fromEntries(files.map(({ name, file }) => [name, file])) : gguf.file,
  );
  const name = isFolder ? folderOf(files) : gguf.name;
  return { ...opened, files, isKept: false, facts: factsOf(opened, { name, questions: [] }) };
}

/** Reads the demo's rows, or those of a file. */
export async function readChosen({ file }: Extract<Command, { kind: "rows" }>, base: string): Promise<ChosenRows> {
  const isDemo = file === "demo", name = isDemo ? "train.jsonl" : file.name;
  const blob = isDemo ? await fetchBlob(new URL(`demo_data/${name}`, base)) : file;
  const { rows } = await readRows(name, blob), [first] = rows;
  return {
    rows,
    file,
    isKept: false,
    bytes: blob.size,
    facts: { name, count: rows.length, first: first ? rowText(first).slice(0, 240) : "" },
  };
}

/** Answers of a model to a question, as pieces: as a chat where it has one, else it continues the text. */
export async function* answers(model: Model, question: string): AsyncGenerator<string, void, undefined> {
  const how = { maxTokens: 96, temperature: 0 };
  using chat = await chatOf(model, how);
  if (chat) return void (yield* chat.ask(question));
  const { generateText } = await import("../../lib/generate/text.ts");
  yield* generateText(model, question, how);
}

async function chatOf(model: Model, how: ChatOptions): Promise<Chat | null> {
  const { createChat } = await import("../../lib/generate/chat.ts");
  try {
    return createChat(model, how);
  } catch (error) {
    if (error instanceof CompressoError && error.code === "input") return null; // it has no form of chats
    throw error;
  }
}

/** Tells the page how much has been fetched, ten times a second at most. */
function sometimes(): (done: number, whole: number) => void {
  let told = -Infinity;
  return (done, whole) => {
    if (performance.now() - told < 100 && done < whole) return;
    told = performance.now();
    tell({ kind: "fetching", done, whole });
  };
}

function factsOf(
  { source }: ModelFiles,
  { name, questions }: Pick<ModelFacts, "name" | "questions">,
): ModelFacts {
  const { spec } = source;
  return {
    name,
    questions,
    parameters: parameterCount(spec),
    layers: spec.layers.length,
    hidden: spec.hidden,
    bytes: modelBefore(source).bytes,
    context: spec.maxPosition,
  };
}

/** The folder's name, where the browser tells it. */
function folderOf([first]: readonly NamedFile[]): string {
  const path = first?.file.webkitRelativePath ?? "";
  return path.split("/", 1)[0] || "model";
}

async function demoQuestions(base: string): Promise<readonly string[]> {
  const blob = await fetchBlob(new URL("demo_data/heldout.jsonl", base));
  const { rows } = await readRows("heldout.jsonl", blob, { limit: 4 });
  return rows.flatMap((row) => row.kind === "instruct" ? [row.input] : []);
}

async function fetchBlob(url: URL): Promise<Blob> {
  const response = await fetch(url).catch((error: unknown) => String(error));
  if (typeof response !== "string" && response.ok) return await response.blob();
  const value = typeof response === "string" ? response : response.status;
  refuse("input", `cannot read ${url.pathname}`, { rule: "it lies beside the page", value, fix: "reload the page" });
}

function rowText(row: Row): string {
  if (row.kind === "text") return row.text;
  if (row.kind === "instruct") return [row.instruction, row.input, row.output].filter(Boolean).join("\n");
  return row.messages.map(({ role, content }) => `${role}: ${content}`).join("\n");
}
