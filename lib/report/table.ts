// Tables as HTML.
import { escape } from "./svg.ts";

/** A table; the first cell of a row is its header. */
export interface Table {
  /** For screen readers, and shown above. */
  readonly caption: string;
  readonly head: readonly string[];
  readonly rows: readonly (readonly string[])[];
}

/** A number with its unit, an interval, or none: columns of them stand right. */
const NUMBER = /^(?:–|[-−]?\d[\d.,]*(?:e[-+]?\d+)?(?: ?(?:%|bytes|[KMGT]iB))?|[+−]\d[\d.]* to [+−]\d[\d.]*)$/;

/** The table in a frame that scrolls sideways where the page is narrow. `id` is unique on the page. */
export function tableHtml({ caption, head, rows }: Table, id: string): string {
  const isNumber = head.map((_, column) => column > 0 && rows.every((row) => NUMBER.test(row[column] ?? "")));
  const body = rows.map(([first = "", ...cells]) => {
    const tds = cells.map((cell, at) => `<td${isNumber[at + 1] ? ' class="number"' : ""}>${escape(cell)}</td>`);
    return `<tr><th scope="row">${escape(first)}</th>${tds.join("")}</tr>`;
  });
  // A frame that scrolls must take the focus, or the keyboard could not reach its end.
  return `<div class="scroll" id="${id}-frame" role="group" aria-labelledby="${id}" tabindex="0"><table>
<caption id="${id}">${escape(caption)}</caption>
<thead><tr>${
    head.map((cell, column) => `<th scope="col"${isNumber[column] ? ' class="number"' : ""}>${escape(cell)}</th>`).join(
      "",
    )
  }</tr></thead>
<tbody>
${body.join("\n")}
</tbody>
</table></div>`;
}

/** At most about `most` rows of a long table, evenly spread, the last one among them. */
export function everyNth<T>(
  items: readonly T[],
  most: number,
): { readonly items: readonly T[]; readonly every: number } {
  const every = Math.max(1, Math.ceil(items.length / most));
  return { items: items.filter((_, index) => index % every === 0 || index === items.length - 1), every };
}
