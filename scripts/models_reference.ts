// Writes the table of docs/guide/models.md, from the records of families and what scripts/check/families.ts has loaded.
// deno run -A scripts/models_reference.ts
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { FAMILIES, familyFor, fixedHeads, GGUF_ARCHS } from "../lib/families/all.ts";
import type { Family } from "../lib/families/family.ts";
import { fits } from "../lib/families/fit.ts";
import { parseHfConfig } from "../lib/formats/hf/config.ts";
import type { DecoderSpec } from "../lib/spec/decoder.ts";
import { recordOf, type UnitKind } from "../lib/units/kinds/all.ts";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), ".."), GOLDEN = join(ROOT, "fixtures/golden");

/** The page with the table. */
export const MODELS_PAGE = join(ROOT, "docs/guide/models.md");

/** What stands before and after the table. */
const BEGIN = "<!-- written by scripts/models_reference.ts -->\n", END = "\n<!-- end of the table -->";

/** What {@link file://./check/families.ts} writes. */
interface Reloads {
  readonly models: Readonly<
    Record<string, { readonly folder?: Reload; readonly compact?: Reload; readonly gguf: readonly Reload[] }>
  >;
}

interface Reload {
  readonly as: string;
  readonly difference: number;
}

/** A random model of a family, and what was loaded of it. */
interface Golden {
  readonly name: string;
  readonly type: string;
  readonly spec: DecoderSpec;
}

const UNITS = ["heads", "kv", "ffn", "hidden", "layers"] as const satisfies readonly UnitKind[];

async function json(path: string): Promise<unknown> {
  return JSON.parse(await Deno.readTextFile(path));
}

async function goldens(): Promise<Golden[]> {
  const { models } = await json(`${GOLDEN}/golden.json`) as { readonly models: object };
  return await Promise.all(
    Object.keys(models).map(async (name) => {
      const config = await json(`${GOLDEN}/${name}/model/config.json`), path = `${name}/config.json`;
      return {
        name,
        type: String((config as { model_type: unknown }).model_type),
        spec: parseHfConfig(config, { path }),
      };
    }),
  );
}

const list = (values: Iterable<string>, none = "–"): string => [...new Set(values)].join(", ") || none;
const code = (text: string): string => `\`${text}\``;

/** The units of a model; heads of a uniform cut are marked where its class derives their width. */
function unitsOf(spec: DecoderSpec): string[] {
  const isFixed = fixedHeads(spec) !== null;
  return UNITS.filter((kind) => !recordOf(kind).misfit?.isFor(spec))
    .map((kind) => isFixed && (kind === "heads" || kind === "kv") ? `${kind}*` : kind);
}

function row(family: Family, models: readonly Golden[], reloads: Reloads["models"]): string {
  const specs = models.map(({ spec }) => spec), own = models.flatMap(({ name }) => reloads[name] ?? []);
  const archs = specs.flatMap((spec) =>
    GGUF_ARCHS.find((arch) => arch.isChosen?.(spec) !== false && fits(spec, arch)) ?? []
  );
  const uneven = specs.flatMap((spec) => GGUF_ARCHS.filter((arch) => arch.uneven && fits(spec, arch)));
  const most = (results: readonly Reload[]): string =>
    Math.max(...results.map(({ difference }) => difference)).toExponential(0);
  const folders = own.flatMap(({ folder, compact }) => [folder, compact].filter((one) => one !== undefined));
  const files = Map.groupBy(own.flatMap(({ gguf }) => gguf), ({ as }) => as);
  const ran = [
    ...folders.length > 0 ? [`transformers ${most(folders)}`] : [],
    ...[...files].map(([arch, results]) => `${code(arch)} ${most(results)}`),
  ];
  return [
    "",
    `${family.label}${family.about ? `: ${family.about}` : ""}`,
    code(family.type),
    list(specs.map((spec) => familyFor(spec).architecture.replace(/ForCausalLM$|LMHeadModel$/, ""))),
    list((family.gguf ?? []).map(({ arch }) => code(arch))),
    list(archs.map(({ arch }) => code(arch))),
    list(uneven.map(({ arch }) => code(arch))),
    list(specs.flatMap(unitsOf)),
    list(ran),
    "",
  ].join(" | ").trim();
}

/** The table. */
export async function modelsTable(): Promise<string> {
  const all = await goldens(), { models } = await json(`${GOLDEN}/reloads.json`) as Reloads;
  const head = [
    "family",
    "`model_type`",
    "class of a uniform cut",
    "GGUF read",
    "GGUF of a uniform cut",
    "GGUF of a compact cut",
    "units",
    "loaded by",
  ];
  const rows = FAMILIES.map((family) => row(family, all.filter(({ type }) => type === family.type), models));
  return [`| ${head.join(" | ")} |`, `|${" - |".repeat(head.length)}`, ...rows, ""].join("\n");
}

/** The page with this table in the place of its own, and its own. */
export function tableOfPage(page: string): { readonly table: string; with(table: string): string } {
  const begin = page.indexOf(BEGIN) + BEGIN.length, end = page.indexOf(END, begin);
  return { table: page.slice(begin, end), with: (table) => `${page.slice(0, begin)}\n${table}${page.slice(end)}` };
}

if (import.meta.main) {
  const page = await Deno.readTextFile(MODELS_PAGE);
  await Deno.writeTextFile(MODELS_PAGE, tableOfPage(page).with(await modelsTable()));
  await new Deno.Command("deno", { args: ["fmt", "--quiet", MODELS_PAGE] }).output();
}
