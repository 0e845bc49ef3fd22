// `compresso serve MODEL`: serves a model by an OpenAI-compatible API until it is stopped.
import type { CommandUnknownOpts } from "../packages.ts";
import { refuse } from "../../lib/core/errors.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { promptCost } from "../../lib/data/prompts/encode.ts";
import { generateMany } from "../../lib/generate/many.ts";
import { MOST_SEQUENCES } from "../../lib/nn/decode/batch.ts";
import { checkOrigin } from "../../lib/serve/cors.ts";
import type { RequestRecord } from "../../lib/serve/handler.ts";
import { servedStyle } from "../../lib/serve/prepare.ts";
import { checkListen, isLoopback, serveModel } from "../../lib/serve/serve.ts";
import { MODEL_TEXT, verb } from "../command.ts";
import { fetchInputs, servedName } from "../hub.ts";
import { note, print } from "../terminal/output.ts";
import { promptNote, promptText } from "../options/prompt.ts";
import { ADAPTER_FLAG, addFlags, type FlagTable, type FlagValues, MODEL_FLAGS } from "../options/flags.ts";
import { type Loaded, tokenizerOf, withModel } from "../with_model.ts";

/** Where the key is looked for without `--api-key-file`. */
const KEY_VARIABLE = "COMPRESSO_API_KEY";
/**
 * Rows of a prompt for which kernels are chosen, and tokens that a server soon reads: for a large model, measuring pays
 * off.
 */
const PROMPT_ROWS = 512, SOON_TOKENS = 100_000;
/** Tokens of the prompt that is read before the first client's. */
const WARM_TOKENS = 33;

const FLAGS = {
  host: {
    type: "value",
    placeholder: "address",
    initially: "127.0.0.1",
    help:
      "address to listen on; other machines can reach it unless it is a loopback address, which without a key accepts only local host names",
  },
  port: {
    type: "count",
    most: 65535,
    placeholder: "number",
    initially: 8000,
    help: "port; 0: any free one",
  },
  name: {
    type: "value",
    placeholder: "name",
    defaultText: "the last part of its path; a run's model has the name of the run's folder",
    help: "name of the model in requests",
  },
  apiKeyFile: {
    type: "value",
    placeholder: "file",
    defaultText: `the variable ${KEY_VARIABLE}, else none`,
    help: "a file with the key that clients must send",
  },
  cors: {
    type: "value",
    placeholder: "origin",
    isOptional: true,
    defaultText: "none",
    help:
      "let web pages of this origin, such as http://localhost:5173, use the server; without a value, of every origin",
  },
  temperature: {
    type: "number",
    least: 0,
    most: 2,
    defaultText: "1, as for OpenAI",
    help: "temperature of requests that give none; 0 always takes the most likely token",
  },
  maxBody: { type: "bytes", initially: 2 ** 21, help: "most bytes of a request, such as 512K" },
  maxRequestTokens: {
    type: "count",
    least: 1,
    initially: 65536,
    help: "most tokens of a request: its prompts plus the tokens to generate",
  },
  parallel: {
    type: "count",
    least: 1,
    most: MOST_SEQUENCES,
    initially: 8,
    help: "most requests that are answered at once; each step of the model serves all of them",
  },
  maxQueue: { type: "count", initially: 32, help: "most requests that wait" },
  timeout: {
    type: "number",
    above: 0,
    below: 2e6,
    placeholder: "seconds",
    initially: 300,
    help: "most seconds for a request, waiting included",
  },
  grace: {
    type: "number",
    least: 0,
    below: 2e6,
    placeholder: "seconds",
    initially: 10,
    help: "seconds that running requests get to finish when the server is stopped",
  },
  withPrompt: {
    type: "switch",
    help: "put the collaborative prompt before every chat, not before completions (default: no prompt)",
  },
  promptFile: {
    type: "value",
    placeholder: "file",
    help: "a file with your own prompt, in place of the collaborative one",
  },
  log: { type: "switch", help: "print one line about each request on stderr" },
  json: { type: "switch", help: "print one line of JSON with url and model once the server listens" },
  adapter: ADAPTER_FLAG,
  ...MODEL_FLAGS,
} as const satisfies FlagTable;

type Flags = FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function serveVerb(): CommandUnknownOpts {
  const command = verb("serve", {
    description:
      "Serve a model over HTTP with OpenAI's API, and a page to chat with it: completions, models, health, and chat if the model has a chat template.",
    examples: ["serve path/to/model --port 8000", "serve runs/mine/model --api-key-file key.txt --port 0"],
    notes: "A request that sets no limit gets at most 16 tokens as a completion and 1,024 in a chat.",
  }).argument("<model>", MODEL_TEXT);
  return addFlags(command, FLAGS).action(async (path: string, options: Flags) => {
    const { host, port, withPrompt = false, promptFile = withPrompt } = options;
    const apiKey = await readKey(options.apiKeyFile, { host });
    const name = options.name ?? servedName(path);
    checkOrigin(originOf(options.cors));
    checkListen({ host, port });
    const prompt = await promptText(promptFile);
    checkName(name);
    await fetchInputs({ model: [path] });
    if (prompt !== null) await checkChats(path);
    const settings = { ...options, onInterrupt: "stopping; press Ctrl-C again to end at once" };
    await withModel(path, settings, (loaded) => run(loaded, { ...options, apiKey, name, prompt }));
  });
}

function checkName(name: string): void {
  if (name.trim() !== "") return;
  refuse("usage", "cannot serve a model without a name", {
    rule: "--name is not empty",
    value: JSON.stringify(name),
    fix: "give --name a text, or leave it out",
  });
}

/** A prompt can only be put before chats, so it needs a model that chats. */
async function checkChats(path: string): Promise<void> {
  const { tokenizer } = await openModelFiles(path);
  if (!tokenizer || servedStyle(tokenizer) !== null) return;
  refuse("usage", "cannot put a prompt before chats", {
    rule: "the model has a chat template, or its tokenizer_config.json names a compresso_style",
    value: "neither",
    fix: "leave --with-prompt and --prompt-file out",
  });
}

interface Settings extends Flags {
  readonly name: string;
  readonly apiKey: string | null;
  /** Text before every chat. */
  readonly prompt: string | null;
}

async function run({ model, adapters, signal, progress, tune }: Loaded, settings: Settings): Promise<void> {
  const { host, port, name, apiKey, cors, temperature, prompt: before } = settings;
  const { maxBody, maxRequestTokens, parallel, maxQueue, timeout, grace, log, json } = settings;
  const tokenizer = tokenizerOf(model);
  const style = servedStyle(tokenizer);
  if (before !== null && style !== null) promptNote(promptCost({ tokenizer, prompt: before, style }), "every chat");
  await tune({ rows: PROMPT_ROWS, directions: ["forward"], tokens: SOON_TOKENS });
  // The first pass compiles kernels, which on some adapters takes longer than a client would wait.
  progress.phase("compiling kernels");
  const prompt = Array<number>(Math.max(1, Math.min(WARM_TOKENS, model.spec.maxPosition - 2))).fill(0);
  // The texts end one after the other, so that every number of rows occurs.
  const warm = Array.from({ length: parallel }, (_, index) => ({ prompt, maxTokens: 2 + index, signal }));
  await generateMany(model, warm.filter(({ maxTokens }) => maxTokens + prompt.length <= model.spec.maxPosition), {
    sequences: parallel,
    adapters,
  });
  progress[Symbol.dispose](); // from here on the terminal belongs to the requests
  await using server = serveModel(model, {
    host,
    port,
    name,
    apiKey,
    cors: originOf(cors),
    temperature,
    prompt: before,
    adapters,
    signal,
    limits: {
      bodyBytes: maxBody,
      tokens: maxRequestTokens,
      parallel,
      queue: maxQueue,
      seconds: timeout,
      graceSeconds: grace,
    },
    ...(log ? { onRequest: (record) => note(requestLine(record)) } : {}),
  });
  const url = `${server.url}/v1`;
  print(json ? JSON.stringify({ url, model: name }) : `serving ${name} at ${url}`);
  if (!json) note(`chat in a browser: ${server.url}/`);
  if (!isLoopback(server.host) && apiKey === null) {
    note("compresso: everyone who reaches this machine can use the model; --api-key-file asks for a key");
  }
  if (cors === true && apiKey === null) {
    note(
      "compresso: every web page that is opened on this machine can use the model; --cors ORIGIN lets in one origin",
    );
  }
  await server.finished;
  signal.throwIfAborted();
}

function originOf(cors: string | true | undefined): string | null {
  return cors === true ? "*" : cors ?? null;
}

/** The key of the variable. Where it may not be read, a server that this machine alone reaches does without, and says so. */
function keyInEnvironment(host: string): string | null {
  const { state } = Deno.permissions.querySync({ name: "env", variable: KEY_VARIABLE });
  if (state === "granted" || !isLoopback(host)) return Deno.env.get(KEY_VARIABLE) ?? null;
  note(`compresso: there is no right to read the variable ${KEY_VARIABLE}: no key is asked for`);
  return null;
}

/** The key of the file, or of the environment; null for none. */
async function readKey(
  file: string | undefined,
  { host }: { readonly host: string },
): Promise<string | null> {
  const fromFile = file === undefined ? undefined : await readFile(file);
  const key = fromFile ?? keyInEnvironment(host);
  if (key === null) return null;
  const trimmed = key.trim();
  if (/^[\x21-\x7e]+$/.test(trimmed)) return trimmed;
  refuse("usage", `cannot use the API key of ${file ?? `the variable ${KEY_VARIABLE}`}`, {
    rule: "a key is printable ASCII without spaces, at least one character",
    value: `${trimmed.length} characters`,
    fix: "write one key, and nothing else",
  });
}

async function readFile(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    const value = error instanceof Error ? error.message : String(error);
    refuse("input", `cannot read ${path}`, {
      rule: "it is a file that may be read",
      value,
      fix: "check the path and the permissions to it",
      cause: error,
    });
  }
}

function requestLine({ method, path, status, seconds, promptTokens, completionTokens }: RequestRecord): string {
  return `${method} ${path} ${status} ${seconds.toFixed(3)} s, ${promptTokens} + ${completionTokens} tokens`;
}
