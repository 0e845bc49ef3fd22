// YAML files of options. js-yaml reads no variables and no files, so a verb needs no further permission.
import { JSON_SCHEMA, load, YAMLException } from "npm:js-yaml@^5.5.0";
import { refuse } from "../../lib/core/errors.ts";

/** Mappings and lists inside each other. */
const MAX_DEPTH = 16;

/**
 * Parses one YAML document with the values of JSON. Any other plain value is a text: `no`, `012` and `1_000` are texts.
 *
 * @throws CompressoError("input") with the line, if the text is not YAML, gives a key twice, or has an alias or a tag
 * beyond those of JSON.
 */
export function parseYaml(text: string, file: string): unknown {
  try {
    return load(text, { schema: JSON_SCHEMA, maxAliases: 0, maxDepth: MAX_DEPTH });
  } catch (cause) {
    refuse("input", `cannot read ${file}`, {
      rule: "it is one document of YAML, each key stands once, and nothing is an alias",
      value: problem(cause),
      cause,
    });
  }
}

function problem(error: unknown): string {
  if (!(error instanceof YAMLException)) return error instanceof Error ? error.message : String(error);
  const { reason, mark } = error;
  return mark === undefined ? reason : `line ${mark.line + 1}, column ${mark.column + 1}: ${reason}`;
}
