// Writes the tables of docs/guide/models.md, from the records of families and what scripts/check/families.ts has loaded.
// deno run -A scripts/models_reference.ts
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { FAMILIES, familyFor, fixedHeads, GGUF_ARCHS } from "../lib/families/all.ts";
import type { Family } from "../lib/families/family.ts";
import { fits } from "../lib/families/fit.ts";
import { parseHfConfig } from "../lib/formats/hf/config.ts";
import type { DecoderSpec } from "../lib/spec/decoder.ts";
import { recordOf, type UnitKind } from "../lib/units/kinds/all.ts";

const ROOT = join(dirname(fileURLToPath(import.meta.url)), "..");
const GOLDEN = join(ROOT, "fixtures/golden"), GOLDEN_EXPERTS = join(ROOT, "fixtures/golden_experts");
const GOLDEN_HYBRIDS = join(ROOT, "fixtures/golden_hybrids");

/** The page with the tables. */
const MODELS_PAGE = join(ROOT, "docs/guide/models.md");

/** A table, with what stands before and after it. */
const TABLE = /(<!-- written by scripts\/models_reference\.ts -->\n)([^]*?)(\n<!-- end of the table -->)/g;

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

async function goldens(folder: string, names: readonly string[]): Promise<Golden[]> {
  return await Promise.all(
    names.map(async (name) => {
      const config = await json(`${folder}/${name}/model/config.json`), path = `${name}/config.json`;
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

/** The class of transformers that holds a model, without what all classes are called. */
const classOf = (spec: DecoderSpec): string => familyFor(spec).architecture.replace(/ForCausalLM$|LMHeadModel$/, "");

/** A family's name and what it is about, and its type. */
const names = ({ label, about, type }: Family): string[] => [`${label}${about ? `: ${about}` : ""}`, code(type)];

const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;

function table(head: readonly string[], rows: readonly string[]): string {
  return [line(head), `|${" - |".repeat(head.length)}`, ...rows, ""].join("\n");
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
  return line([
    ...names(family),
    list(specs.map(classOf)),
    list((family.gguf ?? []).map(({ arch }) => code(arch))),
    list(archs.map(({ arch }) => code(arch))),
    list(uneven.map(({ arch }) => code(arch))),
    list(specs.flatMap(unitsOf)),
    list(ran),
  ]);
}

/** A family with experts: the architectures of its record, and the first that holds a model of it. */
function expertsRow(family: Family, models: readonly Golden[]): string {
  const specs = models.map(({ spec }) => spec);
  const archs = [...family.gguf ?? [], ...specs.flatMap((spec) => GGUF_ARCHS.find((arch) => fits(spec, arch)) ?? [])];
  return line([...names(family), list(specs.map(classOf)), list(archs.map(({ arch }) => code(arch)))]);
}

/** The tables: of dense families, and of families with experts. */
export async function modelsTables(): Promise<readonly string[]> {
  const { models } = await json(`${GOLDEN}/golden.json`) as { readonly models: object };
  const { models: reloads } = await json(`${GOLDEN}/reloads.json`) as Reloads;
  const namesIn = (folder: string): string[] => Array.from(Deno.readDirSync(folder), ({ name }) => name).toSorted();
  const others = await Promise.all([GOLDEN_EXPERTS, GOLDEN_HYBRIDS].map((folder) => goldens(folder, namesIn(folder))));
  const all = [...await goldens(GOLDEN, Object.keys(models)), ...others.flat()];
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
  const modelsOf = ({ type }: Family): Golden[] => all.filter((model) => model.type === type);
  const [dense = [], experts = []] = [false, true].map((has) =>
    FAMILIES.filter(({ tensors }) => (tensors?.experts !== undefined) === has)
  );
  return [
    table(head, dense.map((family) => row(family, modelsOf(family), reloads))),
    table(
      ["family", "`model_type`", "class", "GGUF"],
      experts.map((family) => expertsRow(family, modelsOf(family))),
    ),
  ];
}

/** The tables of a page. */
export function tablesOfPage(page: string): string[] {
  return Array.from(page.matchAll(TABLE), ([, , table = ""]) => table);
}

if (import.meta.main) {
  const page = await Deno.readTextFile(MODELS_PAGE), tables = [...await modelsTables()];
  await Deno.writeTextFile(
    MODELS_PAGE,
    page.replace(TABLE, (_, begin, _old, end) => `${begin}\n${tables.shift() ?? ""}${end}`),
  );
  await new Deno.Command("deno", { args: ["fmt", "--quiet", MODELS_PAGE] }).output();
}
