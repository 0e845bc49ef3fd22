// The page at `/`, where a browser chats with the model: one HTML document that asks only this server, with a content
// policy that allows nothing else. It holds no secret, so it needs no key; what it asks for does.
import { sourceHash } from "../core/digest.ts";
import SCRIPT_FILE from "./page.js" with { type: "text" };

/** The script as a browser hashes it: HTML has line feeds alone, a clone on Windows may have others. */
const SCRIPT = SCRIPT_FILE.replaceAll(/\r\n?/g, "\n");

const STYLE =
  `:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d0d7de; --raised: #f3f5f7; --link: #0a58a8 }
@media (prefers-color-scheme: dark) { :root { --ground: #0d1117; --ink: #e6edf3; --soft: #9198a1; --line: #3a424c; --raised: #161b22; --link: #7cc0ff } }
* { box-sizing: border-box }
body, main { display: flex; flex-direction: column } main { flex: 1; min-height: 0 }
body { height: 100dvh; max-width: 760px; margin: 0 auto; padding: 12px 16px; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { font-size: 18px; margin: 0 0 8px; overflow-wrap: anywhere }
#log { flex: 1; overflow-y: auto }
#log p { margin: 0 0 12px; white-space: pre-wrap; overflow-wrap: anywhere }
#log .user { background: var(--raised); border-radius: 8px; padding: 8px 12px }
#log .note { color: var(--soft); font-size: 14px }
textarea, input, button { width: 100%; padding: 8px; border: 1px solid var(--line); border-radius: 6px; background: var(--ground); color: inherit; font: inherit }
button { width: auto; padding: 8px 16px; background: var(--raised); cursor: pointer }
.row { display: flex; gap: 8px; margin-top: 8px }
label, summary { color: var(--soft); font-size: 14px } label { display: block } summary { cursor: pointer }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px }`;

const HTML = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>Chat</title>
<style>${STYLE}</style>
<body>
<header><h1 id="model">Chat</h1></header>
<main>
<div id="log" role="log" aria-label="Conversation" tabindex="0"></div>
<form id="form">
<details id="settings"><summary>Settings</summary>
<label>System text <input id="system" autocomplete="off"></label>
<label>Temperature <input id="temperature" type="number" min="0" max="2" step="any" placeholder="the server's"></label>
<label>API key, if the server asks for one <input id="key" type="password" autocomplete="off"></label>
</details>
<div class="row"><textarea id="text" rows="3" aria-label="Message" placeholder="Message (Enter sends)" autofocus></textarea></div>
<div class="row"><button id="send">Send</button><button id="again" type="button">New conversation</button></div>
</form>
</main>
<script>${SCRIPT}</script>
`;

const POLICY = [
  "default-src 'none'",
  `script-src '${sourceHash(SCRIPT)}'`,
  `style-src '${sourceHash(STYLE)}'`,
  "connect-src 'self'",
  "img-src data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** The response that holds the page. */
export function chatPage(): Response {
  return new Response(HTML, {
    headers: {
      "content-type": "text/html; charset=utf-8",
      "content-security-policy": POLICY,
      "x-content-type-options": "nosniff",
      "referrer-policy": "no-referrer",
      "cache-control": "no-cache",
    },
  });
}
