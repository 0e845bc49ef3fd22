// Files of a browser without a GPU: models and rows of blobs, damaged ones too.
import assert from "node:assert/strict";
import { openModelFiles, readRows } from "../../lib/browser/mod.ts";
import { modelPath, openModelFiles as openFromDisk } from "../../lib/local/open_model.ts";
import { rejects } from "../refuses.ts";

async function demoBlobs(): Promise<Record<string, Blob>> {
  const folder = await modelPath("demo");
  const names = (await Array.fromAsync(Deno.readDir(folder), ({ name }) => name)).filter((name) =>
    name !== "README.md"
  );
  return Object.fromEntries(
    await Promise.all(names.map(async (name) => [name, new Blob([await Deno.readFile(`${folder}/${name}`)])] as const)),
  );
}

Deno.test("a folder's blobs have the weights and the tokenizer of the folder on the disk", async () => {
  const [own, known] = await Promise.all([openModelFiles(await demoBlobs()), openFromDisk("demo")]);
  assert.deepEqual(own.source.spec, known.source.spec);
  const name = "model.embed_tokens.weight";
  assert.deepEqual(await own.source.read(name), await known.source.read(name));
  assert.deepEqual(own.tokenizer?.encode("Tom went to Rome."), known.tokenizer?.encode("Tom went to Rome."));
});

/** A blob that counts the bytes that are read of it, and the largest piece. */
class CountedBlob extends Blob {
  readonly read = { bytes: 0, most: 0 };

  override slice(start?: number, end?: number, type?: string): Blob {
    const part = super.slice(start, end, type);
    this.read.bytes += part.size;
    this.read.most = Math.max(this.read.most, part.size);
    return part;
  }

  override arrayBuffer(): Promise<ArrayBuffer> {
    throw new Error("the whole file is read");
  }
}

Deno.test("of a blob no more is read than is asked for: its header to open it, then a tensor", async () => {
  const bytes = await Deno.readFile(`${await modelPath("demo")}/model.safetensors`), blob = new CountedBlob([bytes]);
  const { source } = await openModelFiles({ ...await demoBlobs(), "model.safetensors": blob });
  assert.ok(blob.read.bytes < 0.02 * bytes.length, `${blob.read.bytes} bytes to open ${bytes.length}`);
  await source.read("model.norm.weight");
  assert.ok(blob.read.bytes < 0.02 * bytes.length && blob.read.most < 0.02 * bytes.length);
});

/** Serves bytes, by ranges where they are asked for, and gives the requests. */
function serveBytes(
  answer: (range: readonly [start: number, end: number] | null) => Response,
): AsyncDisposable & { readonly url: URL; readonly asked: string[] } {
  const asked: string[] = [];
  const server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, ({ headers }) => {
    const range = headers.get("range"), [, start = "", last = ""] = /^bytes=(\d+)-(\d+)$/.exec(range ?? "") ?? [];
    asked.push(range ?? "all");
    return answer(range === null ? null : [+start, +last + 1]);
  });
  return {
    url: new URL(`http://127.0.0.1:${server.addr.port}/model.safetensors`),
    asked,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

Deno.test("weights at an address are read by ranges, whole where the server gives none, and refused where they change", async () => {
  const blobs = await demoBlobs(), weights = blobs["model.safetensors"], name = "model.embed_tokens.weight";
  assert.ok(weights);
  const expected = await (await openModelFiles(blobs)).source.read(name), { size } = weights;
  let total = size;
  const partOf = (start: number, end: number): Response =>
    new Response(weights.slice(start, end), {
      status: 206,
      headers: { "content-range": `bytes ${start}-${Math.min(end, size) - 1}/${total}` },
    });
  await using ranges = serveBytes((range) => range ? partOf(...range) : new Response(weights));
  await using whole = serveBytes(() => new Response(weights));
  await using hidden = serveBytes((range) => new Response(range ? "part" : weights, { status: range ? 206 : 200 }));
  await using missing = serveBytes(() => new Response("none", { status: 404 }));
  const open = async ({ url }: { readonly url: URL }): Promise<Awaited<ReturnType<typeof openModelFiles>>["source"]> =>
    (await openModelFiles({ ...blobs, "model.safetensors": url })).source;
  const source = await open(ranges);
  assert.deepEqual([await source.read(name), ranges.asked[0]], [expected, "bytes=0-1048575"]);
  for (const other of [whole, hidden]) assert.deepEqual(await (await open(other)).read(name), expected);
  assert.deepEqual([whole.asked.length, hidden.asked.at(-1)], [1, "all"]);
  await rejects(open(missing), "input", { value: 404 });
  assert.deepEqual(await source.read(name), expected);
  assert.ok(ranges.asked.every((range) => range !== "all"));
  total += 1;
  await rejects(Promise.all([name, "model.layers.4.mlp.down_proj.weight"].map((one) => source.read(one))), "input", {
    value: "other bytes",
  });
});

Deno.test("a blob that is no model, and weights that end early, are refused", async () => {
  await rejects(openModelFiles(new Blob(["no model"])), "input", {});
  const files = await demoBlobs(), weights = files["model.safetensors"];
  assert.ok(weights);
  const cut = { ...files, "model.safetensors": weights.slice(0, 4000) };
  await rejects(openModelFiles(cut).then(({ source }) => source.read("model.embed_tokens.weight")), "input", {});
});

Deno.test("rows of a blob are read, and a broken row is refused by its line", async () => {
  const { kind, rows } = await readRows("rows.jsonl", new Blob(['{"text": "one"}\n{"text": "two"}\n']));
  assert.deepEqual([kind, rows.length], ["text", 2]);
  await rejects(readRows("rows.jsonl", new Blob(['{"text": "one"}\n{"text": \n'])), "input", { names: ["line 2"] });
});
