// Model cards, and the origin and licence that files keep of the model that they were made from.
import assert from "node:assert/strict";
import { exportModel } from "../../lib/local/export_model.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { cardMetadata, cardProvenance } from "../../lib/formats/hf/card.ts";
import { ggufProvenance, provenanceEntries, sizeLabel } from "../../lib/formats/gguf/provenance.ts";
import { sliceModel } from "../../lib/slice/slice.ts";
import { modelCard } from "../../lib/slice/model_card.ts";
import { fileBytes } from "../../lib/units/file_size.ts";
import { openWeights } from "../disk.ts";

const CARD = `---
license: other
license_name: "Own licence"
license_link: https://example.org/license
language: [en, 'no']
base_model:
- someone/large
tags:
  - text
---
# A model
license: mit
`;

Deno.test("cardProvenance() reads the metadata at the top of a card, and cardMetadata() writes it", () => {
  const found = cardProvenance(CARD);
  assert.deepEqual(found, {
    license: "other",
    licenseName: "Own licence",
    licenseLink: "https://example.org/license",
    languages: ["en", "no"],
    baseModels: ["someone/large"],
  });
  assert.deepEqual(cardProvenance(cardMetadata(found)), found);
  assert.match(cardMetadata(found), /^- "no"$/m, "a language, not YAML's false");
  assert.deepEqual(cardProvenance("# No metadata\nlicense: mit\n"), {});
  assert.deepEqual(cardProvenance("---\r\nlicense: mit\r\n---\r\n"), { license: "mit" });
});

Deno.test("the metadata of a GGUF keep origin and licence, with the size of the new model", () => {
  const base = {
    name: "Small 135M",
    organization: "Someone",
    basename: "small",
    sizeLabel: "135M",
    license: "apache-2.0",
    languages: ["en"],
  };
  const entries = new Map(provenanceEntries(base, 113_280_192));
  assert.deepEqual(Object.fromEntries(entries), {
    "general.organization": "Someone",
    "general.basename": "small",
    "general.license": "apache-2.0",
    "general.size_label": "113M",
    "general.languages": ["en"],
    "general.base_model.count": { type: "u32", value: 1 },
    "general.base_model.0.name": "Small 135M",
    "general.base_model.0.organization": "Someone",
  });
  assert.deepEqual([0.98e6, 1.1e9, 6.74e9, 13.02e9].map(sizeLabel), ["980K", "1.1B", "6.7B", "13B"]);
  assert.deepEqual(provenanceEntries({}, 7), []);
});

Deno.test("an exported folder and GGUF keep the licence of the folder that they were made from, and a GGUF that of a GGUF", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const { source, tokenizer } = await openModelFiles("demo"), own = cardProvenance(CARD);
    const named = sliceModel({ ...source, provenance: { ...own, licenseText: "Do as you like.\n" } }, {});
    const { gguf, hf } = await exportModel(named, `${folder}/a`, { tokenizer, name: "small" });
    const readme = await Deno.readTextFile(`${hf}/README.md`);
    assert.match(readme, /^license_name: "Own licence"$/m);
    assert.match(readme, /AutoModelForCausalLM.from_pretrained\(folder\)$/m);
    assert.equal(await Deno.readTextFile(`${hf}/LICENSE`), "Do as you like.\n");
    const again = await openWeights(hf ?? "");
    assert.deepEqual(again.provenance, { ...own, licenseText: "Do as you like.\n" });
    const file = await openWeights(gguf ?? "");
    assert.deepEqual(file.provenance, { ...own, name: "small" });
    assert.ok(file.format === "gguf");
    assert.equal(file.metadata.get("general.base_model.0.repo_url"), "https://huggingface.co/someone/large");
    assert.deepEqual(ggufProvenance(file.metadata), file.provenance);
    // The size that a run aims at is counted with these entries.
    const content = { tokenizer, name: "small", provenance: own };
    const bytes = fileBytes(source.spec, { format: "gguf", dtype: "f16" }, content);
    assert.equal((await Deno.stat(gguf ?? "")).size, bytes);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("modelCard() names base model, facts, command and licence, and says which folders need their own code", async () => {
  const { source: { spec } } = await openModelFiles("demo");
  const uneven = { ...spec, layers: spec.layers.map((layer, index) => ({ ...layer, ffn: layer.ffn - index })) };
  const command = "compresso prune someone/large --data 'my rows.json'";
  const run = {
    base: "someone/large",
    facts: [["data", "my|rows.json"]] as const,
    removed: "parts of the layers",
    command,
  };
  const card = modelCard({ spec: uneven, name: "pruned", provenance: { license: "mit" }, run });
  assert.deepEqual(cardProvenance(card), { license: "mit", baseModels: ["someone/large"] });
  assert.match(card, /^# someone\/large, pruned$/m);
  assert.match(card, /^\| data \| my\\\|rows\.json \|$/m);
  assert.match(card, /^\| license \| mit, as the base model \|$/m);
  assert.ok(card.includes(command));
  assert.match(card, /AutoTokenizer\.from_pretrained\(folder, trust_remote_code=True\)/);
  const plain = modelCard({ spec, name: "demo" });
  assert.match(plain, /^# demo$/m);
  assert.ok(!plain.includes("trust_remote_code"));
  assert.match(plain, /^\| license \| that of the base model, whose files do not name it \|$/m);
});
