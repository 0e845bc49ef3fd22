// The part "decode": tokens per second of generation, dense and sliced, and of llama.cpp on the same file.
import { bytesOfToken } from "../../lib/bench/token_bytes.ts";
import type { Device } from "../../lib/gpu/device.ts";
import type { WeightSource } from "../../lib/spec/source.ts";
import { parameterCount } from "../../lib/spec/decoder.ts";
import { randomU32 } from "../../lib/core/random.ts";
import { loadModelFrom } from "../../lib/model/model.ts";
import { DTYPES, modelDtypes, type Scale } from "./cases.ts";
import { measureDecode } from "./decode.ts";
import { SPARSITIES } from "./files.ts";
import type { Machine } from "./machine.ts";
import type { Peers } from "./peers.ts";
import { randomSlice } from "./slicing.ts";
import { type Timing, typical } from "./timing.ts";

/** One model in one program. */
export interface DecodeRow {
  readonly program: string;
  readonly version: string;
  /** Storage of the weights. */
  readonly variant: string;
  readonly sparsity: number;
  readonly parameters: number;
  /** Of all tokens of a repeat. */
  readonly timing: Timing;
  readonly tokensPerSecond: number;
  /** Bytes of weights that one token reads, and as a share of what the adapter can stream; null for peers. */
  readonly bytesPerToken: number | null;
  readonly share: number | null;
  /** Tokens a second over those of the dense model, and its parameters over ours; 1 where nothing is cut. */
  readonly speedup: number | null;
  readonly shrinkage: number | null;
  readonly note?: string;
}

/** The part's result. */
export interface DecodeResult {
  readonly model: string;
  readonly prompt: number;
  readonly tokens: number;
  /** Ours first. */
  readonly rows: readonly DecodeRow[];
}

const LENGTHS: Readonly<Record<Scale, { readonly prompt: number; readonly tokens: number; readonly repeats: number }>> =
  {
    full: { prompt: 64, tokens: 64, repeats: 5 },
    quick: { prompt: 16, tokens: 16, repeats: 3 },
    tiny: { prompt: 2, tokens: 4, repeats: 1 },
  };

/** Decodes the dense and the sliced model with each dtype, and the file in llama.cpp if it is one of its own. */
export async function measureDecoding(
  device: Device,
  { source, name, ggufPath, machine, scale, peers, log }: {
    readonly source: WeightSource;
    readonly name: string;
    /** Null where the model is no GGUF file. */
    readonly ggufPath: string | null;
    readonly machine: Machine;
    readonly scale: Scale;
    readonly peers: Peers;
    readonly log: (line: string) => void;
  },
): Promise<DecodeResult> {
  const lengths = LENGTHS[scale], { tokens, repeats } = lengths, { vocab } = source.spec;
  const prompt = Array.from({ length: lengths.prompt }, (_, index) => 3 + randomU32(1, index) % (vocab - 3));
  const rows: DecodeRow[] = [];
  const add = (
    row: Omit<DecodeRow, "tokensPerSecond" | "share" | "speedup" | "shrinkage">,
    dense: DecodeRow | null,
  ): DecodeRow => {
    const tokensPerSecond = tokens / typical(machine.clock, row.timing);
    const speedup = dense ? tokensPerSecond / dense.tokensPerSecond : null;
    const share = row.bytesPerToken === null ? null : row.bytesPerToken * tokensPerSecond / machine.peaks.bytes;
    const made = {
      ...row,
      tokensPerSecond,
      share,
      speedup,
      shrinkage: dense ? dense.parameters / row.parameters : null,
    };
    rows.push(made);
    return made;
  };
  const llama = async (): Promise<void> => {
    if (!ggufPath || peers.available(["llama.cpp"]).length === 0) return;
    log("decode: llama.cpp");
    // Its threads spin while they wait for each other, which other load on the machine makes long. One alone does not; by CPU time / cores
    // it then counts as if all cores had scaled perfectly, which is in its favor.
    const { clock } = machine, threads = clock.kind === "cpu" ? { threads: 1 } : {};
    const work = { name: "decode", kind: "decode" as const, model: ggufPath, prompt, tokens, ...threads };
    for (const { peer, version, timing, note } of await peers.run("llama.cpp", [work], { repeats })) {
      const parameters = parameterCount(source.spec);
      const row = {
        program: peer,
        version,
        variant: "as the file",
        sparsity: 0,
        parameters,
        bytesPerToken: null,
        timing,
      };
      const scaled = clock.kind === "cpu" ? `; times ${clock.cores} cores, as if they scaled perfectly` : "";
      add({ ...row, note: `${note ?? ""}${scaled}` }, null);
    }
  };
  for (const dtype of modelDtypes(scale)) {
    let dense: DecodeRow | null = null;
    for (const sparsity of [0, ...SPARSITIES]) {
      log(`decode: ${name}, ${dtype}${sparsity > 0 ? `, cut by ${100 * sparsity} %` : ""}`);
      const sliced = randomSlice(source, { sparsity });
      using model = await loadModelFrom(sliced, { device, baseDtype: dtype });
      const timing = await measureDecode(model, { prompt, tokens, repeats });
      const parameters = parameterCount(sliced.spec);
      const row = add({
        program: "ours",
        version: "",
        variant: dtype,
        sparsity,
        parameters,
        bytesPerToken: bytesOfToken(model),
        timing,
      }, dense);
      dense ??= row;
    }
    if (dtype === DTYPES[0]) await llama();
  }
  return {
    model: name,
    prompt: prompt.length,
    tokens,
    rows: rows.toSorted((a, b) => Number(a.program !== "ours") - Number(b.program !== "ours")),
  };
}
