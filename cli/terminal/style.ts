// Width and colours of the terminal. Colours are for terminals only, unless FORCE_COLOR is set; NO_COLOR turns them off.

/** Widest text that is read with ease. */
const MOST_COLUMNS = 110;

/** Functions that colour a text, or return it as it is. */
export interface Style {
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly red: (text: string) => string;
}

/** Style of a stream. */
export function styleOf(stream: { isTerminal(): boolean }): Style {
  return hasColors(stream) ? COLOURED : PLAIN;
}

/** Whether a stream shows colours. */
export function hasColors(stream: { isTerminal(): boolean }): boolean {
  if (Deno.noColor || variable("NO_COLOR") || ["0", "false"].includes(variable("FORCE_COLOR"))) return false;
  return variable("FORCE_COLOR") !== "" || isScreen(stream);
}

/** Whether a stream is a terminal whose cursor can be moved. */
export function isScreen(stream: { isTerminal(): boolean }): boolean {
  return stream.isTerminal() && variable("TERM") !== "dumb";
}

/** Columns of the terminal; 80 without a terminal. */
export function terminalColumns(): number {
  try {
    const { columns } = Deno.consoleSize();
    return columns > 0 ? columns : 80;
  } catch {
    return 80;
  }
}

/** Columns for running text. */
export function textColumns(): number {
  return Math.min(MOST_COLUMNS, Math.max(20, terminalColumns()));
}

/** An environment variable; empty if it is not set or may not be read. */
function variable(name: string): string {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) ?? "" : "";
}

function ansi(code: number): (text: string) => string {
  return (text) => text === "" ? "" : `\x1b[${code}m${text}\x1b[0m`;
}

const COLOURED: Style = { bold: ansi(1), dim: ansi(2), red: ansi(31) };
const PLAIN: Style = { bold: (text) => text, dim: (text) => text, red: (text) => text };
