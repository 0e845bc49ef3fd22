// The page of the studio: what the user chooses goes to the worker, and what the worker tells is shown.
import { formatBytes, formatCount } from "../../lib/report/numbers.ts";
import type { Choices, Command, Place, Reply, Saved } from "../messages.ts";
import { Parts } from "../parts.ts";
import { byId, element, page, type PageElement } from "./dom.ts";
import { chosenFiles, droppedFiles } from "./files.ts";
import { choicesShown, figuresShown, keptShown, planShown, resultShown, savingShown, stepShown } from "./show.ts";

/** Milliseconds after the last change of a field before memory is planned. */
const PLAN_MS = 200;

const { storage } = navigator as Navigator & { readonly storage?: { persist(): Promise<boolean> } };

/** What there is so far. */
const has = { gpu: false, model: false, rows: false, running: false, paused: false, fetching: false };
let send: (command: Command) => void = () => {};

/** Starts the worker. Its scripts are checked against the page's hashes. */
async function begin(): Promise<void> {
  const words = page.body.dataset["parts"]?.split(" ") ?? [];
  const hashes = Object.fromEntries(words.flatMap((name, at) => at % 2 ? [] : [[name, words[at + 1] ?? ""]]));
  const parts = new Parts({ base: page.baseURI, hashes, made: {} });
  const worker = new Worker(await parts.worker(), { type: "module" });
  worker.onmessage = ({ data }: MessageEvent<Reply>): void => hear(data);
  worker.onerror = (event): void =>
    failed("begin", event.message ?? "The program of the page has stopped.", ["What to do: reload the page."]);
  send = (command): void => worker.postMessage(command);
  const state = await parts.state();
  send({
    kind: "begin",
    parts: state,
    hub: page.body.dataset["hub"] ?? "",
    width: Math.max(300, Math.min(760, byId("run").clientWidth - 34)),
  });
}

function hear(reply: Reply): void {
  switch (reply.kind) {
    case "ready":
      has.gpu = true;
      // A processor writes them for minutes.
      if (reply.isCpu) byId("writesTexts").checked = false;
      byId("adapter").textContent = reply.isCpu
        ? `No GPU: ${reply.adapter} computes on the processor, which is slow. The demo works.`
        : `GPU: ${reply.adapter}`;
      break;
    case "fetching":
      byId("fetching").setAttribute("value", String(reply.done / reply.whole));
      byId("model-state").textContent = `Fetching: ${formatBytes(reply.done)} of ${formatBytes(reply.whole)} …`;
      break;
    case "model": {
      const { name, parameters, layers, hidden, bytes, context, questions } = reply.model;
      has.model = true;
      fetching(false);
      byId("model-state").textContent = `${name}: ${
        formatCount(parameters)
      } parameters, ${layers} layers of ${hidden}, ${formatBytes(bytes)} of weights, texts of up to ${
        formatCount(context)
      } tokens.`;
      byId("question").value = questions[0] ?? "Once upon a time";
      byId("questions").replaceChildren(...questions.map((text) => element("option", "", { value: text })));
      plan();
      break;
    }
    case "rows": {
      const { name, count, first } = reply.rows;
      has.rows = true;
      byId("rows-state").textContent = `${name}: ${formatCount(count)} rows. The first one:`;
      byId("first-row").textContent = first;
      byId("first-row").hidden = false;
      break;
    }
    case "plan":
      planShown(reply.plan);
      break;
    case "kept":
      keptShown(reply.run);
      if (reply.run && !byId("live").hidden) {
        byId("run-state").textContent = "Stopped. The run is saved and can go on: see the top of the page.";
      }
      break;
    case "resumed":
      choicesShown(reply.choices);
      break;
    case "saving":
      savingShown(reply.saving);
      break;
    case "doing":
      progress(reply.text, reply.share);
      break;
    case "step":
      progress(
        `${STAGES[reply.step.stage] ?? reply.step.stage}, step ${reply.step.step} of ${reply.step.steps}`,
        reply.step.step / reply.step.steps,
      );
      stepShown(reply.step);
      break;
    case "figures":
      figuresShown(reply.figures);
      break;
    case "paused":
      has.paused = reply.isPaused;
      byId("pause").textContent = reply.isPaused ? "Go on" : "Pause";
      byId("run-state").textContent = reply.isPaused ? "Paused." : "Running.";
      break;
    case "result":
      has.running = false;
      progress("Done", 1);
      byId("run-state").textContent = "Done. Download the files before you close this tab.";
      byId("saving").textContent = "";
      resultShown(reply.result);
      byId("result").hidden = false;
      byId("result-title").focus();
      break;
    case "said":
      byId(`said-${reply.who}`).append(reply.text);
      break;
    case "asked":
      byId("ask").disabled = false;
      break;
    case "saved":
      download(reply.name, reply.blob);
      break;
    case "failed":
      failed(reply.at, `${reply.failure.what}.`, reply.failure.details);
  }
  refresh();
}

const STAGES: Readonly<Record<string, string>> = {
  prefinetune: "Fine-tuning first",
  finetune: "Fine-tuning first",
  prune: "Pruning",
  postfinetune: "Recovering",
};

/** Shows a failure in the box of its place, and ends the display of a run. */
function failed(at: Place, what: string, details: readonly string[]): void {
  if (at === "run") has.running = false;
  const box = byId(at === "begin" ? "begin-error" : at === "plan" ? "plan-error" : `${BOXES[at] ?? "run"}-error`);
  box.replaceChildren(element("strong", what), ...details.map((text) => element("p", text)));
  box.hidden = false;
  if (at === "run") {
    byId("run-state").textContent = "Stopped. What you chose is still here.";
    byId("progress").removeAttribute("value");
  }
  if (at === "model") {
    byId("model-state").textContent = "No model yet.";
    fetching(false);
  }
  if (at === "rows") byId("rows-state").textContent = "No rows yet.";
  byId("ask").disabled = false;
  refresh();
}

const BOXES: Readonly<Partial<Record<Place, string>>> = { model: "model", rows: "rows", ask: "ask", save: "ask" };

function progress(text: string, share: number | null): void {
  byId("doing").textContent = text;
  if (share === null) byId("progress").removeAttribute("value");
  else byId("progress").setAttribute("value", String(share));
}

/** Buttons work only where they have something to do. */
function refresh(): void {
  byId("start").disabled = !(has.gpu && has.model && has.rows) || has.running;
  byId("pause").disabled = !has.running;
  byId("stop").disabled = !has.running;
  byId("resume").disabled = byId("forget").disabled = !has.gpu || has.running || has.fetching;
  for (const field of page.querySelectorAll("#choices input, #choices select, .choose")) {
    field.disabled = has.running || has.fetching;
  }
  byId("missing").textContent = has.running
    ? ""
    : !has.model
    ? "Choose a model first."
    : !has.rows
    ? "Choose rows to learn from."
    : "";
}

function choices(): Choices {
  const number = (id: string): number => Number(byId(id).value), dtype = byId("baseDtype").value;
  return {
    sparsity: number("sparsity") / 100,
    steps: number("steps"),
    batch: number("batch"),
    seq: number("seq"),
    baseDtype: dtype === "q8" || dtype === "q4" || dtype === "f32" ? dtype : "f16",
    writesTexts: byId("writesTexts").checked,
  };
}

let planning: ReturnType<typeof setTimeout> | undefined;

function plan(): void {
  byId("sparsity-value").textContent = `${byId("sparsity").value} %`;
  clearTimeout(planning);
  if (has.model) planning = setTimeout(() => send({ kind: "plan", choices: choices() }), PLAN_MS);
}

/** Shows that a model is being fetched, or that none is. */
function fetching(isFetching: boolean): void {
  has.fetching = isFetching;
  for (const id of ["stop-fetching", "fetching"]) byId(id).hidden = !isFetching;
  byId("fetching").removeAttribute("value");
}

function openModel(files: Extract<Command, { kind: "model" }>["files"]): void {
  has.model = false;
  byId("model-error").hidden = true;
  byId("model-state").textContent = "Opening …";
  fetching(files !== "demo" && "hub" in files);
  send({ kind: "model", files });
  if (files === "demo") readRows("demo");
  refresh();
}

function readRows(file: "demo" | File): void {
  has.rows = false;
  byId("rows-error").hidden = true;
  byId("rows-state").textContent = "Reading …";
  byId("first-row").hidden = true;
  send({ kind: "rows", file });
  refresh();
}

function start(): void {
  for (const field of page.querySelectorAll("#choices input")) if (!field.checkValidity()) return field.focus();
  begun({ kind: "run", choices: choices() });
}

/** Shows a run that begins or goes on. */
function begun(command: Command): void {
  has.running = true;
  for (const id of ["run-error", "result", "idle", "kept"]) byId(id).hidden = true;
  byId("live").hidden = false;
  byId("pause").textContent = "Pause";
  byId("run-state").textContent = "Running.";
  savingShown({ step: null, bytes: 0, problem: null });
  figuresShown([]);
  progress("Starting", null);
  send(command);
  refresh();
  // A browser may ask the user, or delete what is stored when the disk is full.
  storage?.persist().catch(() => false);
}

function ask(): void {
  byId("ask").disabled = true;
  byId("ask-error").hidden = true;
  for (const who of ["dense", "pruned"]) byId(`said-${who}`).textContent = "";
  send({ kind: "ask", question: byId("question").value });
}

function download(name: string, blob: Blob): void {
  const link = element("a"), href = URL.createObjectURL(blob);
  link.href = href;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(href), 60_000);
}

/** Lets files be dropped onto a card. */
function droppable(card: PageElement, take: (event: Parameters<typeof droppedFiles>[0]) => Promise<void>): void {
  card.addEventListener("dragover", (event) => {
    event.preventDefault();
    card.setAttribute("data-over", "");
  });
  card.addEventListener("dragleave", () => card.removeAttribute("data-over"));
  card.addEventListener("drop", (event) => {
    event.preventDefault();
    card.removeAttribute("data-over");
    if (!has.running) void take(event);
  });
}

byId("demo").addEventListener("click", () => openModel("demo"));
for (
  const [button, input] of [["choose-gguf", "gguf"], ["choose-folder", "folder"], ["choose-rows", "rows"]] as const
) {
  byId(button).addEventListener("click", () => byId(input).click());
}
for (const input of ["gguf", "folder"]) {
  byId(input).addEventListener("change", () => openModel(chosenFiles(byId(input).files)));
}
byId("hub").addEventListener("submit", (event) => {
  event.preventDefault();
  openModel({ hub: byId("hub-name").value.trim() });
});
byId("stop-fetching").addEventListener("click", () => send({ kind: "stop-fetching" }));
byId("rows").addEventListener("change", () => {
  const [file] = byId("rows").files ?? [];
  if (file) readRows(file);
});
droppable(byId("model-card"), async (event) => openModel(await droppedFiles(event)));
droppable(byId("rows-card"), async (event) => {
  const [first] = await droppedFiles(event);
  if (first) readRows(first.file);
});
for (const id of ["sparsity", "steps", "batch", "seq", "baseDtype"]) byId(id).addEventListener("input", plan);
byId("choices").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
byId("resume").addEventListener("click", () => begun({ kind: "resume" }));
byId("forget").addEventListener("click", () => send({ kind: "forget" }));
byId("pause").addEventListener("click", () => send({ kind: "pause", isPaused: !has.paused }));
byId("stop").addEventListener("click", () => send({ kind: "stop" }));
byId("asking").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
for (const what of ["gguf", "folder", "run", "report"] as const satisfies readonly Saved[]) {
  byId(`save-${what}`).addEventListener("click", () => send({ kind: "save", what }));
}
refresh();
begin().catch((error: unknown) => failed("begin", String(error), ["What to do: reload the page."]));
