// Times products and the training step in jax-js on WebGPU: `deno run -A --no-lock scripts/bench/peers/jax_js.ts < cases.json`.
// The step is in jax_llama.ts. Only this file downloads the package.
import type { JaxArray, JaxModule } from "./jax_api.ts";
import { checkStep, timeStep } from "./jax_llama.ts";
import {
  checkProduct,
  measure,
  type ProductCase,
  productCount,
  productOperands,
  servePeer,
  type StepCase,
  type Times,
} from "./protocol.ts";

const VERSION = "0.1.25";

await servePeer({ name: "jax-js", version: VERSION }, async () => {
  // A variable, so that checking types needs no package.
  const specifier = `npm:@jax-js/jax@${VERSION}`;
  const jax: JaxModule = await import(specifier);
  const devices = await jax.init("webgpu");
  if (!devices.includes("webgpu")) throw new Error("jax-js found no WebGPU adapter");
  jax.defaultDevice("webgpu");
  let checked = false;
  return async (work, repeats) => {
    if (work.kind === "product") return await product(jax, { work, repeats });
    if (work.kind !== "step") throw new Error(`jax-js has no case of kind ${work.kind}`);
    if (!checked) await checkStep(jax);
    checked = true;
    return await step(jax, { work, repeats });
  };
});

async function product(
  jax: JaxModule,
  { work, repeats }: { readonly work: ProductCase; readonly repeats: number },
): Promise<Times> {
  const { tokens, out, in: inputs, direction } = work;
  const { a, w } = productOperands(work);
  const left = jax.numpy.array(a, { shape: [tokens, direction === "forward" ? inputs : out] });
  const weight = jax.numpy.array(w, { shape: [out, inputs] });
  const multiply = (): JaxArray =>
    jax.lax.dot(left.ref, weight.ref, {
      lhsContractingDims: [1],
      rhsContractingDims: [direction === "forward" ? 1 : 0],
    });
  checkProduct(work, { a, w, y: await multiply().data() });
  const count = productCount(work);
  const times = await measure(async () => {
    const results = Array.from({ length: count }, multiply);
    await jax.blockUntilReady(results);
    for (const result of results) result.dispose();
  }, { repeats, count });
  left.dispose();
  weight.dispose();
  return times;
}

/** The step as asked for; where that fails, a line through 1 and 3 layers, and the note says so with the seconds of both. */
async function step(
  jax: JaxModule,
  { work, repeats }: { readonly work: StepCase; readonly repeats: number },
): Promise<Times> {
  const { layers } = work.config;
  try {
    return await timeStep(jax, { work, repeats });
  } catch (error) {
    if (layers <= 3) throw error;
    const of = (count: number): Promise<Times> =>
      timeStep(jax, { work: { ...work, config: { ...work.config, layers: count } }, repeats });
    const one = await of(1), three = await of(3);
    const line = (low: readonly number[], high: readonly number[]): number[] =>
      low.slice(0, high.length).map((t, i) => t + (layers - 1) * ((high[i] ?? NaN) - t) / 2);
    const reason = error instanceof Error ? error.message : String(error);
    const measured = `1 layer ${one.seconds[0]?.toFixed(2)} s, 3 layers ${three.seconds[0]?.toFixed(2)} s`;
    return {
      seconds: line(one.seconds, three.seconds),
      cpuSeconds: line(one.cpuSeconds, three.cpuSeconds),
      note: `extrapolated in the number of layers from ${measured}, because ${layers} layers failed: ${reason}`,
    };
  }
}
