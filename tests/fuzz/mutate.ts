// Seeded mutators of files: bytes, JSON as a tree and as text, and files that hold JSON behind a length. A seed and a number give one mutant.
import { randomU32 } from "../../lib/core/random.ts";

/** Random numbers of one mutant. */
export class Draw {
  readonly #seed: number;
  readonly #mutant: number;
  #count = 0;

  constructor(seed: number, mutant: number) {
    this.#seed = seed;
    this.#mutant = mutant;
  }

  /** A whole number below `end`. */
  below(end: number): number {
    return randomU32(this.#seed, this.#mutant, this.#count++) % Math.max(1, end);
  }

  /** One of a list. */
  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** True once in `n`. */
  onceIn(n: number): boolean {
    return this.below(n) === 0;
  }
}

/** Makes a mutant of a file. */
export type Mutate = (file: Uint8Array<ArrayBuffer>, draw: Draw) => Uint8Array<ArrayBuffer>;

/** Whole numbers at the edges of types and of what readers count on. */
const EDGES = [
  ...[0, 1, 2, 3, 7, 8, 31, 32, 255, 256, 65535, 65536, 2 ** 24, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 1, 2 ** 32],
  ...[2 ** 53 - 1, 2 ** 53, 2 ** 62, -1, -2, -(2 ** 31)],
] as const;
const BYTES = [0, 1, 0x0a, 0x20, 0x22, 0x2c, 0x5b, 0x5d, 0x7b, 0x7d, 0x7f, 0x80, 0xc0, 0xfe, 0xff] as const;

/** Bits, bytes, whole numbers of 4 and 8 bytes, pieces removed, repeated or moved, and cut ends. Within `hot`, if it is given, half of the time. */
export function bytes(hot: (file: Uint8Array) => readonly number[] = () => []): Mutate {
  return (file, draw) => {
    const hotPlaces = hot(file);
    let out = file.slice();
    for (let left = 1 + draw.below(3); left > 0; left--) out = oneOfBytes(out, draw, hotPlaces);
    return out;
  };
}

function oneOfBytes(
  file: Uint8Array<ArrayBuffer>,
  draw: Draw,
  hot: readonly number[],
): Uint8Array<ArrayBuffer> {
  const isHot = hot.length > 0 && draw.onceIn(2), at = isHot ? draw.pick(hot) : draw.below(file.length);
  const view = new DataView(file.buffer, file.byteOffset, file.length);
  const length = Math.min(file.length - at, 1 + draw.below(draw.pick([4, 16, 256])));
  switch (draw.below(isHot ? 5 : 9)) {
    case 0:
      if (at < file.length) file[at] = (file[at] ?? 0) ^ (1 << draw.below(8));
      return file;
    case 1:
      if (at < file.length) file[at] = draw.pick(BYTES);
      return file;
    case 2:
      if (at + 4 <= file.length) view.setUint32(at, draw.pick(EDGES) % 2 ** 32, true);
      return file;
    case 3:
      if (at + 8 <= file.length) view.setBigInt64(at, BigInt.asIntN(64, BigInt(draw.pick(EDGES))), true);
      return file;
    case 4:
      if (at + 8 <= file.length) {
        view.setBigUint64(
          at,
          view.getBigUint64(at, true) + BigInt.asUintN(64, BigInt(draw.pick([1, -1, 2, -8]))),
          true,
        );
      }
      return file;
    case 5:
      return join(file.subarray(0, at), file.subarray(at + length));
    case 6:
      return join(file.subarray(0, at + length), file.subarray(at));
    case 7:
      file.copyWithin(at, draw.below(file.length), draw.below(file.length));
      return file;
    default:
      return file.slice(0, at);
  }
}

/** Puts pieces together. */
export function join(...parts: readonly Uint8Array[]): Uint8Array<ArrayBuffer> {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

/** Values that a reader of JSON may not expect where they are. */
const ODD: readonly unknown[] = [
  ...[
    null,
    true,
    false,
    "",
    " ",
    "0",
    "__proto__",
    "constructor",
    "\u0000",
    "\ud800",
    "{{",
    "(a*)*b",
    "../../etc/passwd",
  ],
  ...[0, -0, -1, 1, 0.5, 1e-320, 1e308, 2 ** 31, 2 ** 32, 2 ** 53 - 1, 2 ** 53, 1e300, -1e9, 1e9, 100_000],
  ...[[], {}, [[]], [null], { toString: 1 }, { __proto__x: 1, length: 1e9 }, ["a", 1, {}], Array(300).fill(0)],
];

/** Parses JSON, changes one to four places of the tree, and writes it again; now and then the text itself is changed, or nests without end. */
export const json: Mutate = (file, draw) => {
  const text = new TextDecoder().decode(file);
  return new TextEncoder().encode(jsonText(text, draw));
};

/** {@link json} of a text. */
export function jsonText(text: string, draw: Draw): string {
  if (draw.onceIn(6)) return textOf(text, draw);
  try {
    return JSON.stringify(changedTree(JSON.parse(text), draw)) ?? "null";
  } catch {
    return textOf(text, draw); // it is no JSON, or a tree too deep to be written
  }
}

/** Changes one to four places of a value of JSON. */
export function changedTree(tree: unknown, draw: Draw): unknown {
  const root: Parent = { value: tree };
  for (let left = 1 + draw.below(4); left > 0; left--) changePlace(root, draw);
  return root["value"];
}

function changePlace(root: Parent, draw: Draw): void {
  const places = placesOf(root), { parent, key } = draw.pick(places), value = parent[key];
  switch (draw.below(9)) {
    case 0:
    case 1:
      parent[key] = structuredClone(draw.pick(ODD));
      return;
    case 2:
      parent[key] = nearby(value, draw);
      return;
    case 3:
      if (parent === root) return;
      if (Array.isArray(parent)) parent.splice(Number(key), 1);
      else delete parent[key];
      return;
    case 4: {
      // Another part of the tree in its place.
      const other = draw.pick(places);
      parent[key] = structuredClone(other.parent[other.key]);
      return;
    }
    case 5:
      if (Array.isArray(value)) parent[key] = [...value, ...value, ...value];
      else if (typeof value === "string") parent[key] = value.repeat(1 + draw.below(draw.pick([3, 50])));
      return;
    case 6: {
      const other = draw.pick(places), kept = other.parent[other.key];
      // A part moved into itself would be a ring.
      if (typeof kept === "object" || typeof value === "object") return;
      other.parent[other.key] = value;
      parent[key] = kept;
      return;
    }
    case 7:
      if (Array.isArray(parent) || parent === root) return;
      Object.defineProperty(parent, draw.pick(["__proto__", "constructor", "toString", "length", "type", `${key}x`]), {
        ...{ value, enumerable: true, writable: true, configurable: true },
      });
      return;
    default:
      parent[key] = nested(draw.pick([2, 20, 300, 3000]), draw.onceIn(2));
  }
}

/** A value like the one that was there: another number, a text with other characters. */
function nearby(value: unknown, draw: Draw): unknown {
  if (typeof value === "number") {
    return draw.pick([value + 1, value - 1, -value, value * 2, value / 2, draw.pick(EDGES)]);
  }
  if (typeof value === "string") return textOf(value, draw);
  if (typeof value === "boolean") return !value;
  return value;
}

function nested(depth: number, isList: boolean): unknown {
  let value: unknown = 1;
  for (let level = 0; level < depth; level++) value = isList ? [value] : { a: value };
  return value;
}

type Parent = Record<string, unknown>;

interface Place {
  readonly parent: Parent;
  readonly key: string;
}

/** Places of a tree, of large ones those of a part. */
function placesOf(root: Parent): Place[] {
  const places: Place[] = [{ parent: root, key: "value" }];
  for (let next = 0; next < places.length && places.length < 20_000; next++) {
    const place = places[next], value = place?.parent[place.key];
    if (typeof value !== "object" || value === null) continue;
    const own = value as Parent;
    for (const inner of Object.keys(own)) places.push({ parent: own, key: inner });
  }
  return places;
}

/** Pieces of text that readers treat otherwise. */
const PIECES: readonly string[] = [
  ...["\u0000", "\ufeff", "\r\n", "\n", "\n\n", '"', "\\", "\\u", "{", "}", "[", "]", ",", ":", "null", "NaN", "1e999"],
  ...["-", "\ud800", "\u202e", "e\u0301", "{{", "}}", "{%", "%}", "|", "(", ")", "*", "+", "(?:a|a)*b", "\u{1f600}"],
];

/** A text with pieces removed, repeated, put in or moved, or cut. */
export function textOf(text: string, draw: Draw): string {
  let out = text;
  for (let left = 1 + draw.below(3); left > 0; left--) {
    const at = draw.below(out.length + 1), length = draw.below(draw.pick([2, 8, 64]));
    const start = out.slice(0, at), rest = out.slice(at), piece = draw.pick(PIECES);
    switch (draw.below(6)) {
      case 0:
        out = start + rest.slice(length);
        break;
      case 1:
        out = start + rest.slice(0, length) + rest;
        break;
      case 2:
        out = start + piece + rest;
        break;
      case 3:
        out = start + piece.repeat(1 + draw.below(draw.pick([3, 1000]))) + rest.slice(1);
        break;
      case 4: {
        const other = draw.below(out.length + 1);
        out = start + out.slice(other, other + length) + rest;
        break;
      }
      default:
        out = draw.onceIn(3) ? start : start + String(draw.pick(EDGES)) + rest.slice(length);
    }
  }
  return out;
}

/** {@link textOf} of a file of UTF-8. */
export const text: Mutate = (file, draw) => new TextEncoder().encode(textOf(new TextDecoder().decode(file), draw));

/** One of several mutators. */
export function oneOf(...mutators: readonly Mutate[]): Mutate {
  return (file, draw) => draw.pick(mutators)(file, draw);
}

/** JSON lines: lines removed, repeated or swapped, one changed by {@link json}, or the text. */
export const jsonLines: Mutate = (file, draw) => {
  const lines = new TextDecoder().decode(file).split("\n"), at = draw.below(lines.length);
  switch (draw.below(5)) {
    case 0:
      return text(file, draw);
    case 1:
      lines.splice(at, 1 + draw.below(3));
      break;
    case 2:
      lines.splice(at, 0, lines[draw.below(lines.length)] ?? "");
      break;
    default:
      lines[at] = jsonText(lines[at] ?? "", draw);
  }
  return new TextEncoder().encode(lines.join("\n"));
};

/** A safetensors file: its header as JSON, with the length that it has, or bytes. */
export const safetensors: Mutate = (file, draw) => {
  const view = new DataView(file.buffer, file.byteOffset), length = Number(view.getBigUint64(0, true));
  if (draw.onceIn(3)) return bytes(() => [0, 8, 8 + length])(file, draw);
  const header = json(file.subarray(8, 8 + length), draw),
    out = join(new Uint8Array(8), header, file.subarray(8 + length));
  new DataView(out.buffer).setBigUint64(0, BigInt(header.length + (draw.onceIn(20) ? draw.below(9) : 0)), true);
  return out;
};
