// Asserts what the toolkit refuses, by the error's code and data; never by its words, which may get better.
import assert from "node:assert/strict";
import { CompressoError, type ErrorCode } from "../lib/core/errors.ts";

/** Data that an error has to hold. */
export interface Refusal {
  /** Path of the option at fault, exactly; null where there is none. */
  readonly option?: string | null;
  /** Data within `parts.value`: numbers, names, what the user gave. Each has to stand there as a word, so 3 is not in 13. */
  readonly value?: Data;
  /** Data elsewhere in the message that tells which refusal it is: a file, a tensor, a limit. */
  readonly names?: Data;
}

/** What a text may name. */
export type Datum = string | number;
export type Data = Datum | readonly Datum[];

/** Asserts that `work` throws a `CompressoError` of this code that holds these data. */
export function refuses(work: () => unknown, code: ErrorCode, expected: Refusal = {}): void {
  refusalOf(work, code, expected);
}

/** The same of a promise that is rejected, or of a function that returns one. */
export async function rejects(
  work: Promise<unknown> | (() => Promise<unknown>),
  code: ErrorCode,
  expected: Refusal = {},
): Promise<void> {
  await rejectionOf(work, code, expected);
}

/** As {@link refuses}; returns the error. */
export function refusalOf(work: () => unknown, code: ErrorCode, expected: Refusal = {}): CompressoError {
  let result: unknown;
  try {
    result = work();
  } catch (error) {
    return checkRefusal(error, code, expected);
  }
  return assert.fail(`expected a refusal (${code}); it returned ${typeof result}`);
}

/** As {@link rejects}; returns the error. */
export async function rejectionOf(
  work: Promise<unknown> | (() => Promise<unknown>),
  code: ErrorCode,
  expected: Refusal = {},
): Promise<CompressoError> {
  let result: unknown;
  try {
    result = await (typeof work === "function" ? work() : work);
  } catch (error) {
    return checkRefusal(error, code, expected);
  }
  return assert.fail(`expected a refusal (${code}); it resolved to ${typeof result}`);
}

/** Asserts that an error is a refusal with this code and these data, and returns it. */
export function checkRefusal(error: unknown, code: ErrorCode, { option, value, names }: Refusal = {}): CompressoError {
  assert.ok(error instanceof CompressoError, `not a CompressoError: ${error instanceof Error ? error.stack : error}`);
  const { parts, message } = error;
  assert.equal(error.code, code, message);
  if (option !== undefined) assert.equal(parts.option ?? null, option, message);
  assertNames(parts.value ?? "", value, `${parts.value} (${message})`);
  assertNames(message, names);
  return error;
}

/** Asserts that a text names data: numbers, files, options; each as a word. `all` is what a failure shows. Default: the text. */
export function assertNames(text: string, names: Data = [], all: string = text): void {
  for (const datum of dataOf(names)) assert.ok(holds(text, datum), `it does not name ${datum}: ${all}`);
}

function dataOf(data: Data): readonly Datum[] {
  return typeof data === "object" ? data : [data];
}

/** Whether a datum stands in a text with no letter or digit that would make it another one. */
function holds(text: string, datum: Datum): boolean {
  const literal = String(datum).replaceAll(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const before = /^\w/.test(literal) ? "(?<![\\w.])" : "", after = /\w$/.test(literal) ? "(?!\\w|\\.\\d)" : "";
  return new RegExp(before + literal + after).test(text);
}
