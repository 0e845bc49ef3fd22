// Schedule scripts in files, a secret, and a server that must not be reached. All are removed after the test.
import { join } from "node:path";
import type { ScheduleInput } from "../../../lib/schedule/definition.ts";

/** What the tests' schedules see. */
export const INPUT: ScheduleInput = {
  stage: "prune",
  progress: 0.25,
  step: 4,
  steps: 20,
  sparsity: 0.3,
  records: [],
  layers: [{ heads: 0.1, ffn: 0.2, sparsity: 0.15 }, { heads: 0.3, ffn: 0.4, sparsity: 0.35 }],
};

/** A folder with a secret, and a server on loopback that counts who asks. */
export class Lair implements AsyncDisposable {
  /** What no script may see. */
  readonly secret = `secret-${crypto.randomUUID()}`;
  /** Requests that reached the server. */
  hits = 0;
  readonly #folder = Deno.makeTempDirSync({ prefix: "compresso_schedule_" });
  readonly #server = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen: () => {} }, () => {
    this.hits++;
    return new Response(`export default ${JSON.stringify(this.secret)};`, {
      headers: { "content-type": "application/javascript" },
    });
  });

  constructor() {
    Deno.writeTextFileSync(this.secretPath, `export default ${JSON.stringify(this.secret)};`);
  }

  /** Path of the file with the secret. */
  get secretPath(): string {
    return this.at("secret.js");
  }

  /** URL of the server. */
  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/`;
  }

  /** Path of something in the folder. */
  at(name: string): string {
    return join(this.#folder, name);
  }

  /** Writes a script and gives its path. */
  async write(text: string, name = "script.ts"): Promise<string> {
    await Deno.writeTextFile(this.at(name), text);
    return this.at(name);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
    await Deno.remove(this.#folder, { recursive: true });
  }
}

/** A schedule of sparsity 0.1 with code before it and in its function. */
export function scriptOf({ top = "", body = "" }: { readonly top?: string; readonly body?: string }): string {
  return `import { defineSchedule } from "compresso";
${top}
export default defineSchedule({ sparsity: () => { ${body} return 0.1; } });`;
}
