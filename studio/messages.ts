// What the page and its worker say to each other. Types only.
import type { ErrorCode } from "../lib/core/errors.ts";
import type { BaseDtype } from "../lib/nn/weights.ts";
import type { PartsState } from "./parts.ts";

/** What the user chooses for a run. */
export interface Choices {
  /** Share of the layers' linear weights to cut, in (0, 1). */
  readonly sparsity: number;
  /** Steps of the pruning stage. */
  readonly steps: number;
  /** Sequences a step. */
  readonly batch: number;
  /** Tokens a sequence. */
  readonly seq: number;
  /** Storage of the frozen weights. */
  readonly baseDtype: BaseDtype;
  /** Whether the model writes texts first, on which its units are scored. */
  readonly writesTexts: boolean;
}

/** A file of a model, by its name within the model's folder. */
export interface NamedFile {
  readonly name: string;
  readonly file: File;
}

/** What can be downloaded. */
export type Saved = "gguf" | "folder" | "run" | "report";

/** From the page to the worker. */
export type Command =
  /** The first one: the folder of the page with its scripts, the address of the Hub, and the pixels that figures are drawn wide. */
  | { readonly kind: "begin"; readonly parts: PartsState; readonly hub: string; readonly width: number }
  /** The demo, files, or the name of a model on the Hub. */
  | { readonly kind: "model"; readonly files: "demo" | readonly NamedFile[] | { readonly hub: string } }
  | { readonly kind: "stop-fetching" }
  | { readonly kind: "rows"; readonly file: "demo" | File }
  | { readonly kind: "plan"; readonly choices: Choices }
  | { readonly kind: "run"; readonly choices: Choices }
  /** Goes on with the kept run. */
  | { readonly kind: "resume" }
  /** Deletes the kept run. */
  | { readonly kind: "forget" }
  | { readonly kind: "pause"; readonly isPaused: boolean }
  | { readonly kind: "stop" }
  | { readonly kind: "ask"; readonly question: string }
  | { readonly kind: "save"; readonly what: Saved };

/** What the page shows of a model. */
export interface ModelFacts {
  readonly name: string;
  readonly parameters: number;
  readonly layers: number;
  readonly hidden: number;
  /** Bytes of its tensors as they are stored. */
  readonly bytes: number;
  /** Most tokens of a text. */
  readonly context: number;
  /** Questions to try on it; none for a model of the user's. */
  readonly questions: readonly string[];
}

/** What the page shows of rows. */
export interface RowFacts {
  readonly name: string;
  readonly count: number;
  /** The first row as text, shortened. */
  readonly first: string;
}

/** Planned memory of a run. */
export interface PlanFacts {
  readonly peakBytes: number;
  /** Bytes by what they are for, largest first. */
  readonly parts: readonly { readonly name: string; readonly bytes: number }[];
  readonly largest: { readonly bytes: number; readonly limit: number };
  /** Why the run cannot start on this GPU; null if it can. */
  readonly refusal: string | null;
  /** What would fit, as sentences. */
  readonly advice: readonly string[];
}

/** A step that is done. */
export interface StepFacts {
  readonly step: number;
  readonly steps: number;
  readonly stage: string;
  readonly loss: number;
  /** Expected sparsity; null outside of the pruning stage. */
  readonly expected: number | null;
  readonly target: number | null;
  readonly tokensPerSecond: number;
  /** Null while it is not known. */
  readonly secondsLeft: number | null;
  /** Alarms so far, as sentences. */
  readonly alarms: readonly string[];
}

/** A run that was saved and can go on. */
export interface KeptFacts {
  /** Name of its model. */
  readonly model: string;
  readonly step: number;
  /** 0 if it is not known. */
  readonly steps: number;
  /** Bytes of the browser's storage that it takes. */
  readonly bytes: number;
  /** Names of files that must be chosen again. */
  readonly wanted: readonly string[];
}

/** Whether the run that goes on is saved. */
export interface SavingFacts {
  /** Step at which it was saved last; null if it was not. */
  readonly step: number | null;
  /** Bytes of the browser's storage that it takes. */
  readonly bytes: number;
  /** Why it is not saved now, as a sentence; null if it is. */
  readonly problem: string | null;
}

/** A figure of the run so far. */
export interface DrawnFigure {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly svg: string;
}

/** A number that stands out. */
export interface Tile {
  readonly label: string;
  readonly value: string;
  readonly note: string;
}

/** A finished run. */
export interface ResultFacts {
  readonly tiles: readonly Tile[];
  /** Bytes of what can be downloaded; null for what could not be written, with the reason. */
  readonly files: readonly { readonly what: Saved; readonly bytes: number | null; readonly reason: string }[];
}

/** Why something did not work. */
export interface Failure {
  readonly code: ErrorCode | "unknown";
  readonly what: string;
  /** Rule, value and fix, as sentences. */
  readonly details: readonly string[];
}

/** What the worker was doing when something failed. */
export type Place = "begin" | "model" | "rows" | "plan" | "run" | "ask" | "save";

/** From the worker to the page. */
export type Reply =
  | { readonly kind: "ready"; readonly adapter: string; readonly isCpu: boolean }
  | { readonly kind: "model"; readonly model: ModelFacts }
  /** Bytes of a model of the Hub that have come. */
  | { readonly kind: "fetching"; readonly done: number; readonly whole: number }
  | { readonly kind: "rows"; readonly rows: RowFacts }
  | { readonly kind: "plan"; readonly plan: PlanFacts }
  /** What is being done before and after the steps, and the share that is done, 0 to 1; null if it is not known. */
  | { readonly kind: "doing"; readonly text: string; readonly share: number | null }
  | { readonly kind: "step"; readonly step: StepFacts }
  | { readonly kind: "figures"; readonly figures: readonly DrawnFigure[] }
  | { readonly kind: "kept"; readonly run: KeptFacts | null }
  /** The choices of the run that goes on. */
  | { readonly kind: "resumed"; readonly choices: Choices }
  | { readonly kind: "saving"; readonly saving: SavingFacts }
  | { readonly kind: "paused"; readonly isPaused: boolean }
  | { readonly kind: "result"; readonly result: ResultFacts }
  | { readonly kind: "said"; readonly who: "dense" | "pruned"; readonly text: string }
  | { readonly kind: "asked" }
  | { readonly kind: "saved"; readonly name: string; readonly blob: Blob }
  | { readonly kind: "failed"; readonly at: Place; readonly failure: Failure };
