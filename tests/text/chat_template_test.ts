import assert from "node:assert/strict";
// @ts-types="npm:@types/d3-time-format@^4.0.3"
import { timeFormat } from "npm:d3-time-format@^4.1.0";
import { renderChat } from "../../lib/text/chat_template.ts";
import { encodeExample, formatExample } from "../../lib/data/prompts/encode.ts";
import { encodeChat, encodeChatPrompt } from "../../lib/data/prompts/chat.ts";
import { strftime } from "../../lib/compat/strftime.ts";
import { refuses } from "../refuses.ts";
import { golden, tokenizerOf, withConfig } from "./fixtures.ts";

for (const name of ["byte_level", "sentencepiece"] as const) {
  Deno.test(`renderChat() of the ${name} tokenizer gives the text that transformers gives`, async () => {
    const tokenizer = await tokenizerOf(name);
    const { chats } = await golden(name);
    assert.equal(chats.length, 3);
    for (const { messages, addGenerationPrompt, text } of chats) {
      assert.equal(renderChat(tokenizer, messages, { addGenerationPrompt }), text);
    }
  });
}

Deno.test("renderChat() says that there is no template, that it does not parse, or why it refuses", async () => {
  const tokenizer = await tokenizerOf("sentencepiece");
  const turn = { role: "user", content: "x" } as const;
  const options = { addGenerationPrompt: true };
  const bare = withConfig(tokenizer, {}, null);
  refuses(() => renderChat(bare, [turn], options), "input", {
    value: ["tokenizer_config.json", "chat_template.jinja"],
  });
  const broken = withConfig(tokenizer, {}, "{% for %}");
  refuses(() => renderChat(broken, [turn], options), "input", { value: "CloseStatement" });
  refuses(() => renderChat(tokenizer, [{ role: "system", content: "s" }, turn], options), "input", {
    value: "user/assistant",
  });
});

Deno.test("a chat template sees tools and documents as none, not as undefined", async () => {
  const template = "{% for name in [tools, documents] %}" +
    "{{ 'none' if name is none else 'some' }} {{ 'defined' if name is defined else 'not' }};{% endfor %}" +
    "{% if not tools is none %}tools{% endif %}";
  const tokenizer = withConfig(await tokenizerOf("sentencepiece"), {}, template);
  const text = renderChat(tokenizer, [{ role: "user", content: "x" }], { addGenerationPrompt: true });
  assert.equal(text, "none defined;none defined;");
});

Deno.test("a chat template with line ends of Windows or of old Macs writes what it writes with \\n", async () => {
  const lines = ["{%- for m in messages %}", "<|start|>{{ m.role + '", "' + m.content }}<|end|>", "{% endfor -%}", "."];
  const [expected, ...others] = await Promise.all(["\n", "\r\n", "\r"].map(async (end) => {
    const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, lines.join(end));
    return renderChat(tokenizer, [{ role: "user", content: "a\r\nb" }], { addGenerationPrompt: false });
  }));
  assert.equal(expected, "<|start|>user\na\r\nb<|end|>\n.");
  assert.deepEqual(others, [expected, expected]);
});

// What jinja2 3.1.6 gives.
Deno.test("strip(), lstrip(), rstrip() and the filter trim of a chat template take the characters of their argument, else white space, as in Python", async () => {
  const bytes = await tokenizerOf("byte_level"), content = "\n  a🙂\n";
  const rendered = (expression: string): string => {
    const tokenizer = withConfig(bytes, {}, `{% for m in messages %}[{{ ${expression} }}]{% endfor %}`);
    return renderChat(tokenizer, [{ role: "user", content }], { addGenerationPrompt: false });
  };
  const cases = [
    [String.raw`m.content.lstrip('\n')`, "  a🙂\n"],
    [String.raw`m['content'].rstrip('\n🙂')`, "\n  a"],
    [String.raw`m.content.strip('\n ')`, "a🙂"],
    [String.raw`m.content['strip']('\n')`, "  a🙂"],
    ["m.content.strip('')", "\n  a🙂\n"],
    [String.raw`m.content.strip('a🙂\n ')`, ""],
    ["m.content.strip(none)", "a🙂"],
    ["m.content.rstrip()", "\n  a🙂"],
    [String.raw`(m.content ~ '\n').strip('\n').lstrip(' ').split('🙂')[0]`, "a"],
    [String.raw`{'k': m.content.strip('\n')}['k'] if m.content.strip('\n') != '' else ''`, "  a🙂"],
    [String.raw`'x' ~ m.content.lstrip('\n') | upper`, "x  A🙂\n"],
    // A byte order mark is no white space in Python, and a next line is.
    ["'\uFEFF a \u0085' | trim", "\uFEFF a"],
    ["'\uFEFF a\u0085'.strip()", "\uFEFF a"],
    ["' a\u001c'.rstrip()", " a"],
    ["'\u0085 a'.lstrip()", "a"],
    ["' xax ' | trim('x ')", "a"],
    ["' a ' | trim | upper", "A"],
    ["' a' ~ ' b ' | trim", " ab"],
  ] as const;
  for (const [expression, text] of cases) assert.equal(rendered(expression), `[${text}]`, expression);
  for (const argument of ["1", "'a', 'b'", "chars='a'"]) {
    refuses(() => rendered(`m.content.strip(${argument})`), "input", { value: "strip()" });
  }
  refuses(() => rendered("m.other.strip('a')"), "input", { value: "strip()" });
});

/** Runs work at another time. */
function at<T>(time: Date, work: () => T): T {
  const Real = globalThis.Date;
  const construct = (_: typeof Date, given: readonly unknown[]): Date =>
    Reflect.construct(Real, given.length === 0 ? [time.getTime()] : given);
  Reflect.set(globalThis, "Date", new Proxy(Real, { construct }));
  try {
    return work();
  } finally {
    globalThis.Date = Real;
  }
}

Deno.test("a template that prints the date makes equal rows equal tokens on any day, and tells a chat the day that it is", async () => {
  const template = "{{ strftime_now('%A, %-d %B %Y, %d %b %y %j') if strftime_now is defined }}" +
    "{% for m in messages %}|{{ m.role }}: {{ m.content }}{% endfor %}{% if add_generation_prompt %}|assistant: {% endif %}";
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, template);
  const row = { kind: "instruct", instruction: "x", input: "", output: "y", choices: null, extra: {} } as const;
  const turns = [{ role: "user", content: "x" }, { role: "assistant", content: "y" }] as const;
  const options = { tokenizer, prompt: null }, day = new Date(2026, 11, 3, 23, 59);
  const seen = (): unknown => [encodeExample(row, { ...options, seq: 200 }).tokens, encodeChat(turns, options).ids];
  assert.deepEqual(at(day, seen), seen());
  assert.equal(
    at(day, () => renderChat(tokenizer, [turns[0]], { addGenerationPrompt: true })),
    "Friday, 26 July 2024, 26 Jul 24 208|user: x|assistant: ",
  );
  const now = "Thursday, 3 December 2026, 03 Dec 26 337|user: x|assistant: ";
  const today = { ...options, today: true };
  assert.equal(at(day, () => tokenizer.decode(encodeChatPrompt([turns[0]], today))), now);
  assert.equal(at(day, () => formatExample(row, today).prefix), now);
});

Deno.test("strftime() writes what Python's does", () => {
  const format = "%Y %y %m %B %b %d %e %A %a %j %H %I %M %S %p %% %-d %-m %-H %Q";
  assert.equal(
    strftime(new Date(2024, 2, 5, 0, 7, 9), format),
    "2024 24 03 March Mar 05  5 Tuesday Tue 065 00 12 07 09 AM % 5 3 0 %Q",
  );
  assert.equal(strftime(new Date(2023, 11, 31, 13, 0), "%j %I %p"), "365 01 PM");
  assert.equal(
    strftime(new Date(2024, 2, 5, 0, 7, 9, 45), "%F %T|%R %D|%c|%x %X|%w %u|%f|%z%Z|%h|%-e|%%F"),
    "2024-03-05 00:07:09|00:07 03/05/24|Tue Mar  5 00:07:09 2024|03/05/24 00:07:09|2 2|045000||Mar|5|%F",
  );
});

Deno.test("strftime() counts days and weeks as d3-time-format does", () => {
  const format = "%A %a %B %b %d %e %j %U %u %V %W %w %G %Y %y %I %p %f %-j %-V", theirs = timeFormat(format);
  for (let day = 0; day < 4000; day++) {
    const date = new Date(2019, 0, 1 + day, day % 24, 0, 0, day % 1000);
    assert.equal(strftime(date, format), theirs(date), String(date));
  }
});

Deno.test("a chat template of a stranger has a budget: ranges of 100,000 items, and no list or text that grows without end", async () => {
  const bytes = await tokenizerOf("byte_level"), turn = { role: "user", content: "x" } as const;
  const render = (template: string): string =>
    renderChat(withConfig(bytes, {}, template), [turn], { addGenerationPrompt: false });
  assert.equal(
    render("{% for i in range(2, 11, 3) %}{{ i }} {% endfor %}{{ range(3, 0, -1) | join(',') }}"),
    "2 5 8 3,2,1",
  );
  const cases = [
    ["{% for i in range(1000000000) %}a{% endfor %}", { value: 1000000000 }],
    ["{{ range(3000000) | join('a') }}", { value: [100000, 3000000] }],
    [
      "{% set ns = namespace(l=range(100000)) %}{% for i in range(40) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      { value: [1048576, 1600000] },
    ],
    [
      "{% set ns = namespace(t='aaaaaaaa') %}{% for i in range(40) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}",
      { value: [67108864, 134217728] },
    ],
    ["{% for i in range(0, 1, 0) %}a{% endfor %}", { value: "range()" }],
  ] as const;
  for (const [template, problem] of cases) refuses(() => render(template), "input", problem);
});

Deno.test("a chat template that never ends is stopped after ten seconds", async () => {
  const loops = "{% for i in range(100000) %}{% for j in range(100000) %}{{ i * j }}{% endfor %}{% endfor %}";
  const tokenizer = withConfig(await tokenizerOf("byte_level"), {}, loops);
  // On a clock that is fifty times as fast.
  const { now } = performance, start = now.call(performance);
  performance.now = () => start + 50 * (now.call(performance) - start);
  try {
    refuses(() => renderChat(tokenizer, [{ role: "user", content: "x" }], { addGenerationPrompt: false }), "input", {
      value: 10,
    });
    const taken = performance.now() - start;
    assert(taken > 10_000 && taken < 500_000, `${taken} ms`);
  } finally {
    performance.now = now;
  }
});
