// How faithful a pruned model is to the dense one, in words for people.
import type { Agreement } from "../eval/agreement.ts";

/** Such as "keeps the dense model's first choice at 91.2 % of 3,210 tokens; mean KL 0.081 ± 0.002". */
export function fidelityText({ kl, klError, top1, tokens, dropped }: Agreement): string {
  const error = Number.isFinite(klError) ? ` ± ${klError.toFixed(3)}` : "";
  const cut = dropped > 0 ? `; ${percent(dropped)} of the dense model's choices are cut tokens` : "";
  return `keeps the dense model's first choice at ${percent(top1)} of ${tokens.toLocaleString("en")} tokens; mean KL ${
    kl.toFixed(3)
  }${error}${cut}`;
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}
