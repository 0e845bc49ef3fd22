// The parts of our SVG figures: document, styles for light and dark, text, lines, numbers.

/** Size of all text but titles, in pixels. */
const FONT = 12;
const FAMILY = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif";

/** Colors of series on light and on dark grounds; after Okabe & Ito (2008), safe for the color-blind, each with a contrast of 3 at least. */
const SERIES_COLORS: readonly (readonly [light: string, dark: string])[] = [
  ["#0072b2", "#56b4e9"],
  ["#c44e00", "#f0a35e"],
  ["#00805f", "#3fc79a"],
  ["#8a3ea8", "#d3a4f2"],
  ["#a0567c", "#f29cc4"],
  ["#7a6a00", "#d9c84a"],
  ["#595959", "#b4b4b4"],
  ["#1f4e9e", "#9db9ff"],
];

/** Class that gives series `index` its color, as `currentColor`. */
export function seriesClass(index: number): string {
  return `s${index % SERIES_COLORS.length}`;
}

/** How many series before `index` have its color: something else must tell them apart. */
export function colorRound(index: number): number {
  return Math.floor(index / SERIES_COLORS.length);
}

/** How many times wider lines of series `index` are than those of the first with its color. */
export function widening(index: number): number {
  return 1 + 0.75 * colorRound(index);
}

/** Style rules of all figures: a standalone document contains them; a page has them once for all figures. */
export const FIGURE_STYLE: string =
  `.ground { fill: #ffffff } .ink { fill: #1b1f24 } .soft { fill: #59636e } .grid { stroke: #d8dee4 } .axis { stroke: #8c959f } .mark { stroke: #1b1f24 } .value { paint-order: stroke; stroke: #ffffff; stroke-width: 3px } .heat { color: #0b4a7a } .cell { stroke: #ffffff }
${colorRules(0)}
@media screen and (prefers-color-scheme: dark) {
.ground { fill: #0d1117 } .ink { fill: #e6edf3 } .soft { fill: #9198a1 } .grid { stroke: #2a313a } .axis { stroke: #656c76 } .mark { stroke: #e6edf3 } .value { stroke: #0d1117 } .heat { color: #8fd0ff } .cell { stroke: #0d1117 }
${colorRules(1)}
}`;

function colorRules(ground: 0 | 1): string {
  return SERIES_COLORS.map((pair, index) => `.s${index} { color: ${pair[ground]} }`).join(" ");
}

/** What a figure says of itself, and its size. */
export interface FigureFrame {
  readonly title: string;
  /** For readers who cannot see the figure: what it shows. */
  readonly description: string;
  readonly width: number;
  readonly height: number;
  /** Whether it is part of a page that has {@link FIGURE_STYLE}; default false, a document by itself. */
  readonly embedded?: boolean;
  /** Further attributes of the `svg` element, escaped already. */
  readonly attributes?: string;
}

/** A whole figure. Its ids follow from width, title and description, so that different figures can share a page. */
export function svgFigure(
  body: readonly string[],
  { title, description, width, height, embedded = false, attributes = "" }: FigureFrame,
): string {
  const id = `f${hash(`${width}\n${title}\n${description}`)}`;
  const style = embedded ? "" : `<style>\n${FIGURE_STYLE}\n</style>\n`;
  const ground = embedded ? "" : `<rect class="ground" width="${width}" height="${height}"/>\n`;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" aria-labelledby="${id}-title" aria-describedby="${id}-desc" font-family="${FAMILY}" font-size="${FONT}"${attributes}>
<title id="${id}-title">${escape(title)}</title>
<desc id="${id}-desc">${escape(description)}</desc>
${style}${ground}${body.join("\n")}
</svg>
`;
}

/** One line of text. */
export function text(
  x: number,
  y: number,
  content: string,
  { anchor = "start", tone = "ink", size = FONT, weight = 400, halo = false }: {
    readonly anchor?: "start" | "middle" | "end";
    readonly tone?: "ink" | "soft";
    readonly size?: number;
    readonly weight?: number;
    /** Keeps lines away from the text. */
    readonly halo?: boolean;
  } = {},
): string {
  const styled = `${size === FONT ? "" : ` font-size="${size}"`}${weight === 400 ? "" : ` font-weight="${weight}"`}`;
  return `<text class="${tone}${halo ? " value" : ""}" x="${round(x)}" y="${
    round(y)
  }" text-anchor="${anchor}"${styled}>${escape(content)}</text>`;
}

/** One line of text that reads upwards, its middle at a point: the label of a vertical axis. */
export function verticalText(x: number, y: number, content: string): string {
  const drawn = text(x, y, content, { anchor: "middle", tone: "soft", size: 11 });
  return drawn.replace("<text ", `<text transform="rotate(-90 ${round(x)} ${round(y)})" `);
}

/** A straight line. */
export function line(
  [x1, y1]: readonly [number, number],
  [x2, y2]: readonly [number, number],
  { kind, dash }: { readonly kind: "grid" | "axis" | "mark"; readonly dash?: string },
): string {
  const dashes = dash ? ` stroke-dasharray="${dash}"` : "";
  return `<line class="${kind}" x1="${round(x1)}" y1="${round(y1)}" x2="${round(x2)}" y2="${round(y2)}"${dashes}/>`;
}

/** Largest width of a text in pixels: fonts differ, so this is generous. */
export function textWidth(content: string, size: number = FONT): number {
  return content.length * size * 0.62;
}

/** Whether a range comes only from rounding one value: there is nothing to draw then. */
export function isPoint(least: number, most: number): boolean {
  return most - least <= 1e-9 * Math.max(Math.abs(least), Math.abs(most));
}

/** A text in lines of at most `width` pixels, cut at spaces; a word that is longer, such as an address, within itself. */
export function wrapText(content: string, width: number, size: number = FONT): string[] {
  const most = Math.max(1, Math.floor(width / textWidth("x", size))), lines: string[] = [];
  for (const word of content.split(" ").flatMap((one) => one.match(new RegExp(`.{1,${most}}`, "gsu")) ?? [one])) {
    const last = lines.at(-1);
    if (last !== undefined && textWidth(`${last} ${word}`, size) <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** The heading of a picture, in as many lines as it needs, below `y`; `bottom` is where the next line may begin. */
export function heading(
  content: string,
  { x, y, width }: { readonly x: number; readonly y: number; readonly width: number },
): { readonly body: readonly string[]; readonly bottom: number } {
  const lines = wrapText(content, width, HEADING);
  return {
    body: lines.map((line, index) => text(x, y + 14 + 20 * index, line, { size: HEADING, weight: 600 })),
    bottom: y + 4 + 20 * lines.length,
  };
}

/** Font size of a heading. */
const HEADING = 16;

/** A number with an SI prefix and its unit: 0.0021 s is "2.1 ms". */
export function si(value: number, unit: string): string {
  if (value === 0) return `0 ${unit}`.trim();
  const prefixes = ["n", "µ", "m", "", "k", "M", "G", "T"];
  const power = Math.min(4, Math.max(-3, Math.floor(Math.log10(Math.abs(value)) / 3 + 1e-9)));
  return `${short(value / 1000 ** power)} ${prefixes[power + 3] ?? ""}${unit}`.trim();
}

/** Three significant digits at most, without trailing zeros. */
export function short(value: number): string {
  return Number.isFinite(value) ? String(Number(value.toPrecision(3))) : "–";
}

/** Text as XML or HTML, in attributes too. */
export function escape(content: string): string {
  // XML has no place for most control characters, not even as references.
  // deno-lint-ignore no-control-regex
  return content.replaceAll(/[\x00-\x08\x0b\x0c\x0e-\x1f]/g, "\ufffd").replaceAll("&", "&amp;").replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;").replaceAll('"', "&quot;").replaceAll("'", "&#39;");
}

/** Pixels with one decimal. */
export function round(value: number): number {
  return Math.round(value * 10) / 10;
}

/** FNV-1a, 32 bits, for names that need not be secret. */
function hash(content: string): string {
  let value = 0x811c9dc5;
  for (let at = 0; at < content.length; at++) value = Math.imul(value ^ content.charCodeAt(at), 0x01000193);
  return (value >>> 0).toString(16).padStart(8, "0");
}
