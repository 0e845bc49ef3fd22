// Shows what the worker tells of plans, steps and results.
import { duration, formatBytes, formatCount } from "../../lib/report/numbers.ts";
import type { Choices, DrawnFigure, KeptFacts, PlanFacts, ResultFacts, SavingFacts, StepFacts } from "../messages.ts";
import { byId, element } from "./dom.ts";

/** The memory that a run takes, and whether the GPU allows it. */
export function planShown({ peakBytes, parts, largest, refusal, advice }: PlanFacts): void {
  byId("plan-error").hidden = true;
  byId("plan").hidden = false;
  byId("plan-fits").textContent = refusal === null
    ? `Needs ${
      formatBytes(peakBytes)
    } of GPU memory. This GPU's limits allow it; how much memory is free, a browser does not say.`
    : `Does not fit this GPU: ${refusal}.${
      advice.length > 0 ? ` Use ${advice.join(", or ")}.` : " Choose a smaller model."
    }`;
  byId("plan-fits").setAttribute("data-fits", String(refusal === null));
  byId("plan-largest").textContent = `Its largest buffer has ${formatBytes(largest.bytes)} of ${
    formatBytes(largest.limit)
  } that a buffer may have.`;
  byId("plan-parts").replaceChildren(...parts.map(({ name, bytes }) => {
    const row = element("tr"), share = element("td"), bar = element("span", "", { class: "bar" });
    bar.style.width = `${Math.max(1, 100 * bytes / peakBytes)}%`;
    share.append(bar);
    row.append(element("th", name, { scope: "row" }), element("td", formatBytes(bytes), { class: "number" }), share);
    return row;
  }));
}

/** A run that can go on. */
export function keptShown(run: KeptFacts | null): void {
  byId("kept").hidden = run === null;
  if (!run) return;
  const { model, step, steps, bytes, wanted } = run, of = steps > 0 ? ` of ${formatCount(steps)}` : "";
  const files = wanted.length > 0 ? ` Its files were not copied: first choose ${wanted.join(" and ")} again.` : "";
  byId("kept-text").textContent = `A run of ${model} stopped at step ${formatCount(step)}${of}. It takes ${
    formatBytes(bytes)
  } of this browser's storage.${files} A new run replaces it.`;
}

/** Whether the run is saved. */
export function savingShown({ step, bytes, problem }: SavingFacts): void {
  byId("saving").textContent = step === null
    ? ""
    : `Saved at step ${formatCount(step)}, in ${
      formatBytes(bytes)
    } of this browser's storage. If this tab is closed, the run can go on from there.`;
  byId("saving-error").hidden = problem === null;
  byId("saving-error").textContent = problem ?? "";
}

/** The choices of a run that goes on. */
export function choicesShown({ sparsity, writesTexts, ...others }: Choices): void {
  byId("sparsity").value = String(Math.round(100 * sparsity));
  byId("sparsity-value").textContent = `${byId("sparsity").value} %`;
  byId("writesTexts").checked = writesTexts;
  for (const [id, value] of Object.entries(others)) byId(id).value = String(value);
}

/** The numbers of the last step. */
export function stepShown({ loss, expected, target, tokensPerSecond, secondsLeft, alarms }: StepFacts): void {
  byId("tile-loss").textContent = loss.toFixed(3);
  if (expected !== null) {
    byId("tile-sparsity").textContent = `${(100 * expected).toFixed(1)} %`;
    byId("tile-target").textContent = target === null ? "" : `target ${(100 * target).toFixed(1)} %`;
  }
  byId("tile-speed").textContent = formatCount(Math.round(tokensPerSecond));
  byId("tile-left").textContent = secondsLeft === null ? "–" : duration(secondsLeft);
  byId("alarms").hidden = alarms.length === 0;
  byId("alarms").replaceChildren(...alarms.map((text) => element("li", text)));
}

/** The figures so far. Their texts are escaped where they are drawn. */
export function figuresShown(figures: readonly DrawnFigure[]): void {
  byId("figures").innerHTML = figures.map(({ title, caption, svg }) =>
    `<figure><figcaption><strong>${title}</strong></figcaption>${svg}<details><summary>What it shows</summary><p>${caption}</p></details></figure>`
  ).join("");
}

/** What came out. */
export function resultShown({ tiles, files }: ResultFacts): void {
  byId("tiles").replaceChildren(...tiles.map(({ label, value, note }) => {
    const tile = element("div");
    tile.append(
      element("dt", label),
      element("dd", value, { class: "big" }),
      element("dd", note, { class: "small" }),
    );
    return tile;
  }));
  const notes: string[] = [];
  for (const { what, bytes, reason } of files) {
    const button = byId(`save-${what}`), isMissing = bytes === null && what !== "report";
    button.disabled = isMissing;
    byId(`size-${what}`).textContent = bytes === null ? "" : ` ${formatBytes(bytes)}`;
    if (isMissing) notes.push(`There is no GGUF: ${reason}.`);
  }
  byId("save-note").textContent = notes.join(" ");
}
