// Times matrix products in TensorFlow.js on WebGPU: `deno run -A --no-lock scripts/bench/peers/tfjs.ts < cases.json`.
// Only this file downloads the packages.
import {
  type Case,
  checkProduct,
  measure,
  type ProductCase,
  productCount,
  productOperands,
  servePeer,
  type Times,
} from "./protocol.ts";

const VERSION = "4.22.0";

/** The part of TensorFlow.js used here. */
interface Tensor {
  data(): Promise<Float32Array>;
  dispose(): void;
}
interface TensorFlow {
  setBackend(name: string): Promise<boolean>;
  ready(): Promise<void>;
  getBackend(): string;
  tensor2d(values: Float32Array, shape: readonly [number, number]): Tensor;
  matMul(a: Tensor, b: Tensor, transposeA: boolean, transposeB: boolean): Tensor;
  slice(x: Tensor, begin: readonly number[], size: readonly number[]): Tensor;
}

await servePeer({ name: "tfjs", version: VERSION }, async () => {
  // Variables, so that checking types needs no package.
  const core = `npm:@tensorflow/tfjs-core@${VERSION}`, webgpu = `npm:@tensorflow/tfjs-backend-webgpu@${VERSION}`;
  const tf: TensorFlow = await import(core);
  await import(webgpu);
  if (!await tf.setBackend("webgpu")) throw new Error("TensorFlow.js could not start its WebGPU backend");
  await tf.ready();
  return (work, repeats) => run(tf, { work, repeats });
});

async function run(tf: TensorFlow, { work, repeats }: { work: Case; repeats: number }): Promise<Times> {
  if (work.kind !== "product") throw new Error(`TensorFlow.js has no case of kind ${work.kind}`);
  return await product(tf, { work, repeats });
}

async function product(
  tf: TensorFlow,
  { work, repeats }: { work: ProductCase; repeats: number },
): Promise<Times> {
  const { a, w } = productOperands(work);
  const { tokens, out, in: inputs } = work;
  const forward = work.direction === "forward";
  const left = tf.tensor2d(a, [tokens, forward ? inputs : out]), right = tf.tensor2d(w, [out, inputs]);
  const y = tf.matMul(left, right, false, forward);
  checkProduct(work, { a, w, y: await y.data() });
  y.dispose();
  const count = productCount(work);
  const times = await measure(async () => {
    const results = Array.from({ length: count }, () => tf.matMul(left, right, false, forward));
    // Reading one element of the last waits for all, in the order of their submits.
    const last = results.at(-1);
    if (!last) return;
    const corner = tf.slice(last, [0, 0], [1, 1]);
    await corner.data();
    for (const tensor of [corner, ...results]) tensor.dispose();
  }, { repeats, count });
  left.dispose();
  right.dispose();
  return times;
}
