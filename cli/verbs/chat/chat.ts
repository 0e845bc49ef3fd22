// `compresso chat MODEL`: questions on stdin, answers on stdout.
import type { CommandUnknownOpts } from "../../packages.ts";
import { CompressoError } from "../../../lib/core/errors.ts";
import { type Chat, type ChatAnswer, createChat } from "../../../lib/generate/chat.ts";
import type { Adapters, Model } from "../../../lib/model/model.ts";
import { listen, speak, spokenValues, type Voice } from "./answers.ts";
import { MODEL_TEXT, verb } from "../../command.ts";
import { watchInterrupt } from "../../terminal/interrupt.ts";
import { type Lines, stdinLines } from "../../terminal/lines.ts";
import { reportError } from "../../terminal/error.ts";
import { note, print, writeError } from "../../terminal/output.ts";
import { textColumns } from "../../terminal/style.ts";
import { hanging } from "../../terminal/wrap.ts";
import { promptCost } from "../../../lib/data/prompts/encode.ts";
import { promptNote, promptText } from "../../options/prompt.ts";
import { ADAPTER_FLAG, addFlags, type FlagTable, type FlagValues, MODEL_FLAGS } from "../../options/flags.ts";
import { COMPARE_FLAG, SAMPLING_FLAGS, samplingOf } from "../../options/sampling.ts";
import { type Loaded, withModel } from "../../with_model.ts";

const FLAGS = {
  system: { type: "value", placeholder: "text", help: "system text before the first question" },
  withPrompt: {
    type: "switch",
    help: "put the collaborative prompt before the first question (default: no prompt)",
  },
  promptFile: {
    type: "value",
    placeholder: "file",
    help: "a file with your own prompt, in place of the collaborative one",
  },
  style: {
    type: "word",
    words: ["chat", "alpaca", "plain"],
    placeholder: "style",
    defaultText: "the model's own; required for a model without a chat template",
    help: "format of the turns: chat (the model's template), alpaca or plain",
  },
  maxTokens: { type: "count", least: 1, initially: 512, help: "most tokens of an answer" },
  ...SAMPLING_FLAGS,
  compare: COMPARE_FLAG,
  adapter: ADAPTER_FLAG,
  ...MODEL_FLAGS,
  json: { type: "switch", help: "print one line of JSON for each question" },
} as const satisfies FlagTable;

type Flags = FlagValues<typeof FLAGS>;

/** Declares the verb. */
export function chatVerb(): CommandUnknownOpts {
  const command = verb("chat", {
    description: "Chat with a model: one question a line, from a terminal or a pipe.",
    examples: [
      'chat path/to/model --temperature 0.8 --top-p 0.9 --system "Answer in one sentence."',
      "chat path/to/model --compare path/to/pruned",
      "chat path/to/model --json < questions.txt",
    ],
  }).argument("<model>", MODEL_TEXT);
  return addFlags(command, FLAGS).action(async (path: string, options: Flags) => {
    const { withPrompt = false, promptFile = withPrompt, system } = options;
    samplingOf(options);
    const before = await promptText(promptFile);
    const opening = [before, system].filter((text) => text !== null && text !== undefined).join("\n\n");
    // Until the first question Ctrl-C ends the process; then each answer handles it.
    await withModel(
      path,
      { ...options, listensLater: true },
      (loaded) => run(path, loaded, { ...options, before, system: opening === "" ? null : opening }),
    );
  });
}

interface Settings extends Omit<Flags, "system"> {
  /** The collaborative prompt. */
  readonly before: string | null;
  /** The system text: the collaborative prompt and the user's text. */
  readonly system: string | null;
}

/** One side of the conversation. */
interface Side {
  readonly name: string;
  readonly model: Model;
  readonly adapters: Adapters;
}

/** What is typed in place of a question, in columns; then what else is good to know. */
const COMMANDS = [
  "/help            this text",
  "/reset           start a new conversation",
  "/system [text]   start a new conversation with this system text, or with none",
  "/exit            end the program, as Ctrl-D and Ctrl-C do on an empty line",
];
const KEYS = [
  "A line that ends with \\ continues on the next line. A line that starts with // is a question that starts with /.",
  "Ctrl-C stops an answer; a second Ctrl-C ends the program.",
];
const INDENT = 17;

/** The help in lines of the terminal. */
function help(): string {
  const columns = textColumns();
  return [
    ...COMMANDS.map((line) => hanging(line, { columns, indent: INDENT })),
    ...KEYS.map((line) => hanging(line, { columns, indent: 0 })),
  ].join("\n");
}

async function run(
  path: string,
  { model, other, adapters, progress, tune }: Loaded,
  settings: Settings,
): Promise<void> {
  const { maxTokens, compare = "", json = false } = settings;
  const sides: readonly Side[] = [
    { name: path, model, adapters },
    ...(other ? [{ name: compare, model: other, adapters: {} }] : []),
  ];
  using table = createTable(sides, settings);
  const { before, style } = settings, { tokenizer } = model;
  if (tokenizer && before !== null) {
    promptNote(promptCost({ tokenizer, prompt: before, style }), "the first question");
  }
  await tune({ rows: 64, directions: ["forward"], tokens: maxTokens });
  progress[Symbol.dispose]();
  const lines = stdinLines();
  if (lines.isTerminal) note("/help lists the commands");
  for (;;) {
    const line = await question(lines);
    if (line === null) return;
    if (line.trim() === "") continue;
    if (/^\/(?!\/)/.test(line)) {
      if (command(line.trim(), { table, settings }) === "exit") return;
      continue;
    }
    const end = await answer(line.replace(/^\/\//, "/"), { table, json, isTerminal: lines.isTerminal });
    if (end === "stopped") lines.drop();
  }
}

/** The conversations with all sides. */
interface Table extends Disposable {
  readonly seats: readonly { readonly name: string; readonly chat: Chat }[];
  /** Starts all of them again, with another system text. */
  restart(system: string | null): void;
}

function createTable(sides: readonly Side[], settings: Settings): Table {
  const { style, maxTokens, system } = settings, sampling = samplingOf(settings), readsAhead = sides.length === 1;
  let seats: readonly { readonly name: string; readonly chat: Chat }[] = [];
  const leave = (): void => seats.forEach(({ chat }) => chat[Symbol.dispose]());
  const restart = (system: string | null): void => {
    leave();
    seats = sides.map(({ name, model, adapters }) => ({
      name,
      chat: createChat(model, { ...sampling, maxTokens, system, adapters, readsAhead, style }),
    }));
  };
  restart(system);
  return {
    get seats(): Table["seats"] {
      return seats;
    },
    restart,
    [Symbol.dispose]: leave,
  };
}

/** The next question, perhaps of several lines. */
async function question(lines: Lines): Promise<string | null> {
  const parts: string[] = [];
  for (;;) {
    const line = await lines.next(parts.length === 0 ? "> " : "… ");
    // On a terminal the user has given the question up; a pipe may end without a last line break.
    if (line === null) return parts.length === 0 ? null : lines.isTerminal ? "" : parts.join("\n");
    if (!line.endsWith("\\")) return [...parts, line].join("\n");
    parts.push(line.slice(0, -1));
  }
}

function command(
  line: string,
  { table, settings: { before } }: { readonly table: Table; readonly settings: Settings },
): "exit" | "continue" {
  const [, word = "", rest = ""] = /^\/(\S*)\s*(.*)$/s.exec(line) ?? [];
  switch (word) {
    case "exit":
    case "quit":
      return "exit";
    case "help":
      writeError(`${help()}\n`);
      break;
    case "reset":
      for (const { chat } of table.seats) chat.reset();
      note("new conversation");
      break;
    case "system":
      table.restart([before ?? "", rest].filter((text) => text !== "").join("\n\n") || null);
      note(
        `new conversation, with ${rest === "" ? "no" : "this"} system text${
          before === null ? "" : " after the prompt"
        }`,
      );
      break;
    default:
      note(`compresso: unknown command /${word}; /help lists the commands`);
  }
  return "continue";
}

/** Answers on stdout, and says whether the answer was stopped. */
async function answer(
  text: string,
  { table, json, isTerminal }: { readonly table: Table; readonly json: boolean; readonly isTerminal: boolean },
): Promise<"answered" | "stopped"> {
  using interrupt = watchInterrupt("stopping the answer; press Ctrl-C again to end the program", { ctrlCOnly: true });
  interrupt.start();
  const { signal } = interrupt;
  const before = table.seats.map(({ chat: { messages } }) => messages);
  const voices = table.seats.map(({ name, chat }): Voice<ChatAnswer> => ({ name, pieces: chat.ask(text, { signal }) }));
  try {
    const answers = json ? await listen(voices) : await speak(voices, { signal });
    if (json) print(JSON.stringify(jsonOf(text, { answers, voices })));
    answers.forEach((each, index) => remark(each, voices.length > 1 ? voices[index]?.name : undefined));
    return "answered";
  } catch (error) {
    if (signal.aborted) {
      // A reader of the lines expects one for each question.
      const stopped = { answer: null, finish: "stopped" },
        models = voices.map(({ name }) => ({ model: name, ...stopped }));
      print(json ? JSON.stringify({ question: text, ...(models.length > 1 ? { models } : models[0]) }) : undefined);
      noteUneven(table, before);
      return "stopped";
    }
    // On a terminal the question can be rephrased; a pipe cannot.
    if (!isTerminal || !(error instanceof CompressoError) || error.code !== "input") throw error;
    reportError(error);
    noteUneven(table, before);
    return "answered";
  }
}

/** Says which models did not get the question when an answer was stopped: their messages are as before. */
function noteUneven({ seats }: Table, before: readonly Chat["messages"][]): void {
  const without = seats.filter(({ chat: { messages } }, index) => messages === before[index]).map(({ name }) => name);
  if (without.length === 0 || without.length === seats.length) return;
  note(
    `compresso: ${without.join(", ")} did not get this question; /reset starts a new conversation with all models`,
  );
}

function jsonOf(
  question: string,
  { answers, voices }: { readonly answers: readonly ChatAnswer[]; readonly voices: readonly Voice<ChatAnswer>[] },
): Readonly<Record<string, unknown>> {
  const values = answers.map((answer, index) => {
    const { text, promptTokens, reusedTokens, dropped } = answer;
    return { model: voices[index]?.name, answer: text, promptTokens, reusedTokens, dropped, ...spokenValues(answer) };
  });
  return values.length > 1 ? { question, models: values } : { question, ...values[0] };
}

/** Notes on what the answer alone does not show. */
function remark({ dropped, reason }: ChatAnswer, name: string | undefined): void {
  const who = name === undefined ? "" : ` of ${name}`;
  if (dropped > 0) note(`compresso: the context${who} is full; the oldest ${dropped} messages were dropped`);
  if (reason === "context") note(`compresso: the context${who} is full; the answer ends here`);
  if (reason === "length") note(`compresso: the answer${who} was cut off at --max-tokens`);
}
