// What every SVG figure must be: closed tags, escaped text, a name and a description. Owns those checks; refuses what a figure shows.
import assert from "node:assert/strict";

/** Fails where the text is no well-formed SVG with title and description. */
export function assertDrawn(svg: string): void {
  const open: string[] = [];
  const tags = /<(\/?)([a-zA-Z]+)((?:\s+[\w:-]+="[^"<>]*")*)\s*(\/?)>/g;
  for (const [, closing, tag = "", , self] of svg.matchAll(tags)) {
    if (closing) assert.equal(open.pop(), tag);
    else if (!self) open.push(tag);
  }
  assert.deepEqual(open, []);
  const rest = svg.replaceAll(tags, "");
  assert.ok(!/[<>]/.test(rest.replaceAll(/<style>[^]*?<\/style>/g, "")), "nothing looks like a tag but the tags");
  assert.match(
    svg,
    /^<svg [^>]*role="img" aria-labelledby="(\S+)" aria-describedby="(\S+)"[^>]*>\n<title id="\1">[^<]+<\/title>\n<desc id="\2">[^<]{10,}<\/desc>/,
  );
}
