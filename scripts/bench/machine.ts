// Determines what the figures were measured on: adapter, driver, system, versions, peaks.
import { cpus, totalmem } from "node:os";
import type { AdapterFacts } from "../../lib/gpu/types.ts";
import type { Device } from "../../lib/gpu/device.ts";
import { type Peaks } from "./peaks.ts";
import type { Clock } from "./timing.ts";

/** Everything that is known of the machine. */
export interface Machine {
  readonly adapter: AdapterFacts;
  /** Driver as Vulkan's tools report it; null where they are not installed. */
  readonly driver: string | null;
  /** API below WebGPU. */
  readonly backend: string;
  readonly features: readonly string[];
  readonly deno: string;
  readonly system: string;
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly clock: Clock;
  readonly peaks: Peaks;
}

/** Describes the machine. */
export async function describeMachine(
  device: Device,
  { clock, peaks }: { readonly clock: Clock; readonly peaks: Peaks },
): Promise<Machine> {
  return {
    adapter: device.facts,
    driver: await driver(device),
    backend: backend(),
    features: [...device.features].sort(),
    deno: Deno.version.deno,
    system: `${Deno.build.os} ${Deno.osRelease()} ${Deno.build.arch}`,
    cpu: cpus()[0]?.model ?? "unknown",
    cores: clock.cores,
    memoryBytes: totalmem(),
    clock,
    peaks,
  };
}

/** The clock of an adapter: CPU time where a CPU runs the shaders. */
export function clockOf({ facts }: Device): Clock {
  return { kind: facts.isCpu ? "cpu" : "wall", cores: navigator.hardwareConcurrency };
}

/** Commit of the checkout with "+" for changes on top; null outside of one. */
export async function commit(): Promise<string | null> {
  const hash = await output("git", ["rev-parse", "--short=12", "HEAD"]);
  if (hash === null) return null;
  return hash + (await output("git", ["status", "--porcelain", "--untracked-files=no"]) ? "+" : "");
}

function backend(): string {
  const wanted = Deno.env.get("DENO_WEBGPU_BACKEND");
  if (wanted) return wanted;
  return { darwin: "Metal", windows: "DirectX 12 or Vulkan" }[Deno.build.os as string] ?? "Vulkan";
}

async function driver({ facts }: Device): Promise<string | null> {
  const summary = await output("vulkaninfo", ["--summary"]);
  const blocks = summary?.split(/^GPU\d+:$/m) ?? [];
  const block = blocks.find((text) => text.includes(facts.description));
  const field = (name: string): string => new RegExp(`^\\s*${name}\\s*= (.*)$`, "m").exec(block ?? "")?.[1] ?? "";
  return block ? `${field("driverName")} ${field("driverInfo")}`.trim() : null;
}

async function output(command: string, args: readonly string[]): Promise<string | null> {
  try {
    const { success, stdout } = await new Deno.Command(command, { args: [...args], stderr: "null" }).output();
    return success ? new TextDecoder().decode(stdout).trim() : null;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw error;
  }
}
