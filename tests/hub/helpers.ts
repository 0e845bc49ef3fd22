// What tests of the Hub share: variables for a fake hub with a cache of its own, and files of the demo.
import { join } from "node:path";
import { HUB_VARIABLES } from "../../lib/hub/settings.ts";
import { ROOT } from "../cli/helpers/cli.ts";
import { FakeHub } from "./fake_hub.ts";

/** A fake hub, an empty cache, and the variables that lead to both, until it is disposed. */
export class HubRig implements AsyncDisposable {
  readonly hub = new FakeHub();
  readonly home: string = Deno.makeTempDirSync({ prefix: "compresso_hub_" });
  readonly #before = new Map(HUB_VARIABLES.map((name) => [name, Deno.env.get(name)]));

  constructor() {
    for (const name of HUB_VARIABLES) if (name.startsWith("HF_")) Deno.env.delete(name);
    for (const [name, value] of Object.entries(this.variables)) Deno.env.set(name, value);
  }

  /** The variables, for other processes. */
  get variables(): Record<string, string> {
    return { HF_ENDPOINT: this.hub.url, HF_HOME: this.home };
  }

  /** Path within the cache. */
  at(...parts: readonly string[]): string {
    return join(this.home, "hub", ...parts);
  }

  /** What is there, by path, with the targets of links. */
  async tree(folder = this.at()): Promise<Record<string, string>> {
    const found: Record<string, string> = {};
    for await (const { name, isDirectory, isSymlink } of Deno.readDir(folder)) {
      const path = join(folder, name), short = path.slice(this.at().length + 1);
      if (isDirectory) Object.assign(found, await this.tree(path));
      else found[short] = isSymlink ? await Deno.readLink(path) : "";
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const [name, value] of this.#before) value === undefined ? Deno.env.delete(name) : Deno.env.set(name, value);
    await this.hub[Symbol.asyncDispose]();
    await Deno.remove(this.home, { recursive: true });
  }
}

/** Files of the demo model. */
export function demoFiles(): Record<string, Uint8Array<ArrayBuffer>> {
  const folder = join(ROOT, "fixtures", "demo");
  return Object.fromEntries(
    [...Deno.readDirSync(folder)].map(({ name }) => [name, Deno.readFileSync(join(folder, name))]),
  );
}

/** Bytes that repeat nowhere soon. */
export function noise(length: number, seed = 1): Uint8Array<ArrayBuffer> {
  let state = seed;
  return Uint8Array.from({ length }, () => (state = (1103515245 * state + 12345) % 2147483648) >>> 16);
}
