// The Modelfile next to a GGUF: its template gives the texts of the chat template, or is left out.
import assert from "node:assert/strict";
import { modelfile } from "../../lib/formats/gguf/modelfile.ts";
import type { DecoderSpec } from "../../lib/spec/decoder.ts";
import type { Tokenizer } from "../../lib/text/tokenizer.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { tokenizerOf, withConfig } from "../text/fixtures.ts";

const CHATML = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + " +
  "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";
const WITH_DEFAULT = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}" +
  CHATML;
const WITHOUT_SYSTEM = "{% for message in messages %}{% if message['role'] == 'system' %}" +
  "{{ raise_exception('no system') }}{% elif message['role'] == 'user' %}[INST] {{ message['content'] }} [/INST]" +
  "{% else %} {{ message['content'] }}</s>{% endif %}{% endfor %}";
const NUMBERED = "{% for message in messages %}{{ loop.index }}: {{ message['content'] }}\n{% endfor %}";

async function textOf(template: string | null, generation: Record<string, unknown> = {}): Promise<string> {
  const bytes = await tokenizerOf("byte_level"), { source } = await openModelFiles("demo");
  // A token in two texts of the templates ends answers.
  const [end = 0] = bytes.encode("z"), spec: DecoderSpec = { ...source.spec, bosId: null, eosIds: [end] };
  const tokenizer: Tokenizer = withConfig(bytes, {}, template);
  return modelfile({
    file: "model.gguf",
    spec,
    tokenizer: { ...tokenizer, decode: (ids) => ids[0] === end ? "<|im_end|>" : "" },
    generation,
  });
}

Deno.test("a Modelfile has the turns of a chat template, its end and its system message", async () => {
  assert.equal(
    await textOf(CHATML),
    `# ollama create NAME -f Modelfile
FROM ./model.gguf
TEMPLATE """{{ if .System }}<|im_start|>system
{{ .System }}<|im_end|>
{{ end }}{{ range .Messages }}{{ if eq .Role "user" }}<|im_start|>user
{{ .Content }}<|im_end|>
<|im_start|>assistant
{{ else if eq .Role "assistant" }}{{ .Content }}<|im_end|>
{{ end }}{{ end }}"""
PARAMETER stop "<|im_end|>"
`,
  );
});

Deno.test("a chat without a system message gets the one that its template adds", async () => {
  const text = await textOf(WITH_DEFAULT);
  assert.ok(
    text.includes("{{ .System }}<|im_end|>\n{{ else }}<|im_start|>system\nBe kind.<|im_end|>\n{{ end }}{{ range"),
    text,
  );
  assert.ok(text.includes('"user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n<|im_start|>assistant\n{{'), text);
});

Deno.test("the TEMPLATE of a chat template that refuses system messages has none", async () => {
  const text = await textOf(WITHOUT_SYSTEM);
  assert.ok(!text.includes(".System"), text);
  assert.ok(text.includes('"assistant" }} {{ .Content }}</s>{{ end }}'), text);
  assert.ok(
    text.includes('TEMPLATE """{{ range .Messages }}{{ if eq .Role "user" }}[INST] {{ .Content }} [/INST]'),
    text,
  );
});

Deno.test("a chat template that no joined turns equal, and a model without one, give no TEMPLATE", async () => {
  for (const template of [NUMBERED, "{% for %}", null]) {
    assert.ok(!(await textOf(template)).includes('TEMPLATE "'), String(template));
  }
});

Deno.test("sampling of generation_config.json becomes parameters under Ollama's names", async () => {
  const text = await textOf(null, { temperature: 0.6, top_k: 20, repetition_penalty: 1.1, do_sample: true });
  assert.equal(
    text,
    "# ollama create NAME -f Modelfile\nFROM ./model.gguf\n" +
      "PARAMETER temperature 0.6\nPARAMETER top_k 20\nPARAMETER repeat_penalty 1.1\n",
  );
});
