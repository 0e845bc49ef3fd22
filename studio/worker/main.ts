// The worker of the studio: it has the GPU, so that the page stays smooth. It answers the page's commands.
import "./without_eval.ts";
import { CompressoError, refuse, stopped } from "../../lib/core/errors.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import type { Choices, Command, Place } from "../messages.ts";
import { Parts } from "../parts.ts";
import { answers, type ChosenModel, type ChosenRows, openChosen, readChosen } from "./desk.ts";
import { planOf } from "./plan.ts";
import { StudioRun } from "./run.ts";
import { StudioStorage } from "./storage.ts";
import { failureOf, tell, tellFailure } from "./tell.ts";

/** Milliseconds until a browser has told that it took the GPU away. */
const LOST_TIME = 5000;

let base = "", hub = "", width = 640;
let device: Device | null = null, model: ChosenModel | null = null, rows: ChosenRows | null = null;
let run: StudioRun | null = null, fetching = new AbortController();
let storage: StudioStorage | null = null;

globalThis.addEventListener("message", (event: Event) => {
  if (event instanceof MessageEvent) void answer(event.data);
});

async function answer(command: Command): Promise<void> {
  const at = PLACES[command.kind];
  try {
    await carryOut(command);
  } catch (error) {
    tellFailure(at, await causeOf(error));
    if (at === "run" && storage) tell({ kind: "kept", run: await storage.found() });
  }
}

/** Where a failed command is told. */
const PLACES: Readonly<Record<Command["kind"], Place>> = {
  ...{ begin: "begin", model: "model", rows: "rows", plan: "plan", run: "run", ask: "ask", save: "save" },
  ...{ "stop-fetching": "model", pause: "run", stop: "run", resume: "run", forget: "run" },
};

/** The loss of the GPU if that is why a call failed: a browser may say so a moment after the call. */
async function causeOf(error: unknown): Promise<unknown> {
  if (!device || error instanceof CompressoError) return error;
  await Promise.race([device.gpu.lost, new Promise((resolve) => setTimeout(resolve, LOST_TIME))]);
  try {
    device.check();
    return error;
  } catch (loss) {
    return loss;
  }
}

async function carryOut(command: Command): Promise<void> {
  switch (command.kind) {
    case "begin": {
      ({ parts: { base }, hub, width } = command);
      const parts = new Parts(command.parts);
      Object.assign(globalThis, { loadPart: async (name: string) => await import(await parts.url(name)) });
      await usableDevice();
      // Why there is none is told when a run begins.
      storage = await StudioStorage.open(base).catch(() => null);
      if (storage) {
        const kept = await storage.found();
        // The files of a run that has ended are deleted with its tab.
        if (!kept) await storage.clear({ model, rows });
        tell({ kind: "kept", run: kept });
      }
      return;
    }
    case "model":
      stopFetching();
      model = await openChosen(command, { base, hub, signal: fetching.signal });
      return tell({ kind: "model", model: model.facts });
    case "stop-fetching":
      return stopFetching();
    case "rows":
      rows = await readChosen(command, base);
      return tell({ kind: "rows", rows: rows.facts });
    case "plan":
      if (model && device) tell({ kind: "plan", plan: await planOf(model.source, command.choices, device) });
      return;
    case "run":
      if (model && rows) await prune({ model, rows }, { choices: command.choices, resume: false });
      return;
    case "resume":
      return await resume();
    case "forget":
      await storage?.clear({ model, rows });
      return tell({ kind: "kept", run: null });
    case "pause":
      return run?.pause(command.isPaused);
    case "stop":
      return run?.stop();
    case "ask":
      return await ask(command.question);
    case "save": {
      const saved = await run?.save(command.what);
      if (saved) tell({ kind: "saved", ...saved });
      return;
    }
  }
}

/** Ends the fetching of a model; the next one can begin. */
function stopFetching(): void {
  fetching.abort(stopped("the fetching was stopped"));
  fetching = new AbortController();
}

/** Starts a run, or goes on with the one that is kept. */
async function prune(
  chosen: { readonly model: ChosenModel; readonly rows: ChosenRows },
  { choices, resume }: { readonly choices: Choices; readonly resume: boolean },
): Promise<void> {
  run?.free();
  const inputs = { device: await usableDevice(), ...chosen, choices, width, storage: await usableStorage(), resume };
  run = new StudioRun(inputs);
  tell({ kind: "result", result: await run.work() });
}

/** Takes up what the kept run was made from, and goes on. */
async function resume(): Promise<void> {
  if (!storage) return;
  const kept = await storage.inputs();
  if (kept.model.files) {
    const opened = await openChosen({ kind: "model", files: kept.model.files }, {
      ...{ base, hub, signal: fetching.signal },
    });
    model = { ...opened, facts: { ...opened.facts, name: kept.model.name }, isKept: kept.model.files !== "demo" };
    tell({ kind: "model", model: model.facts });
  }
  if (kept.rows.file) {
    rows = { ...await readChosen({ kind: "rows", file: kept.rows.file }, base), isKept: kept.rows.file !== "demo" };
    tell({ kind: "rows", rows: rows.facts });
  }
  for (const [own, name] of [[model?.facts.name, kept.model.name], [rows?.facts.name, kept.rows.name]] as const) {
    if (own === name) continue;
    const rule = `${name} is chosen again: it was too large to be copied`, fix = "choose it, then go on";
    refuse("input", "cannot go on", { rule, value: own ?? "nothing", fix });
  }
  if (!model || !rows) return;
  tell({ kind: "resumed", choices: kept.choices });
  await prune({ model, rows }, { choices: kept.choices, resume: true });
}

/** Where a run is saved; null where it cannot be, which is told. */
async function usableStorage(): Promise<StudioStorage | null> {
  try {
    return storage ??= await StudioStorage.open(base);
  } catch (error) {
    const problem = ["The run is not saved: keep this tab open.", ...failureOf("run", error).details].join(" ");
    tell({ kind: "saving", saving: { step: null, bytes: 0, problem } });
    return null;
  }
}

/** The GPU; opened again where it was lost. */
async function usableDevice(): Promise<Device> {
  if (device && !device.isBroken) return device;
  device?.[Symbol.dispose]();
  device = await openDevice();
  tell({ kind: "ready", adapter: device.facts.description, isCpu: device.facts.isCpu });
  return device;
}

/** Both models answer at the same time, token by token. */
async function ask(question: string): Promise<void> {
  const models = run?.models;
  if (!models) return;
  const say = async (who: "dense" | "pruned"): Promise<void> => {
    for await (const text of answers(models[who], question)) tell({ kind: "said", who, text });
  };
  await Promise.all([say("dense"), say("pruned")]);
  tell({ kind: "asked" });
}
