// Whether a run fits this GPU: the memory plan of the choices, and what would fit.
import { MEMORY_PARTS, type MemoryPart } from "../../lib/gpu/memory_parts.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { spelled } from "../../lib/core/errors.ts";
import { formatBytes } from "../../lib/report/numbers.ts";
import { adviseMemory, changeWords, fits } from "../../lib/run/memory/advice.ts";
import { adapterOf, planMemory } from "../../lib/run/memory/plan.ts";
import { memoryOptionsOf, resolveMemory, withFittingWidths } from "../../lib/run/options/resolve.ts";
import type { Choices, PlanFacts } from "../messages.ts";
import { spellField } from "./tell.ts";

/**
 * Plans the memory of a run with these choices.
 *
 * @throws CompressoError("usage") for choices out of range.
 */
export async function planOf(
  source: WeightSource,
  { batch, seq, baseDtype }: Choices,
  device: Device,
): Promise<PlanFacts> {
  const { spec } = source, storedDtype = (name: string): string => source.storedDtype(name);
  const asked = resolveMemory({ batch, seq }, spec);
  const run = { ...asked, rules: withFittingWidths(asked, spec, null) };
  const options = memoryOptionsOf(run, { baseDtype, storedDtype, adapter: adapterOf(device) });
  const plan = await planMemory(spec, options), isEnough = fits(plan, {});
  const advice = isEnough ? [] : await adviseMemory(spec, options, {});
  const [excess] = plan.excesses;
  const parts = (Object.entries(plan.parts) as [MemoryPart, number][]).filter(([, bytes]) => bytes > 0)
    .sort(([, a], [, b]) => b - a);
  return {
    peakBytes: plan.peakBytes,
    parts: parts.map(([part, bytes]) => ({ name: MEMORY_PARTS[part], bytes })),
    largest: plan.largestBuffer,
    refusal: excess ? `${excess.what}: ${excess.value ?? ""}` : null,
    advice: advice.map(({ options: change, peakBytes }) =>
      `${spelled(changeWords(change), spellField)} (${formatBytes(peakBytes)})`
    ),
  };
}
