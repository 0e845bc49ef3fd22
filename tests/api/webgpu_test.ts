// Another WebGPU than Deno's: Dawn, by the npm package webgpu where it is in Deno's cache.
import assert from "node:assert/strict";
import { fileURLToPath } from "node:url";
import { describeAdapter, openDevice } from "../../lib/model/mod.ts";
import { adapterIdentity } from "../../lib/gpu/tuning.ts";

const DAWN = "npm:webgpu@0.6.2";
const ROOT = fileURLToPath(new URL("../../", import.meta.url));

async function deno(...args: readonly string[]): Promise<{ readonly code: number; readonly said: string }> {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args: [...args], cwd: ROOT }).output();
  return { code, said: [stdout, stderr].map((bytes) => new TextDecoder().decode(bytes)).join("") };
}

const isCached = (await deno("eval", "--no-lock", "--cached-only", `await import("${DAWN}")`)).code === 0;
if (!isCached) console.log(`Dawn is left out: deno cache ${DAWN} downloads its 51 MB`);

Deno.test({
  name: "Dawn gives the logits of Deno's WebGPU with weights in f16 and q4",
  ignore: !isCached,
  fn: async () => {
    for (const dtype of ["f16", "q4"]) {
      const flags = ["--webgpu", DAWN, "--base-dtype", dtype];
      const { code, said } = await deno(
        ...["run", "-A", "--no-lock", "--cached-only", "scripts/check/webgpu.ts", "fixtures/demo", ...flags],
      );
      assert.equal(code, 0, said);
      assert.equal(said.match(/^PASS /gm)?.length, 3, said);
    }
  },
});

Deno.test({
  name: "the command line runs on the WebGPU that --webgpu names",
  ignore: !isCached,
  fn: async () => {
    const { code, said } = await deno(
      ...["run", "-P=doctor", "--allow-ffi", "--no-lock", "--cached-only"],
      ...["cli/main.ts", "doctor", "--webgpu", DAWN],
    );
    assert.equal(code, 0, said);
    assert.match(said, /q4 weights +right/);
  },
});

Deno.test({
  name: "Dawn's compiler takes all fixed kernels, the product on matrix units and the kernels that unpack files",
  ignore: !isCached,
  fn: async () => {
    // Dawn's backend without a GPU offers all features, so it compiles what no adapter here runs.
    const text = `import { create, globals } from "${DAWN}";
import * as all from "./kernels/mod.ts";
import { isBlocked, productMatrix, unpacksTo, unpackToCodes, unpackToHalf } from "./kernels/mod.ts";
import { TENSOR_FORMATS } from "./lib/formats/gguf/types.ts";
Object.assign(globalThis, globals);
const gpu = create(["backend=null", "enable-dawn-features=allow_unsafe_apis"]);
const adapter = await gpu.requestAdapter();
const requiredFeatures = ["shader-f16", "subgroups", "chromium-experimental-subgroup-matrix"];
const device = await adapter.requestDevice({ requiredFeatures });
device.addEventListener("uncapturederror", (event) => event.preventDefault());
const types = Object.keys(TENSOR_FORMATS).filter(isBlocked);
const kernels = [
  ...Object.values(all).filter((one) => typeof one === "object" && "code" in one),
  ...[[16, 16, 16], [8, 16, 16], [8, 8, 8]].map(([m, n, k]) => productMatrix({ lanes: 32, m, n, k })),
  ...[...types, "bf16", "f32"].map((type) => unpackToHalf(type)),
  ...["q8", "q4"].flatMap((dtype) =>
    types.filter((type) => unpacksTo(type, dtype)).map((type) => unpackToCodes(type, dtype))),
  { name: "broken", code: "fn main() { let x = 1u >> 1u & 1u; }" },
];
for (const { name, code } of kernels) {
  const { messages } = await device.createShaderModule({ code }).getCompilationInfo();
  const errors = messages.filter(({ type }) => type === "error").map(({ message }) => message);
  console.log(errors.length > 0 ? "FAIL" : "PASS", name, ...errors);
}
Deno.exit(0);`;
    const { code, said } = await deno("eval", "--no-lock", "--cached-only", text);
    assert.equal(code, 0, said);
    assert.ok((said.match(/^PASS /gm)?.length ?? 0) > 20, said);
    assert.deepEqual(said.match(/^FAIL \S+/gm), ["FAIL broken"], said);
  },
});

Deno.test("a module without WebGPU is refused with what it lacks", async () => {
  for (const [module, reason] of [["lib/core/guards.ts", /exports neither/], ["npm:", /got: /], ["no.ts", /no\.ts/]]) {
    const { code, said } = await deno("run", "-A", "cli/main.ts", "doctor", "--webgpu", String(module));
    assert.equal(code, 4, said);
    assert.match(said, new RegExp(reason ?? ""));
  }
});

Deno.test("a device opens on the entry point that it is given, keeps it, and has kernel speeds of its own", async () => {
  const asked: string[] = [];
  const gpu = {
    wgslLanguageFeatures: new Set(["packed_4x8_integer_dot_product"]),
    requestAdapter: (options?: GPURequestAdapterOptions): Promise<GPUAdapter | null> => {
      asked.push(options?.powerPreference ?? "none");
      return navigator.gpu.requestAdapter(options);
    },
  } as unknown as GPU;
  const { facts } = await describeAdapter({ gpu });
  using device = await openDevice({ gpu, powerPreference: "low-power" });
  using own = await openDevice();
  assert.deepEqual([asked, device.facts, device.entry, own.entry], [
    ["high-performance", "low-power"],
    facts,
    gpu,
    null,
  ]);
  assert.notEqual(adapterIdentity(device), adapterIdentity(own));
});
