// Whether an answer in the model's own words is right, by the rule of its task.
import { isExactMatch } from "./answers.ts";
import type { AnswerItem } from "./metrics.ts";
import { isSameNumber, lastNumber, markedNumber } from "./number_answer.ts";
import type { AnswerRule } from "./task.ts";

/** Judges an answer by the accepted ones. */
export function judged(
  text: string,
  accepted: readonly string[],
  rule: Exclude<AnswerRule, "code"> = "exact",
): Pick<AnswerItem, "isExact" | "isStrict"> {
  if (rule === "exact") return { isExact: isExactMatch(text, accepted) };
  const isExact = isSameNumber(lastNumber(text), accepted), isStrict = isSameNumber(markedNumber(text), accepted);
  return { isExact, isStrict };
}
