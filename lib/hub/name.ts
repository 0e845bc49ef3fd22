// Names of files on the Hugging Face Hub: hf:owner/name[@revision][:file].
import { refuse } from "../core/errors.ts";

/** What a name is used for: it decides the kind of repository, and which of its files are needed. */
export type HubUse = "model" | "adapter" | "data";

/** A name on the Hub in its parts. */
export interface HubName {
  /** Kind of repository, as the Hub's addresses spell it. */
  readonly type: "models" | "datasets";
  /** `owner/name`. */
  readonly repo: string;
  /** A branch, a tag or a commit; null for the main branch. */
  readonly revision: string | null;
  /** Path of a file or folder within the repository; null if none is named. */
  readonly file: string | null;
}

const PREFIX = "hf:";
const PART = "[A-Za-z0-9_][\\w.-]*";
const NAME = new RegExp(`^hf:(${PART}/${PART})(?:@([^:@\\s]+))?(?::(.+))?$`);

/** Whether a text names something on the Hub. */
export function isHubName(text: string): boolean {
  return text.startsWith(PREFIX);
}

/** Whether a revision is a commit. */
export function isCommit(revision: string): boolean {
  return /^[0-9a-f]{40}$/.test(revision);
}

/** Parses a name. Rows are in repositories of data sets, all else in those of models. Throws `CompressoError("usage")` for another form. */
export function parseHubName(text: string, use: HubUse): HubName {
  const [, repo, revision = null, file = null] = NAME.exec(text) ?? [];
  const isSafe = isSafePath(file ?? "file") && isSafePath(revision ?? "main") && !/--|\.\./.test(repo ?? "");
  if (repo !== undefined && isSafe) return { type: use === "data" ? "datasets" : "models", repo, revision, file };
  refuse("usage", `cannot read the name ${text}`, {
    rule: "a name on the Hugging Face Hub is hf:owner/name[@revision][:file]",
    value: text,
    fix: "write it as hf:HuggingFaceTB/SmolLM2-135M, for instance",
  });
}

/** A name as text, with other parts where they are given. */
export function hubText(name: HubName, parts: Partial<Pick<HubName, "revision" | "file">> = {}): string {
  const { repo, revision, file } = { ...name, ...parts };
  return `${PREFIX}${repo}${revision === null ? "" : `@${revision}`}${file === null ? "" : `:${file}`}`;
}

/** Characters of a path: Linux takes no longer ones. */
const MOST_PATH = 4096;

/** Whether a path within a repository stays within the folder that it is written to, on every system. */
export function isSafePath(path: string): boolean {
  // deno-lint-ignore no-control-regex
  return path.length <= MOST_PATH && !/[\\:\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]/.test(path) &&
    path.split("/").every((part) => !/^\.{0,2}$/.test(part) && new TextEncoder().encode(part).length <= 255);
}
