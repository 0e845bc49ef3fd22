#!/usr/bin/env node
// Runs Compresso's command line with the Deno that npm installed beside it, and with the rights of the verb.
//
// Deno takes no TypeScript from below a folder node_modules, so the package is run by a link to it from the user's cache folder. The npm packages
// of the toolkit are in this one (bundledDependencies): nothing is fetched when it runs.
// deno-lint-ignore-file explicit-function-return-type -- it is plain JavaScript, for Node.js
"use strict";
const { spawn } = require("node:child_process");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const { isAbsolute, join } = require("node:path");

const PACKAGE = fs.realpathSync(join(__dirname, ".."));
const CONFIG = JSON.parse(fs.readFileSync(join(PACKAGE, "deno.json"), "utf8"));

/** The program of the npm package `deno`; without its install script, which npm may leave out, it is in the package of the platform. */
function denoPath() {
  try {
    return require("deno/install_api.cjs").runInstall();
  } catch (error) {
    console.error(`compresso: there is no Deno for this system in npm's packages\n  got:      ${error.message}`);
    process.exit(1);
  }
}

/** The user's cache folder, as the platform has it. */
function cacheFolder() {
  if (process.platform === "win32") return process.env.LOCALAPPDATA ?? join(os.homedir(), "AppData", "Local");
  if (process.platform === "darwin") return join(os.homedir(), "Library", "Caches");
  const own = process.env.XDG_CACHE_HOME ?? "";
  return isAbsolute(own) ? own : join(os.homedir(), ".cache");
}

/** A link to the package from outside node_modules; one of this run alone where the cache folder cannot be written. */
function linkedPackage() {
  const name = `${CONFIG.version}-${createHash("sha256").update(PACKAGE).digest("hex").slice(0, 12)}`;
  try {
    return link(join(cacheFolder(), "compresso", "npm"), name);
  } catch {
    const folder = fs.mkdtempSync(join(os.tmpdir(), "compresso-"));
    process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));
    return link(join(folder, "compresso", "npm"), name);
  }
}

function link(folder, name) {
  const path = join(folder, name);
  if (fs.existsSync(join(path, "deno.json")) && fs.realpathSync(path) === PACKAGE) return path;
  fs.mkdirSync(folder, { recursive: true });
  // Made beside it and renamed, as another process may do the same now.
  const own = `${path}.${process.pid}`;
  fs.symlinkSync(PACKAGE, own, "junction");
  fs.rmSync(path, { force: true });
  fs.renameSync(own, path);
  return path;
}

/** Flags of the rights that a name on the Hub adds to those of a verb: to reach it, to read its variables, and to write to its cache. */
function hubRights(set, writes) {
  const { env, net } = CONFIG.permissions.hub, own = process.env;
  const hosts = [...net, ...URL.canParse(own.HF_ENDPOINT ?? "") ? [new URL(own.HF_ENDPOINT).host] : []];
  const home = own.HF_HOME ?? join(own.XDG_CACHE_HOME ?? join(os.homedir(), ".cache"), "huggingface");
  return [
    `--allow-env=${[...new Set([...set.env ?? [], ...env])].join(",")}`,
    `--allow-net=${[...set.net ?? [], ...hosts].join(",")}`,
    ...writes && set.write !== true ? [`--allow-write=${own.HF_HUB_CACHE ?? join(home, "hub")}`] : [],
  ];
}

/**
 * Flags of the rights: the set of the verb in deno.json, and what the arguments name. Files to write are named by options, addresses
 * to read by URLs; schedule scripts run in a process of Deno. COMPRESSO_DENO_FLAGS has more, such as -A.
 */
function rightsOf(args, deno) {
  const verb = args.find((word) => !word.startsWith("-")) ?? "", set = CONFIG.permissions[verb];
  const flags = set === undefined ? [] : [`-P=${verb}`];
  if (set?.run !== undefined) flags.push(`--allow-run=${deno}`);
  const writes = args.some((word) => /^--(?:out|svg|tuning)(?:=|$)/.test(word));
  if (writes) flags.push("--allow-write");
  if (set !== undefined && args.some((word) => /^(?:--[\w-]+=)?hf:/.test(word))) {
    flags.push(...hubRights(set, !writes && !["inspect", "plan", "push"].includes(verb)));
  }
  if (verb === "serve" && args.some((word) => /^--host(?:=|$)/.test(word))) flags.push("--allow-net");
  for (const word of args) {
    const host = /^(?:--[\w-]+=)?https?:\/\/([^/?#]+)/.exec(word)?.[1];
    if (host !== undefined) flags.push(`--allow-net=${host}`, `--allow-import=${host}`);
  }
  return [...flags, ...(process.env.COMPRESSO_DENO_FLAGS ?? "").split(" ").filter((flag) => flag !== "")];
}

const args = process.argv.slice(2), deno = denoPath(), root = linkedPackage();
const own = ["--quiet", "--no-lock", "--no-remote", "--node-modules-dir=manual", "--config", join(root, "deno.json")];
const rights = rightsOf(args, deno);
// Addresses that are named may be imported; everything else is in the package.
const flags = rights.some((flag) => flag.startsWith("--allow-import"))
  ? own.filter((flag) => flag !== "--no-remote")
  : own;
const child = spawn(deno, ["run", ...flags, ...rights, join(root, "cli", "main.ts"), ...args], {
  stdio: "inherit",
  env: { ...process.env, DENO_NO_UPDATE_CHECK: "1" },
});
child.on("error", (error) => {
  console.error(`compresso: cannot start Deno\n  got:      ${error.message}`);
  process.exit(1);
});
// A terminal gives Ctrl-C to the child too, which decides what it means.
process.on("SIGINT", () => {});
for (const signal of ["SIGTERM", "SIGHUP"]) process.on(signal, () => child.kill(signal));
child.on("exit", (code, signal) => {
  if (signal === null) process.exit(code ?? 1);
  process.removeAllListeners(signal);
  process.kill(process.pid, signal);
});
