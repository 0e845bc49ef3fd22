// A plan that keeps what it was given.
import type { Kernel } from "../../../lib/gpu/kernel.ts";
import { type Bound, Plan } from "../../../lib/gpu/plan.ts";

/** A plan with the names of its kernels, in order. */
export class WatchedPlan extends Plan {
  readonly names: string[] = [];

  override dispatch(kernel: Kernel, bound: readonly Bound[], options: Parameters<Plan["dispatch"]>[2]): void {
    this.names.push(kernel.name);
    super.dispatch(kernel, bound, options);
  }
}
