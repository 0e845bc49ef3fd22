// Installs the npm package node-llama-cpp, at a fixed version, in a folder of its own for checks and benchmarks. It is
// no dependency of the toolkit.
// deno-lint-ignore-file explicit-function-return-type -- JavaScript has no place to write one
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";

export const VERSION = "3.22.1";
const BINARIES = {
  "linux-x64": "linux-x64",
  "linux-arm64": "linux-arm64",
  "darwin-x64": "mac-x64",
  "darwin-arm64": "mac-arm64-metal",
  "win32-x64": "win-x64",
};

/** Path of the package's entry, after installing it where it is absent. */
export function install(folder) {
  const entry = join(folder, "node_modules", "node-llama-cpp", "dist", "index.js");
  if (existsSync(entry)) return entry;
  const binary = BINARIES[`${process.platform}-${process.arch}`];
  if (!binary) throw new Error(`node-llama-cpp has no prebuilt CPU binary for ${process.platform}-${process.arch}`);
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "package.json"), "{}\n");
  const packages = [`node-llama-cpp@${VERSION}`, `@node-llama-cpp/${binary}@${VERSION}`];
  const flags = ["--no-save", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--loglevel=error"];
  const npm = process.platform === "win32" ? "npm.cmd" : "npm";
  const { status, stderr } = spawnSync(npm, ["install", ...flags, ...packages], { cwd: folder, encoding: "utf8" });
  if (status !== 0) throw new Error(`npm could not install ${packages.join(" and ")}: ${stderr}`);
  return entry;
}
