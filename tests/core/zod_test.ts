// The schemas of lib/ against those of all of zod: the same values, the same issues in the same words.
import assert from "node:assert/strict";
import * as whole from "npm:zod@^4.0.0";
import { z } from "../../lib/core/packages.ts";

type Maker = Pick<typeof whole, keyof typeof z & keyof typeof whole>;

/** Schemas that call each method that lib/ has. */
function schemas(of: Maker): Readonly<Record<string, whole.ZodType>> {
  const count = of.int("must be whole").positive().max(9, "at most 9");
  return {
    count,
    eight: count.default(8),
    share: of.number().nonnegative().lt(1),
    factor: of.number().gt(0, "above 0").min(0.5).max(2).nullish(),
    name: of.string().min(2).max(4, "too long").regex(/^[a-z]+$/, "small letters"),
    pair: of.array(count).length(2),
    list: of.array(of.string()).min(1).max(2),
    kind: of.enum(["a", "b"]),
    own: of.custom<number>((value) => value === 7).nullable(),
    object: of.object({ a: count, b: of.boolean().optional(), c: of.literal("x").exactOptional() }),
    wider: of.strictObject({ a: count }).extend({ b: of.boolean().optional() }),
    strict: of.strictObject({ a: of.unknown() }),
    loose: of.looseObject({ a: of.null() }),
    record: of.record(of.string(), of.never("not here")),
    union: of.union([of.string(), of.array(count)], "a text or counts").transform((one) => [one].flat().length),
    refined: of.array(count).refine((all) => all.length < 3, "too many").superRefine((all, { addIssue }) => {
      if (all.includes(5)) addIssue({ code: "custom", message: "five", path: ["at"] });
    }),
  };
}

const VALUES: readonly unknown[] = [
  ...[
    undefined,
    null,
    true,
    NaN,
    Infinity,
    -1,
    0,
    0.5,
    0.75,
    1,
    3,
    7,
    9,
    10,
    2 ** 53,
    "",
    "a",
    "ab",
    "ab1",
    "abcde",
    "x",
  ],
  ...[[], [1], [1, 2], [1, 5], [1, 2, 3], ["x", "y", "z"], ["a", "b"]],
  ...[{}, { a: 1 }, { a: 0 }, { a: 1, b: false, c: "x" }, { a: 1, c: undefined }, { a: null, d: 4 }, { c: "y" }],
];

Deno.test("schemas of lib/ accept what all of zod does, and name the same issues", () => {
  const ours = schemas(z), theirs = schemas(whole);
  for (const [name, schema] of Object.entries(theirs)) {
    for (const value of VALUES) {
      const what = `${name} of ${JSON.stringify(value)}`, mine = ours[name]?.safeParse(value);
      const expected = schema.safeParse(value);
      assert.equal(mine?.success, expected.success, what);
      assert.deepEqual(mine?.data, expected.data, what);
      assert.deepEqual(mine?.error?.issues, expected.error?.issues, what);
    }
  }
  assert.deepEqual(Object.keys(z.object({ a: z.int() }).shape), ["a"]);
});
