// What lib/ takes of zod: its small core (zod/mini) with the chained methods of its usual form, as far as lib/ calls them.
// All of zod would add 21 KB to the compressed script of a page.
import type * as zod from "npm:zod@^4.0.0";
import * as mini from "npm:zod@^4.0.0/mini";
import en from "npm:zod@^4.0.0/v4/locales/en.js";

export type {
  core,
  infer,
  ZodBoolean,
  ZodInt,
  ZodLiteral,
  ZodNullable,
  ZodNumber,
  ZodObject,
  ZodOptional,
  ZodRawShape,
  ZodType,
} from "npm:zod@^4.0.0";

type Schema = mini.ZodMiniType;
type Check = Parameters<Schema["check"]>[0];

// As the usual form does with its first schema: another language that a program has chosen stays.
if (!mini.config().localeError) mini.config(en());

/** Adds the methods to a schema of zod/mini. Each of them returns a new schema with them. */
function chained(schema: Schema): Schema {
  const isNumber = schema.def.type === "number";
  const also = (check: Check): Schema => chained(schema.check(check));
  const wraps = (wrap: (inner: Schema) => Schema) => (): Schema => chained(wrap(schema));
  // The bounds of numbers, and those of lengths, have the same names.
  const least = isNumber ? mini.gte : mini.minLength, most = isNumber ? mini.lte : mini.maxLength;
  return Object.assign(schema, {
    optional: wraps(mini.optional),
    exactOptional: wraps(mini.exactOptional),
    nullable: wraps(mini.nullable),
    nullish: wraps(mini.nullish),
    default: (value: unknown) => chained(mini._default(schema, value)),
    min: (bound: number, message?: string) => also(least(bound, message)),
    max: (bound: number, message?: string) => also(most(bound, message)),
    length: (length: number, message?: string) => also(mini.length(length, message)),
    gt: (bound: number, message?: string) => also(mini.gt(bound, message)),
    lt: (bound: number, message?: string) => also(mini.lt(bound, message)),
    positive: (message?: string) => also(mini.positive(message)),
    nonnegative: (message?: string) => also(mini.nonnegative(message)),
    regex: (pattern: RegExp, message?: string) => also(mini.regex(pattern, message)),
    extend: (shape: Parameters<typeof mini.extend>[1]) => chained(mini.extend(schema as mini.ZodMiniObject, shape)),
    refine: (isRight: (value: unknown) => boolean, message?: string) => also(mini.refine(isRight, message)),
    superRefine: (check: Parameters<typeof mini.superRefine>[0]) => also(mini.superRefine(check)),
    transform: (change: Parameters<typeof mini.transform>[0]) => chained(mini.pipe(schema, mini.transform(change))),
  });
}

/** A maker of schemas, with the methods and under the type of its twin in the usual form. */
function maker<Name extends keyof typeof zod>(
  _name: Name,
  make: (...args: never[]) => Schema,
): (typeof zod)[Name] {
  return ((...args: never[]) => chained(make(...args))) as unknown as (typeof zod)[Name];
}

export const array = maker("array", mini.array), boolean = maker("boolean", mini.boolean);
export const custom = maker("custom", mini.custom), int = maker("int", mini.int);
export const literal = maker("literal", mini.literal), looseObject = maker("looseObject", mini.looseObject);
export const never = maker("never", mini.never), number = maker("number", mini.number);
export const object = maker("object", mini.object), record = maker("record", mini.record);
export const strictObject = maker("strictObject", mini.strictObject), string = maker("string", mini.string);
export const union = maker("union", mini.union), unknown = maker("unknown", mini.unknown);
const choice = maker("enum", mini.enum), nothing = maker("null", mini.null);
export { choice as enum, nothing as null };
