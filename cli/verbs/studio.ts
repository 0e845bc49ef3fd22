// `compresso studio`: builds the page that prunes in a browser, and serves it on this machine or writes it into a folder.
import type { CommandUnknownOpts } from "../packages.ts";
import { checkListen } from "../../lib/serve/serve.ts";
import { answerFrom, buildStudio, writePage } from "../../studio/build.ts";
import { verb } from "../command.ts";
import { addFlags, type FlagTable, type FlagValues } from "../options/flags.ts";
import { watchInterrupt } from "../terminal/interrupt.ts";
import { print } from "../terminal/output.ts";

const HOST = "127.0.0.1";

const FLAGS = {
  port: { type: "count", most: 65535, placeholder: "number", initially: 8001, help: "port; 0: any free one" },
  out: {
    type: "text",
    placeholder: "folder",
    defaultText: "none",
    help: "write the page's files into this folder, for any static host, instead of serving them",
  },
  json: { type: "switch", help: "print one line of JSON with the url, or the folder and its files" },
} as const satisfies FlagTable;

/** Declares the verb. */
export function studioVerb(): CommandUnknownOpts {
  const command = verb("studio", {
    description: "Serve a page that prunes models in a browser, on its GPU; nothing leaves the browser.",
    examples: ["studio", "studio --out public/studio"],
    notes: "The page needs a browser with WebGPU. Only this machine reaches the server.",
  });
  return addFlags(command, FLAGS).action(async ({ port, out, json }: FlagValues<typeof FLAGS>) => {
    if (out === undefined) checkListen({ host: HOST, port });
    const files = await buildStudio();
    if (out !== undefined) {
      await writePage(files, out);
      return print(json ? JSON.stringify({ folder: out, files: [...files.keys()] }) : `wrote the studio to ${out}`);
    }
    using interrupt = watchInterrupt("stopping");
    const { signal } = interrupt;
    interrupt.start();
    await Deno.serve({
      hostname: HOST,
      port,
      signal,
      onListen({ port }): void {
        const url = `http://${HOST}:${port}/`;
        print(json ? JSON.stringify({ url }) : `the studio is at ${url}`);
      },
    }, (request) => answerFrom(files, request)).finished;
    signal.throwIfAborted();
  });
}
