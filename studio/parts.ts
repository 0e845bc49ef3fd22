// The scripts of the worker: they are fetched, checked by their hashes and made blobs. A worker made from a blob obeys
// the page's content policy, which a worker made from an address would not.

/** What a {@link Parts} is made from; it can be sent to the worker. */
export interface PartsState {
  /** The folder of the page. */
  readonly base: string;
  /** Hashes of the files by their names. */
  readonly hashes: Readonly<Record<string, string>>;
  /** Addresses of the blobs made so far, by the names of the scripts. */
  readonly made: Readonly<Record<string, string>>;
}

/**
 * The file of all scripts that the worker starts with, each after a line with its name. They share so much that one
 * file is smaller than many when it is compressed.
 */
export const PACK = "worker.txt";

// Joined, so that this script, which is in the file too, does not hold it.
const BEGIN = ["//#", "script", ""].join(" ");
const IMPORTED = /\b(?:from|import)"\.\/([\w-]+\.js)"/g;

/** The names in static imports of a script. */
export function importsOf(script: string): string[] {
  return Array.from(new Set(Array.from(script.matchAll(IMPORTED), ([, name = ""]) => name)));
}

/** Scripts by their names as the text of one file. */
export function packed(scripts: ReadonlyMap<string, string>): string {
  return [...scripts].map(([name, script]) => `${BEGIN}${name}\n${script}\n`).join("");
}

function unpacked(text: string): [string, string][] {
  return text.split(BEGIN).slice(1).map((part) => {
    const end = part.indexOf("\n");
    return [part.slice(0, end), part.slice(end + 1)];
  });
}

/** Makes blobs of scripts, one of each. */
export class Parts {
  readonly #base: string;
  readonly #hashes: Readonly<Record<string, string>>;
  readonly #made: Map<string, Promise<string>>;
  readonly #texts = new Map<string, string>();

  /** Continues from a state. */
  constructor({ base, hashes, made }: PartsState) {
    this.#base = base;
    this.#hashes = hashes;
    this.#made = new Map(Object.entries(made).map(([name, url]) => [name, Promise.resolve(url)]));
  }

  /**
   * Fetches what the worker starts with, and gives the address of its script.
   *
   * @throws Error as {@link url}.
   */
  async worker(): Promise<string> {
    for (const [name, text] of unpacked(await this.#fetch(PACK))) this.#texts.set(name, text);
    return await this.url("main.js");
  }

  /**
   * The address of a script's blob. The scripts that it imports are made first, and are named by their addresses.
   *
   * @throws Error if a file cannot be fetched, or is another one than the page was built with.
   */
  async url(name: string): Promise<string> {
    const known = this.#made.get(name);
    if (known) return await known;
    const making = this.#make(name);
    this.#made.set(name, making);
    // The next call tries again.
    making.catch(() => this.#made.delete(name));
    return await making;
  }

  /** What a worker continues from. */
  async state(): Promise<PartsState> {
    const made = await Promise.all([...this.#made].map(async ([name, url]) => [name, await url] as const));
    return { base: this.#base, hashes: this.#hashes, made: Object.fromEntries(made) };
  }

  async #make(name: string): Promise<string> {
    const text = this.#texts.get(name) ?? await this.#fetch(name);
    const urls = new Map(await Promise.all(importsOf(text).map(async (one) => [one, await this.url(one)] as const)));
    const named = text.replace(IMPORTED, (found, one: string) => found.replace(`./${one}`, urls.get(one) ?? one));
    return URL.createObjectURL(new Blob([named], { type: "text/javascript" }));
  }

  async #fetch(name: string): Promise<string> {
    const integrity = this.#hashes[name];
    if (integrity === undefined) throw new Error(`the page has no file ${name}`);
    const response = await fetch(new URL(name, this.#base), { integrity });
    if (!response.ok) throw new Error(`${name}: status ${response.status}`);
    return await response.text();
  }
}
