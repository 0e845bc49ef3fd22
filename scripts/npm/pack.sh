#!/usr/bin/env bash
# Builds the npm package of the command line and the library, compresso-VERSION.tgz, into the folder that is named, or into the present one.
# Needs Deno and npm. Whoever installs it needs Node.js alone: npm install --global ./compresso-VERSION.tgz
set -euo pipefail
out=$(cd "${1:-.}" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT

cp -R cli kernels lib studio mod.ts deno.json LICENSE scripts/npm/bin scripts/npm/README.md "$stage/"
mkdir "$stage/fixtures"
cp -R fixtures/demo fixtures/demo_data "$stage/fixtures/"
deno run --quiet --allow-read scripts/npm/package_json.ts >"$stage/package.json"
deno run --quiet --allow-read --allow-write --allow-run scripts/npm/library.ts "$stage"

# The toolkit's packages go into the tarball; Deno, of which each system needs its own, does not.
cd "$stage"
cp package.json whole.json
deno eval 'const { deno: _, ...dependencies } = JSON.parse(Deno.readTextFileSync("whole.json")).dependencies;
  Deno.writeTextFileSync("package.json", JSON.stringify({ dependencies }));'
npm install --silent --ignore-scripts --no-fund --no-audit --no-package-lock >&2
mv whole.json package.json
npm pack --silent --pack-destination "$out"
