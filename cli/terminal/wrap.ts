// Text in lines of a given width.

/** Breaks a text at spaces into lines of at most so many columns. A longer word gets a separate line. */
export function wrapText(text: string, width: number): string[] {
  const lines: string[] = [];
  for (const word of text.split(/\s+/)) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) lines[lines.length - 1] = `${last} ${word}`;
    else lines.push(word);
  }
  return lines;
}

/** Breaks a line into lines of at most so many columns, and indents all but the first. */
export function hanging(
  line: string,
  { columns, indent }: { readonly columns: number; readonly indent: number },
): string {
  if (line.length <= columns) return line;
  const label = line.slice(0, indent);
  return label + wrapText(line.slice(indent), Math.max(8, columns - indent)).join(`\n${" ".repeat(indent)}`);
}
