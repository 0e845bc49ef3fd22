// The checkout as a program elsewhere meets it: served over HTTP, with a cache of Deno's own that holds the npm packages alone.
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const ROOT = fileURLToPath(new URL("../../", import.meta.url));

/** Deno's cache of npm packages; null where the packages of lib/ are not in it. */
export async function npmCache(): Promise<string | null> {
  const { stdout } = await new Deno.Command(Deno.execPath(), { args: ["info", "--json"], cwd: ROOT }).output();
  const { npmCache } = JSON.parse(new TextDecoder().decode(stdout)) as { readonly npmCache: string };
  for (const registry of await Array.fromAsync(Deno.readDir(npmCache)).catch(() => [])) {
    const has = await Deno.stat(join(npmCache, registry.name, "zod")).then(() => true, () => false);
    if (has) return npmCache;
  }
  return null;
}

/** Serves the checkout's files, and `script`, given the address, as /script.ts. */
export function serveCheckout(script: (origin: string) => string = () => ""): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, async (request) => {
    const { pathname, origin } = new URL(request.url);
    const type = pathname.endsWith(".ts") ? "application/typescript" : "text/plain";
    if (pathname === "/script.ts") return new Response(script(origin), { headers: { "content-type": type } });
    const bytes = await Deno.readFile(join(ROOT, ...pathname.split("/").slice(1))).catch(() => null);
    return bytes
      ? new Response(bytes, { headers: { "content-type": type } })
      : new Response("nothing", { status: 404 });
  });
}

/** A new folder outside the checkout, with a cache of its own that takes npm packages from `cache`, and the lock file. */
export class Elsewhere {
  private constructor(readonly folder: string) {}

  static async make(cache: string): Promise<Elsewhere> {
    const folder = await Deno.makeTempDir({ prefix: "compresso_elsewhere_" });
    // Nothing is taken from an earlier run but the packages; their versions are those of our lock file.
    await Deno.symlink(cache, join(folder, "npm"));
    await Deno.copyFile(join(ROOT, "deno.lock"), join(folder, "deno.lock"));
    return new Elsewhere(folder);
  }

  /** What a command prints and its status. */
  async run(
    program: string,
    args: readonly string[],
    env: Readonly<Record<string, string>> = {},
  ): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
    const { code, stdout, stderr } = await new Deno.Command(program, {
      args: [...args],
      cwd: this.folder,
      env: { DENO_DIR: this.folder, NO_COLOR: "1", ...env },
      signal: AbortSignal.timeout(120_000),
    }).output();
    return { code, stdout: new TextDecoder().decode(stdout), stderr: new TextDecoder().decode(stderr) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.folder, { recursive: true });
  }
}
