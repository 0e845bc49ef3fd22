// Options of a run whose values are words, and which of them go together. Owns their checks; refuses numbers and names of options.
import { CompressoError } from "../../core/errors.ts";
import { checkWord } from "../../core/check_options.ts";
import { type OneShotMethod, type Ranking, RANKINGS } from "../../masks/baselines.ts";
import { isScheduleName } from "../../schedule/builtin.ts";
import { KEPT_RULES } from "../../masks/harden.ts";
import { LAMBDA_RULES } from "../../masks/lambda_rule.ts";
import { START_RULES } from "../../masks/start.ts";
import { checkLayout, checkSizeFile } from "../../slice/export_options.ts";
import { UNIT_KINDS, type UnitKind } from "../../units/units.ts";
import { isObject } from "../../core/guards.ts";
import { isOneShot, METHODS } from "../methods/names.ts";
import type { PruneOptions } from "./options.ts";
import type { WantedSize } from "../contract.ts";

/** Refuses words that do not exist, or not for the method. Throws `CompressoError("usage")`. */
export function checkWords({ method = "compresso", ranking, schedule, layout, ...given }: PruneOptions): void {
  checkLayout(layout);
  if (given.size !== undefined) checkSize(given.size);
  if (given.units !== undefined) checkList(given.units, UNIT_KINDS);
  if (!METHODS.includes(method)) {
    throw new CompressoError("usage", {
      what: "cannot prune by this method",
      rule: `methods are ${METHODS.join(", ")}`,
      value: String(method),
      fix: "take one of these, or leave it out",
    });
  }
  const learned = [
    ["start masks from", given.start, START_RULES, "--start"],
    ["give kept units the z", given.keptMasks, KEPT_RULES, "--kept-masks"],
    ["move λ by", given.lambdaRule, LAMBDA_RULES, "--lambda-rule"],
  ] as const;
  for (const [what, value, rules, option] of learned) {
    if (value === undefined) continue;
    checkWord(value, rules, { what: `cannot ${what} '${value}'` });
    if (method === "compresso") continue;
    throw new CompressoError("usage", {
      what: `cannot ${what} '${value}'`,
      rule: `it is ${rules.join(" or ")}, and for learned masks alone, the method compresso`,
      value: `method ${method}`,
      fix: `leave ${option} out`,
    });
  }
  if (ranking !== undefined) checkWord(ranking, RANKINGS, { what: `cannot rank units by '${ranking}'` });
  const isAlike = layout === "uniform", rankings = isOneShot(method) ? rankingsOf(method, { isAlike }) : [];
  if (ranking !== undefined && !rankings.includes(ranking)) {
    throw new CompressoError("usage", {
      what: `cannot rank units by '${ranking}'`,
      rule: isOneShot(method)
        ? `the method ${method}${isAlike ? ", with the layout uniform," : ""} ranks by ${rankings.join(" or ")}`
        : "only one-shot methods have a choice of ranking",
      value: `method ${method}`,
      fix: "leave --ranking out",
    });
  }
  if (typeof schedule === "string" && isScheduleName(schedule) && isOneShot(method)) {
    throw new CompressoError("usage", {
      what: `cannot use the schedule ${schedule} with the method ${method}`,
      rule: "a one-shot method cuts everything before its first step; a script may steer its recovery",
      value: schedule,
      fix: "leave --schedule out, or use compresso or gradual",
    });
  }
}

function checkSize(size: WantedSize): void {
  const parts: {
    readonly parameters?: number;
    readonly bytes?: number;
    readonly file?: object;
    readonly name?: string;
  } = size;
  if (parts.parameters !== undefined) {
    const other = (["bytes", "file", "name"] as const).find((part) => parts[part] !== undefined);
    if (other !== undefined) throw idle(other, "a size in bytes");
    return;
  }
  if ("file" in size && isObject(size.file)) {
    checkSizeFile(size.file);
    if (parts.name !== undefined && size.file.format !== "gguf") throw idle("name", "the GGUF, which has it within it");
    return;
  }
  throw new CompressoError("usage", {
    what: "cannot tell the size that the model is to have",
    rule: "it is { parameters }, or { bytes, file: { format, dtype } }",
    value: JSON.stringify(size) ?? String(size),
    fix: "give one of the two",
  });
}

function idle(part: string, of: string): CompressoError {
  return new CompressoError("usage", {
    what: `cannot use ${part} of the size`,
    rule: `it is of ${of}`,
    value: "another size",
    fix: "leave it out",
  });
}

/** A text would be taken for a list of its letters. */
function checkList(words: readonly UnitKind[], known: readonly string[]): void {
  if (Array.isArray(words)) return;
  throw new CompressoError("usage", {
    what: "cannot prune these units",
    rule: `they are a list of some of ${known.join(", ")}`,
    value: String(words),
    fix: "give a list",
  });
}

/** Wanda-sp's scores of different layers and kinds do not compare; where layers are to be alike each loses the same share by any score. */
function rankingsOf(method: OneShotMethod, { isAlike }: { readonly isAlike: boolean }): readonly Ranking[] {
  return method === "wanda-sp" || isAlike ? ["layer"] : RANKINGS;
}
