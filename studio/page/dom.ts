// The part of the DOM that the page uses. Deno's types have none, and those of browsers would let lib/ name a document.

/** An element of the page. Fields that only some elements have are those of the elements that the page asks for. */
export interface PageElement {
  readonly dataset: Record<string, string | undefined>;
  readonly clientWidth: number;
  readonly files: Iterable<File> | null;
  hidden: boolean;
  disabled: boolean;
  checked: boolean;
  value: string;
  textContent: string | null;
  innerHTML: string;
  href: string;
  download: string;
  readonly style: { width: string };
  addEventListener(type: string, listener: (event: PageEvent) => void): void;
  append(...nodes: readonly (PageElement | string)[]): void;
  replaceChildren(...nodes: readonly (PageElement | string)[]): void;
  setAttribute(name: string, value: string): void;
  removeAttribute(name: string): void;
  checkValidity(): boolean;
  click(): void;
  focus(): void;
}

/** An event of the page. */
export interface PageEvent {
  readonly dataTransfer?: { readonly items: Iterable<DroppedItem> } | null;
  preventDefault(): void;
}

/** Something that was dropped onto the page. */
export interface DroppedItem {
  webkitGetAsEntry(): DroppedEntry | null;
}

/** A file or a folder that was dropped. */
export interface DroppedEntry {
  readonly isFile: boolean;
  readonly name: string;
  file(done: (file: File) => void, failed: (error: Error) => void): void;
  createReader(): { readEntries(done: (entries: DroppedEntry[]) => void, failed: (error: Error) => void): void };
}

interface PageDocument {
  readonly baseURI: string;
  readonly body: PageElement;
  title: string;
  querySelector(selector: string): PageElement | null;
  querySelectorAll(selector: string): Iterable<PageElement>;
  createElement(name: string): PageElement;
}

declare const document: PageDocument;

/** The page. */
export const page: PageDocument = document;

/** The element with this id. */
export function byId(id: string): PageElement {
  const found = page.querySelector(`#${id}`);
  if (!found) throw new Error(`the page has no #${id}`);
  return found;
}

/** A new element with a text. */
export function element(name: string, text = "", attributes: Readonly<Record<string, string>> = {}): PageElement {
  const made = page.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
