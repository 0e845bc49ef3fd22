// The part "kernels": the speed of every kernel at the sizes of a real model, alternating with other libraries.
import type { Device } from "../../lib/gpu/device.ts";
import { attentionGroups } from "./attention.ts";
import { type KernelGroup, measureGroup, type Scale } from "./cases.ts";
import { elementwiseGroups } from "./elementwise.ts";
import type { Machine } from "./machine.ts";
import type { PeerName, PeerResult, Peers } from "./peers.ts";
import { loraGroups, productGroups } from "./products.ts";
import { type Effort, joined, type Timing, typical } from "./timing.ts";

/** One kernel as one program ran it. */
export interface KernelRow {
  readonly group: string;
  readonly name: string;
  /** "ours", or the peer. */
  readonly program: string;
  /** The peer's version; "" for ours. */
  readonly version: string;
  /** Storage of the weights; "f32" for peers. */
  readonly variant: string;
  readonly unit: "flops" | "bytes";
  readonly work: number;
  readonly timing: Timing;
  /** Median seconds by the machine's clock. */
  readonly typicalSeconds: number;
  /** Operations or bytes a second, by the median. */
  readonly rate: number;
  /** Share of the adapter's measured peak; of a peer too. */
  readonly share: number;
  readonly note?: string;
}

const PRODUCT_PEERS: readonly PeerName[] = ["torch", "jax-js", "tfjs"];

/** Measures all kernels whose group or name contains the filter. */
export async function measureKernels(
  device: Device,
  { machine, effort, scale, peers, filter, log }: {
    readonly machine: Machine;
    readonly effort: Effort;
    readonly scale: Scale;
    readonly peers: Peers;
    readonly filter: string;
    readonly log: (line: string) => void;
  },
): Promise<KernelRow[]> {
  const groups = [productGroups, loraGroups, attentionGroups, elementwiseGroups].flatMap((make) => make(scale));
  const rows: KernelRow[] = [];
  for (const group of groups.map((all) => filtered(all, filter))) {
    if (group.cases.length === 0) continue;
    log(`kernels: ${group.name}`);
    const names = group.peerCases.length > 0 ? peers.available(PRODUCT_PEERS) : [];
    const answers: PeerResult[] = [];
    const timings = await measureGroup(device, group, {
      effort,
      rounds: names.length + 1,
      between: async (round) => {
        const name = names[round];
        if (name) answers.push(...await peers.run(name, group.peerCases, { repeats: effort.repeats }));
      },
    });
    group.cases.forEach(({ name, variant, unit, work }, index) => {
      const timing = timings[index] ?? joined();
      rows.push(row(machine, { group: group.name, name, program: "ours", version: "", variant, unit, work, timing }));
    });
    for (const { peer, version, case: name, timing, note } of answers) {
      const same = group.cases.find((kernel) => kernel.name === name);
      if (!same) continue;
      const { unit, work } = same;
      const made = row(machine, {
        group: group.name,
        name,
        program: peer,
        version,
        variant: "f32",
        unit,
        work,
        timing,
      });
      rows.push(note === undefined ? made : { ...made, note });
    }
  }
  return rows;
}

function filtered(group: KernelGroup, filter: string): KernelGroup {
  const isWanted = ({ name, variant }: { readonly name: string; readonly variant?: string }): boolean =>
    `${group.name} ${name} ${variant ?? ""}`.includes(filter);
  const cases = group.cases.filter(isWanted), names = new Set(cases.map(({ name }) => name));
  return { ...group, cases, peerCases: group.peerCases.filter(({ name }) => names.has(name)) };
}

function row(
  { clock, peaks }: Machine,
  kernel: Omit<KernelRow, "typicalSeconds" | "rate" | "share" | "note">,
): KernelRow {
  const typicalSeconds = typical(clock, kernel.timing), rate = kernel.work / typicalSeconds;
  return { ...kernel, typicalSeconds, rate, share: rate / peaks[kernel.unit] };
}
