// Tracks which units are kept, and the size of the model, while units are cut and restored.
import { type DecoderSpec, type LayerSpec, withCounts } from "../spec/decoder.ts";
import { cheapestGroupSize } from "./head_groups.ts";
import { livingLayers } from "./rules.ts";
import { placeOf, type Selection, type UnitTable } from "./table.ts";

/** A model size as a sum over layers, such as parameters or file bytes. */
export interface Measure {
  /** Size of one layer at this hidden size. */
  layer(layer: LayerSpec, hidden: number): number;
  /** Size of embedding, final norm and head. */
  rest(hidden: number): number;
}

type PartName = "attention" | "ffn";

/** The kept units with exact counts; initially all units are kept. */
export class CutState {
  readonly #table: UnitTable;
  readonly #measure: Measure | null;
  /** 1 for each kept unit. */
  readonly kept: Selection;
  /** Number of kept heads of each KV group whose heads are units. */
  readonly #alive: Uint32Array;
  /** Kept parameters per hidden dim, and kept heads and columns, of each layer, whether or not its gate is kept. */
  readonly #inside: Float64Array;
  readonly #width: Readonly<Record<PartName, Uint32Array>>;
  readonly #gate: Uint8Array;
  #perDim: number;
  #hidden: number;
  #livingLayers: number;
  /** Number of heads and columns of the kept layers. */
  readonly #living: Record<PartName, number>;
  /** Measured size of each layer; NaN marks a value to recompute. */
  readonly #sizes: Float64Array;

  constructor(table: UnitTable, measure: Measure | null = null) {
    const { spec: { layers, hidden }, rules } = table;
    this.#table = table;
    this.#measure = measure;
    this.kept = new Uint8Array(table.count).fill(1);
    this.#alive = Uint32Array.from(table.groups, (group) => group.count);
    this.#inside = Float64Array.from(table.layers, ({ attention, ffn }) => attention.total + ffn.total);
    this.#width = {
      attention: Uint32Array.from(layers, (layer) => layer.heads),
      ffn: Uint32Array.from(layers, (layer) => layer.ffn),
    };
    this.#gate = new Uint8Array(layers.length).fill(1);
    this.#perDim = this.#inside.reduce((sum, size) => sum + size, rules.rest);
    this.#hidden = hidden;
    this.#livingLayers = livingLayers(table.spec);
    const sum = (counts: Uint32Array): number => counts.reduce((total, count) => total + count, 0);
    this.#living = { attention: sum(this.#width.attention), ffn: sum(this.#width.ffn) };
    this.#sizes = new Float64Array(layers.length).fill(NaN);
  }

  /**
   * Whether a kept unit may be cut. Its part must keep its minimum width. At least one hidden dim, one layer and, over
   * all kept layers, one head and one column are kept. If layers are units with a minimum number, no layer may be
   * emptied unit by unit: it would still count as kept.
   */
  allows(unit: number): boolean {
    const { ranges, rules: { minimum } } = this.#table, place = placeOf({ ranges }, unit);
    if (!this.kept[unit]) return false;
    if (place === "hidden") return this.#hidden - 1 >= Math.max(1, minimum.hidden);
    const layer = this.#table.layer[unit] ?? 0;
    if (!this.#gate[layer]) return false;
    if (place === "layers") {
      return this.#livingLayers - 1 >= Math.max(1, minimum.layers) &&
        this.#spares("attention", this.#widthOf("attention", layer)) &&
        this.#spares("ffn", this.#widthOf("ffn", layer));
    }
    const slots = this.#table.slotCount[unit] ?? 0;
    const left = this.#widthOf("attention", layer) + this.#widthOf("ffn", layer) - slots;
    const isEmpty = left === 0 && !this.#table.spec.layers[layer]?.conv;
    if (isEmpty && minimum.layers > 0 && (this.#table.layers[layer]?.gate ?? -1) >= 0) return false;
    const least = this.#table.layers[layer]?.[place].minimum ?? 0;
    return this.#widthOf(place, layer) - slots >= least && this.#spares(place, slots);
  }

  drop(unit: number): void {
    this.#change(unit, -1);
  }

  restore(unit: number): void {
    this.#change(unit, 1);
  }

  /** Sparsity: 1 − kept parameters / total. */
  sparsity(): number {
    const { square, spec: { hidden }, total } = this.#table;
    return 1 - (this.#perDim - square * (hidden - this.#hidden)) * this.#hidden / total;
  }

  /** Cut share of the linear weights of one layer, not counting hidden dims. */
  layerSparsity(layer: number): number {
    const part = this.#table.layers[layer], total = (part?.attention.total ?? 0) + (part?.ffn.total ?? 0);
    return total > 0 ? 1 - (this.#gate[layer] ? this.#inside[layer] ?? 0 : 0) / total : 0;
  }

  /** Hidden size and layers of the sliced model. */
  shape(): Pick<DecoderSpec, "hidden" | "layers"> {
    return { hidden: this.#hidden, layers: this.#table.spec.layers.map((_, index) => this.#layerShape(index)) };
  }

  /** Measured size of the sliced model. */
  size(): number {
    const measure = this.#measure;
    if (!measure) throw new Error("the cut state has no measure");
    let sum = measure.rest(this.#hidden);
    for (let layer = 0; layer < this.#sizes.length; layer++) {
      let size = this.#sizes[layer] ?? NaN;
      if (Number.isNaN(size)) this.#sizes[layer] = size = measure.layer(this.#layerShape(layer), this.#hidden);
      sum += size;
    }
    return sum;
  }

  #change(unit: number, sign: 1 | -1): void {
    const { cost, slotCount, groupOf, groups } = this.#table, place = placeOf(this.#table, unit);
    this.kept[unit] = sign > 0 ? 1 : 0;
    if (place === "hidden") {
      this.#hidden += sign;
      this.#sizes.fill(NaN);
      return;
    }
    const layer = this.#table.layer[unit] ?? 0;
    this.#sizes[layer] = NaN;
    if (place === "layers") {
      this.#gate[layer] = sign > 0 ? 1 : 0;
      this.#perDim += sign * (this.#inside[layer] ?? 0);
      this.#livingLayers += sign;
      this.#living.attention += sign * this.#widthOf("attention", layer);
      this.#living.ffn += sign * this.#widthOf("ffn", layer);
      return;
    }
    let change = cost[unit] ?? 0;
    const index = groupOf[unit] ?? -1, group = groups[index];
    if (group) {
      const before = this.#alive[index] ?? 0, alive = before + sign;
      this.#alive[index] = alive;
      // K and V are removed with the last head of their group and restored with the first.
      if (Math.min(before, alive) === 0) change += group.cost;
    }
    const slots = sign * (slotCount[unit] ?? 0);
    this.#inside[layer] = (this.#inside[layer] ?? 0) + sign * change;
    this.#width[place][layer] = this.#widthOf(place, layer) + slots;
    if (!this.#gate[layer]) return;
    this.#perDim += sign * change;
    this.#living[place] += slots;
  }

  /** Whether this many heads or columns may be cut without removing the last one of all layers. */
  #spares(name: PartName, slots: number): boolean {
    return slots === 0 || this.#living[name] > slots;
  }

  #widthOf(name: PartName, layer: number): number {
    return this.#width[name][layer] ?? 0;
  }

  /**
   * Counts of a layer after `sliceModel`, which makes groups of different lengths equal in the way with the fewest
   * parameters.
   */
  #layerShape(index: number): LayerSpec {
    const layer = this.#table.spec.layers[index], part = this.#table.layers[index];
    if (!layer || !part || !this.#gate[index]) return { heads: 0, kvHeads: 0, ffn: 0 };
    const heads = this.#widthOf("attention", index), ffn = this.#widthOf("ffn", index);
    if (heads === 0) return withCounts(layer, { heads: 0, kvHeads: 0, ffn });
    const { firstGroup, groupCount } = part.attention;
    if (groupCount === 0) {
      return withCounts(layer, { heads, kvHeads: heads / (layer.heads / layer.kvHeads), ffn });
    }
    const lengths = [...this.#alive.subarray(firstGroup, firstGroup + groupCount)].filter((alive) => alive > 0);
    const size = cheapestGroupSize([lengths]), kvHeads = lengths.reduce((sum, n) => sum + Math.ceil(n / size), 0);
    return withCounts(layer, { heads: kvHeads * size, kvHeads, ffn });
  }
}
