// What the model card of a pruned model says of its run.
import type { OriginFile } from "../slice/export_options.ts";
import type { RunCard } from "../slice/model_card.ts";
import type { HeldoutLoss } from "./heldout_loss.ts";
import { stagesOf } from "./methods/names.ts";
import type { ResolvedOptions } from "./options/options.ts";
import type { PruneResult, SlicedModel } from "./result.ts";
import { sparsityBase } from "./size_goal.ts";

/** The card's facts, from the options and the outcome of a run. */
export function runCard(
  { options, origin, command, sliced, result, heldoutLoss }: {
    readonly options: ResolvedOptions;
    readonly origin: readonly OriginFile[];
    readonly command: string | null;
    readonly sliced: Pick<SlicedModel, "parameters">;
    readonly result: Pick<PruneResult, "sparsity">;
    readonly heldoutLoss: HeldoutLoss | null;
  },
): RunCard {
  const nameOf = (role: OriginFile["role"]): string | null => origin.find((file) => file.role === role)?.name ?? null;
  const { units, method, layout, batch, seq, seed, lora } = options, { before, after } = sliced.parameters;
  const base = sparsityBase(units) === "model" ? "the whole model" : "the layers' linear weights";
  const stages = stagesOf(options).filter(({ steps }) => steps > 0).map(({ stage, steps }) => `${stage} ${steps}`);
  const data = nameOf("data"), calibration = nameOf("calibration");
  return {
    base: nameOf("model"),
    command,
    facts: [
      ["parameters", `${shown(after)}, before pruning ${shown(before)}`],
      ["sparsity", `${(100 * result.sparsity.hard).toFixed(1)} % of ${base}`],
      ["method", `${method}: units ${units.join(", ")}; layout ${layout}`],
      [
        "training",
        `LoRA of rank ${lora.rank}; steps: ${stages.join(", ")}; batch ${batch}, ${seq} tokens, seed ${seed}`,
      ],
      ...(data === null ? [] : [["data", data] as const]),
      ...(calibration === null ? [] : [["calibration", calibration] as const]),
      ...(heldoutLoss
        ? [
          [
            "loss on held-out rows",
            `${heldoutLoss.after.toFixed(3)}, before pruning ${heldoutLoss.before.toFixed(3)} (${
              shown(heldoutLoss.labels)
            } tokens)`,
          ] as const,
        ]
        : []),
    ],
  };
}

/** A count with separators. */
function shown(count: number): string {
  return count.toLocaleString("en");
}
