// The frame of a report: one HTML document with its style, its script and its content policy.
import { sourceHash } from "../core/digest.ts";
import SCRIPT_FILE from "./page.js" with { type: "text" };
import { escape, FIGURE_STYLE } from "./svg.ts";

/** The script as a browser hashes it: HTML has line feeds alone, a clone on Windows may have others. */
const SCRIPT = SCRIPT_FILE.replaceAll(/\r\n?/g, "\n");

const STYLE =
  `:root { color-scheme: light dark; --ground: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --raised: #f6f8fa; --link: #0a58a8; --shade: #1b1f2433 }
@media screen and (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #2a313a; --raised: #161b22; --link: #7cc0ff; --shade: #e6edf366 } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 24px 20px 48px; max-width: 840px; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, 'Segoe UI', Helvetica, Arial, sans-serif }
h1 { font-size: 24px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere } h2 { font-size: 18px; margin: 36px 0 8px; overflow-wrap: anywhere } p { margin: 0 0 8px }
header p, figcaption, .note { color: var(--soft); overflow-wrap: anywhere } a { color: var(--link) }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 12px 0 0; padding: 0; list-style: none } nav li, summary { overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 12px; margin: 20px 0 0 }
.tiles div { border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; background: var(--raised) }
.tiles dt { color: var(--soft); font-size: 13px } .tiles dd { margin: 0 } .tiles .big { font-size: 20px; font-weight: 600; font-variant-numeric: tabular-nums } .tiles .small { color: var(--soft); font-size: 12px; line-height: 1.35 }
figure { margin: 0 } .plot { position: relative; margin-top: 8px } .plot svg { display: block; width: 100%; height: auto } .narrow { display: none }
@media screen and (max-width: 680px) { .wide { display: none } .narrow { display: block } .narrow svg { max-width: 480px } }
output { position: absolute; top: 0; right: 0; max-width: 70%; padding: 1px 6px; border-radius: 4px; background: var(--raised); font-size: 12px; font-variant-numeric: tabular-nums } output:empty { display: none }
.scroll + .note { margin-top: 8px } details { margin-top: 6px } summary { cursor: pointer; color: var(--link); font-size: 13px }
.scroll { overflow-x: auto; margin-top: 8px; background: linear-gradient(to right, var(--ground) 40%, transparent) left / 28px 100% no-repeat local, linear-gradient(to left, var(--ground) 40%, transparent) right / 28px 100% no-repeat local, linear-gradient(to right, var(--shade), transparent) left / 10px 100% no-repeat scroll, linear-gradient(to left, var(--shade), transparent) right / 10px 100% no-repeat scroll } details .scroll { max-height: 480px; overflow-y: auto }
.broad { position: relative; left: 50%; transform: translateX(-50%); width: max-content; min-width: 100%; max-width: calc(100vw - 40px) } .broad thead .number { white-space: normal } .broad + p { margin-top: 12px }
table { border-collapse: collapse; font-size: 13px } caption { text-align: left; color: var(--soft); padding-bottom: 4px; max-width: min(780px, 100vw - 40px) }
th, td { padding: 4px 16px 4px 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); max-width: 420px; overflow-wrap: break-word } th { font-weight: 600 } tbody th { font-weight: 400; color: var(--soft) }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
@media (max-width: 480px) { body { padding: 16px 12px 32px } .tiles { grid-template-columns: 1fr 1fr } }
@media print { body { max-width: none; padding: 0; font-size: 11pt } nav, details, output, #status { display: none } figure, .tiles, tr { break-inside: avoid } h2 { break-after: avoid } .scroll, details .scroll { overflow: visible; max-height: none } .broad { position: static; transform: none; max-width: none } * { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
`;

/** What a page is made of. */
export interface PageParts {
  readonly title: string;
  /** A line below the title. */
  readonly note: string;
  /** HTML of the content. */
  readonly content: string;
  /** Tag of the content where the page is to refresh itself, and what is said of the run; null for a file. */
  readonly live: { readonly tag: string; readonly state: string } | null;
}

/** The document. It loads nothing from elsewhere, and its policy forbids that. */
export function pageHtml({ title, note, content, live }: PageParts): string {
  const policy = [
    "default-src 'none'",
    "style-src 'unsafe-inline'",
    `script-src '${sourceHash(SCRIPT)}'`,
    "img-src data:",
    "base-uri 'none'",
    "form-action 'none'",
    ...(live ? ["connect-src 'self'"] : []),
  ].join("; ");
  const status = live ? `<p id="status" role="status">${escape(live.state)}</p>\n` : "";
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>${escape(title)}</title>
<style>
${STYLE}${FIGURE_STYLE}
</style>
</head>
<body${live ? ` data-live="${escape(live.tag)}"` : ""}>
<header>
<h1>${escape(title)}</h1>
<p id="note">${escape(note)}</p>
${status}</header>
<main>
${content}
</main>
<script>${SCRIPT}</script>
</body>
</html>
`;
}
