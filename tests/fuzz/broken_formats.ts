// Formats whose readers are broken on purpose, which show that the fuzzer sees it.
import type { Format } from "./format.ts";
import { single, utf8 } from "./format.ts";
import { text } from "./mutate.ts";

function brokenFormat(name: string, fail: () => Promise<void>): Format {
  const file = utf8("undamaged");
  return {
    name: `${name} for the test`,
    cases: () => single("a", (whole, draw) => new Uint8Array([...text(whole, draw), 1]), file),
    async read(files): Promise<void> {
      const read = files.get("a");
      if (read?.length !== file.length || !read.every((byte, at) => byte === file[at])) await fail();
    },
  };
}

/** Formats of broken readers. */
export const BROKEN_FORMATS: readonly Format[] = [
  brokenFormat("hang", () => {
    for (;;);
  }),
  brokenFormat("bomb", async () => {
    const kept: Uint8Array[] = [];
    for (;;) {
      kept.push(new Uint8Array(2 ** 24).fill(1));
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }),
  brokenFormat("throw", () => Promise.resolve(void (null as unknown as { x: number }).x)),
  brokenFormat("rejection", async () => {
    Promise.reject(new Error("nobody waits"));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }),
];
