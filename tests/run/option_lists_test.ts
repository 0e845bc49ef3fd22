// Options that are lists, or parts of one another, as programs without types give them: refused by rule, not by JavaScript.
import { pruneToFolder } from "../../mod.ts";
import { selectUnits, sliceLora, unitTable } from "../../lib/masks/mod.ts";
import { loadModelFrom } from "../../lib/model/mod.ts";
import { openDryDevice } from "../../lib/gpu/dry.ts";
import { openSpec } from "../../lib/local/open_model.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { refuses, rejectsWith } from "../formats/files.ts";
import { randomSource, SPEC } from "../formats/models.ts";
import { BASE } from "./helpers/demo_run.ts";

const spec = await openSpec("demo");

Deno.test("a list that is given in another form is refused, and parts of two sizes are not mixed", async () => {
  const cases: readonly (readonly [Record<string, unknown>, RegExp])[] = [
    [{ rows: "alpaca.json" }, /'rows'; expected: it is a list; got: the text "alpaca.json"/],
    [{ rows: { rows: [], report: {} } }, /'rows'; expected: it is a list; got: an object/],
    [{ calibration: "own" }, /'calibration'; expected: it is a list/],
    [{ rules: { protect: 0 } }, /'rules\.protect'; expected: it is a list; got: 0/],
    [{ rules: { protect: null } }, /'rules\.protect'.*got: null/],
    [{ lora: { targets: "q,v" } }, /'lora\.targets'; expected: it is a list/],
    [
      { sparsity: undefined, size: { parameters: 8e5, bytes: 1e6 } },
      /cannot use bytes of the size; expected: it is of a size in bytes/,
    ],
    [
      { sparsity: undefined, size: { bytes: 2e6, file: { format: "hf", dtype: "f16" }, name: "x" } },
      /cannot use name of the size; expected: it is of the GGUF/,
    ],
  ];
  for (const [options, message] of cases) {
    refuses(() => resolveOptions({ ...BASE, ...options }, spec), "usage", message);
  }
  const table = unitTable(spec, ["ffn"]), scores = new Float32Array(table.count);
  refuses(() => Reflect.apply(unitTable, null, [spec, "kv,ffn"]), "usage", /units are a list of some of .*got: kv,ffn/);
  refuses(
    () => Reflect.apply(selectUnits, null, [table, scores, { size: 5e5 }]),
    "usage",
    /'size'.*an object with some of measure/,
  );
  refuses(() => Reflect.apply(sliceLora, null, [spec, { masks: {} }]), "usage", /cannot slice LoRA/);
  using device = openDryDevice({ isCpu: true });
  using model = await loadModelFrom(randomSource(SPEC), { device });
  const work = Reflect.apply(pruneToFolder, null, [model, { ...BASE, out: "nowhere", calibration: "texts.jsonl" }]);
  await rejectsWith(work, "usage", /cannot calibrate on this; .*got: texts\.jsonl/);
});
