// Kernels of a device: texts that are written once for each variant, and pipelines that are compiled once for each text.
import assert from "node:assert/strict";
import type { KernelSource } from "../../kernels/source.ts";
import { compileKernel, sourceOf } from "../../lib/gpu/kernel.ts";
import { sharedDevice } from "../device.ts";

interface Variant {
  readonly add: number;
  readonly isTwice?: boolean;
}

/** A kernel that adds a number, and how often its text was written. */
function adding(): { readonly write: (variant: Variant, name?: string) => KernelSource; readonly written: string[] } {
  const written: string[] = [];
  const write = ({ add, isTwice = false }: Variant, name = "add"): KernelSource => {
    const code = `@group(0) @binding(0) var<storage, read_write> x: array<f32>;
@compute @workgroup_size(1) fn main() { x[0] += ${isTwice ? 2 * add : add}.0; }`;
    written.push(code);
    return { name, code, bindings: ["storage"] };
  };
  return { write, written };
}

Deno.test("a kernel's text is written once for each variant of each function, whoever asks", () => {
  const { write, written } = adding(), other = adding();
  const first = sourceOf(write, { add: 1 });
  assert.equal(sourceOf(write, { add: 1 }), first);
  assert.equal(written.length, 1);
  const others = [
    sourceOf(write, { add: 2 }),
    sourceOf(write, { add: 1, isTwice: true }),
    sourceOf(write, { add: 1 }, "b"),
  ];
  assert.deepEqual(others.map(({ name, code }) => [name, /\+= (\d)/.exec(code)?.[1]]), [["add", "2"], ["add", "2"], [
    "b",
    "1",
  ]]);
  assert.equal(written.length, 4);
  assert.notEqual(sourceOf(other.write, { add: 1 }), first);
  assert.equal(other.written.length, 1);
});

Deno.test("texts that are equal are one pipeline of a device, whichever object holds them", async () => {
  const device = await sharedDevice(), { write } = adding();
  const kernel = compileKernel(device, sourceOf(write, { add: 1 }));
  assert.equal(compileKernel(device, sourceOf(write, { add: 1 })), kernel);
  assert.equal(compileKernel(device, write({ add: 1 })), kernel);
  assert.notEqual(compileKernel(device, sourceOf(write, { add: 3 })), kernel);
});
