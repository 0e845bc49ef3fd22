// The Modelfile by which Ollama makes a model of a GGUF: template, stop texts and sampling.
// Format: https://docs.ollama.com/modelfile
import { CompressoError } from "../../core/errors.ts";
import type { DecoderSpec } from "../../spec/decoder.ts";
import { type ChatMessage, renderChat } from "../../text/chat_template.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { tokenText } from "../../text/tokenizer_json.ts";

/** What a Modelfile is made of. */
export interface ModelfileInput {
  /** Name of the GGUF in the same folder. */
  readonly file: string;
  readonly spec: DecoderSpec;
  readonly tokenizer: Tokenizer | null;
  /** Content of generation_config.json; its sampling becomes the defaults. */
  readonly generation: Readonly<Record<string, unknown>>;
}

/** Keys of generation_config.json and the parameters of a Modelfile. */
const PARAMETERS = [
  ["temperature", "temperature"],
  ["top_p", "top_p"],
  ["top_k", "top_k"],
  ["min_p", "min_p"],
  ["repetition_penalty", "repeat_penalty"],
] as const;

/** The text of a Modelfile. It has a TEMPLATE only if that gives the same texts as the chat template. */
export function modelfile({ file, spec, tokenizer, generation }: ModelfileInput): string {
  const lines = ["# ollama create NAME -f Modelfile", `FROM ./${file}`];
  if (tokenizer !== null && tokenizer.chatTemplate !== null) {
    const parts = turnParts(tokenizer, spec);
    lines.push(
      parts
        ? `TEMPLATE """${goTemplate(parts)}"""`
        : "# No TEMPLATE: this chat template has no equal form here. Ollama looks for one by the GGUF's own.",
    );
    for (const text of endTexts(tokenizer, spec)) lines.push(`PARAMETER stop ${JSON.stringify(text)}`);
  }
  for (const [key, parameter] of PARAMETERS) {
    const value = generation[key];
    if (typeof value === "number" && Number.isFinite(value)) lines.push(`PARAMETER ${parameter} ${value}`);
  }
  return `${lines.join("\n")}\n`;
}

/** The texts between the messages of a chat. */
interface TurnParts {
  /** Before and after a system message; null if the template refuses system messages. */
  readonly system: readonly [before: string, after: string] | null;
  /** At the start of a chat without a system message. */
  readonly noSystem: string;
  /** Before and after a user message; the second opens the answer. */
  readonly user: readonly [before: string, after: string];
  /** Before and after an answer that was given. */
  readonly answer: readonly [before: string, after: string];
}

/** Stands for a message. No template changes it or has it. */
const MARKS = { system: "⟦s⟧", user: "⟦u⟧", assistant: "⟦a⟧", last: "⟦v⟧" } as const;

function chat(...contents: readonly (readonly [ChatMessage["role"], string])[]): ChatMessage[] {
  return contents.map(([role, content]) => ({ role, content }));
}

/** Takes the parts from rendered chats; null if a chat made of them differs from the rendered one. */
function turnParts(tokenizer: Tokenizer, spec: DecoderSpec): TurnParts | null {
  const { system, user, assistant, last } = MARKS;
  const plain = chat(["user", user]), turns = chat(["user", user], ["assistant", assistant], ["user", last]);
  const withSystem = chat(["system", system], ["user", user]);
  const longest = chat(["system", system], ["user", user], ["assistant", assistant], ["user", last]);
  try {
    const addsBos = spec.bosId !== null && tokenizer.encode("x", { addSpecial: true })[0] === spec.bosId;
    const bos = addsBos ? tokenText(tokenizer.config["bos_token"]) ?? "" : "";
    const text = (messages: readonly ChatMessage[]): string => {
      const rendered = renderChat(tokenizer, messages, { addGenerationPrompt: true });
      // Ollama puts BOS before a text as the tokenizer does.
      return bos !== "" && rendered.startsWith(bos) ? rendered.slice(bos.length) : rendered;
    };
    const [head = "", opening = ""] = text(plain).split(user);
    const hasSystem = accepts(() => text(withSystem));
    const [beforeSystem = "", afterSystem = ""] = hasSystem
      ? text(withSystem).split(new RegExp(`${system}|${user}`))
      : ["", head];
    const [, given = "", between = ""] = text(turns).split(new RegExp(`${user}|${assistant}|${last}`));
    const before = untilEnd(commonEnd(commonEnd(head, between), afterSystem), endTexts(tokenizer, spec));
    const parts: TurnParts = {
      system: hasSystem ? [beforeSystem, cutEnd(afterSystem, before)] : null,
      noSystem: cutEnd(head, before),
      user: [before, opening],
      answer: [given.slice(opening.length), cutEnd(between, before)],
    };
    const chats = [plain, turns, ...hasSystem ? [withSystem, longest] : []];
    const isEqual = chats.every((messages) => text(messages) === joined(parts, messages));
    return isEqual && Object.values(parts).flat().every((part) => part === null || !/\{\{|"""/.test(part))
      ? parts
      : null;
  } catch (error) {
    // Templates may also refuse other chats, or be broken.
    if (error instanceof CompressoError && error.code === "input") return null;
    throw error;
  }
}

/** Whether a template renders a chat. */
function accepts(render: () => string): boolean {
  try {
    return render() !== "";
  } catch (error) {
    if (error instanceof CompressoError && error.code === "input") return false;
    throw error;
  }
}

/** A chat as Ollama's template joins it. */
function joined({ system, noSystem, user, answer }: TurnParts, messages: readonly ChatMessage[]): string {
  const text = messages.map(({ role, content }) =>
    role === "system" ? system?.join(content) ?? "" : role === "user" ? user.join(content) : answer.join(content)
  ).join("");
  return messages[0]?.role === "system" ? text : noSystem + text;
}

function goTemplate({ system, noSystem, user, answer }: TurnParts): string {
  const other = noSystem === "" ? "" : `{{ else }}${noSystem}`;
  const start = system ? `{{ if .System }}${system[0]}{{ .System }}${system[1]}${other}{{ end }}` : noSystem;
  return `${start}{{ range .Messages }}{{ if eq .Role "user" }}${user[0]}{{ .Content }}${user[1]}` +
    `{{ else if eq .Role "assistant" }}${answer[0]}{{ .Content }}${answer[1]}{{ end }}{{ end }}`;
}

/** Texts of the tokens that end an answer. */
function endTexts(tokenizer: Tokenizer, { eosIds }: DecoderSpec): string[] {
  return [...new Set(eosIds.map((id) => tokenizer.decode([id], { skipSpecial: false })))].filter((text) => text !== "");
}

function commonEnd(left: string, right: string): string {
  let length = 0;
  while (length < Math.min(left.length, right.length) && left.at(-1 - length) === right.at(-1 - length)) length++;
  return length === 0 ? "" : left.slice(-length);
}

/** The rest of a turn's opening after the end of the previous turn, which belongs to that turn. */
function untilEnd(text: string, ends: readonly string[]): string {
  const place = Math.max(0, ...ends.map((end) => text.lastIndexOf(end) < 0 ? 0 : text.lastIndexOf(end) + end.length));
  return place === 0 ? text : text.slice(place).replace(/^\n/, "");
}

function cutEnd(text: string, end: string): string {
  return text.endsWith(end) ? text.slice(0, text.length - end.length) : text;
}
