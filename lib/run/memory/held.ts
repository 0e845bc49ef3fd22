// In which types a model's matrices lie on the GPU, counted by running the program on a dry device.
import { openDryDevice } from "../../gpu/dry.ts";
import { type HeldMatrix, loadWeights } from "../../nn/weights.ts";
import type { WeightSource } from "../../spec/source.ts";
import type { PlannedAdapter } from "../contract.ts";
import { adapterFor, zeros } from "./plan.ts";

/** Matrices of the same type in the file and on the GPU. */
export interface HeldType extends Pick<HeldMatrix, "stored" | "lost"> {
  /** Their type on the GPU, as the file has it where they keep its blocks. */
  readonly held: string;
  /** How many. */
  readonly matrices: number;
  /** The name of the first. */
  readonly first: string;
}

/** The types of a model's matrices with a base of the file's blocks, most matrices first. */
export async function heldTypes(
  source: Pick<WeightSource, "spec" | "storedDtype">,
  { adapter }: { readonly adapter?: PlannedAdapter | undefined } = {},
): Promise<HeldType[]> {
  const groups = new Map<string, HeldType>();
  const onMatrix = ({ name, stored, dtype, lost }: HeldMatrix): void => {
    // The layout of q4 is that of q4_1.
    const held = dtype === "q4" && stored === "q4_1" ? stored : dtype, key = [stored, held, lost].join(" ");
    const { matrices = 0, first = name } = groups.get(key) ?? {};
    groups.set(key, { stored, held, lost, matrices: matrices + 1, first });
  };
  using device = openDryDevice(adapterFor({ adapter }));
  using _weights = await loadWeights(device, zeros(source.spec, (name) => source.storedDtype(name)), {
    baseDtype: "file",
    onMatrix,
  });
  return [...groups.values()].sort((one, other) => other.matrices - one.matrices);
}

const REASONS = {
  type: "no product reads these blocks",
  heads: "heads are padded",
  columns: "columns are cut",
  values: "values were changed",
} as const;

/** The types in words, such as "36 matrices as q8_0, 5 of q2_k as f16: no product reads these blocks". */
export function heldText(types: readonly HeldType[]): string {
  return types.map(({ stored, held, matrices, lost }) => {
    const count = `${matrices} ${matrices === 1 ? "matrix" : "matrices"}`;
    if (stored === held) return `${count} as ${held}`;
    return `${count} of ${stored} as ${held}${lost === null ? "" : ` (${REASONS[lost]})`}`;
  }).join(", ");
}
