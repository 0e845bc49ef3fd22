// The worker of the studio: it has the GPU, so that the page stays smooth. It answers the page's commands.
import "./without_eval.ts";
import { CompressoError, stopped } from "../../lib/core/errors.ts";
import { type Device, openDevice } from "../../lib/gpu/device.ts";
import type { Command, Place } from "../messages.ts";
import { Parts } from "../parts.ts";
import { answers, type ChosenModel, type ChosenRows, openChosen, readChosen } from "./desk.ts";
import { planOf } from "./plan.ts";
import { StudioRun } from "./run.ts";
import { tell, tellFailure } from "./tell.ts";

/** Milliseconds until a browser has told that it took the GPU away. */
const LOST_TIME = 1000;

let base = "", hub = "", width = 640;
let device: Device | null = null, model: ChosenModel | null = null, rows: ChosenRows | null = null;
let run: StudioRun | null = null, fetching = new AbortController();

globalThis.addEventListener("message", (event: Event) => {
  if (event instanceof MessageEvent) void answer(event.data);
});

async function answer(command: Command): Promise<void> {
  const at: Place = command.kind === "pause" || command.kind === "stop"
    ? "run"
    : command.kind === "stop-fetching"
    ? "model"
    : command.kind;
  try {
    await carryOut(command);
  } catch (error) {
    tellFailure(at, await causeOf(error));
  }
}

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
    case "run": {
      if (!model || !rows) return;
      run?.free();
      run = new StudioRun({ device: await usableDevice(), model, rows, choices: command.choices, width });
      return tell({ kind: "result", result: await run.work() });
    }
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
