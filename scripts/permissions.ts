// Writes the sets of rights of deno.json, one a verb: Deno's sets cannot share lists.
// deno run -A scripts/permissions.ts
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The file that has the sets. */
export const CONFIG = join(dirname(fileURLToPath(import.meta.url)), "../deno.json");

/** Variables that say how a terminal is written to. */
const TERMINAL = ["NO_COLOR", "FORCE_COLOR", "TERM"];
/** What every verb reads: files, and the variables that say where the user's cache lies. */
const READS = { read: true, env: [...TERMINAL, "HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"] };
const WRITES = { ...READS, write: true };
/** Scripts of schedules run in a process without rights. */
const SCRIPTS = { run: ["/bin/sh", "deno"] };
const HUB = {
  read: true,
  env: [
    ...TERMINAL,
    ...["HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"],
    ...["XDG_CACHE_HOME", "HOME", "USERPROFILE"],
  ],
  net: ["huggingface.co", "*.huggingface.co", "*.hf.co"],
};

/** Rights by verb, and those of names on the Hub. */
export const PERMISSIONS = {
  doctor: READS,
  inspect: READS,
  plan: READS,
  prune: { ...WRITES, ...SCRIPTS, net: ["127.0.0.1"] },
  tune: { ...WRITES, net: ["127.0.0.1"] },
  fit: WRITES,
  sweep: WRITES,
  schedule: { ...READS, ...SCRIPTS },
  data: READS,
  eval: READS,
  generate: READS,
  chat: READS,
  serve: { ...READS, env: [...READS.env, "COMPRESSO_API_KEY"], net: ["127.0.0.1", "localhost"] },
  studio: { ...READS, run: ["deno"], net: ["127.0.0.1"] },
  bench: READS,
  export: WRITES,
  report: WRITES,
  push: { ...HUB, net: [...HUB.net, "hf-hub-lfs-us-east-1.s3-accelerate.amazonaws.com"] },
  hub: HUB,
  completion: {},
  experiment: { ...WRITES, ...SCRIPTS },
} as const;

if (import.meta.main) {
  const sets = Object.entries(PERMISSIONS).map(([verb, rights]) => `    "${verb}": ${JSON.stringify(rights)}`).join(
    ",\n",
  );
  const text = await Deno.readTextFile(CONFIG);
  await Deno.writeTextFile(CONFIG, text.replace(/("permissions": \{\n).*?(\n {2}\},)/s, `$1${sets}$2`));
  await new Deno.Command(Deno.execPath(), { args: ["fmt", "--quiet", CONFIG] }).output();
}
