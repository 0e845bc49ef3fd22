// Types of the part of jax-js 0.1 that the benchmark uses, so that type checks need no package.

/** An array of jax-js. Each use as an argument or `this` consumes one reference; `ref` adds one. */
export interface JaxArray {
  readonly ref: JaxArray;
  readonly shape: number[];
  add(other: JaxArray | number): JaxArray;
  sub(other: JaxArray | number): JaxArray;
  mul(other: JaxArray | number): JaxArray;
  div(other: JaxArray | number): JaxArray;
  neg(): JaxArray;
  sum(axis?: number, options?: { readonly keepdims?: boolean }): JaxArray;
  prod(axis?: number): JaxArray;
  mean(axis?: number, options?: { readonly keepdims?: boolean }): JaxArray;
  reshape(shape: readonly number[]): JaxArray;
  transpose(permutation?: readonly number[]): JaxArray;
  slice(...index: (number | readonly [] | readonly [number, number])[]): JaxArray;
  data(): Promise<Float32Array>;
  dispose(): void;
}

/** Nested arrays and objects of arrays, as JAX's pytrees. */
export type Tree = JaxArray | readonly Tree[] | { readonly [key: string]: Tree };

/** The module `@jax-js/jax`. */
export interface JaxModule {
  init(...devices: string[]): Promise<string[]>;
  defaultDevice(device: string): string;
  blockUntilReady<T extends Tree>(tree: T): Promise<T>;
  jit<A extends readonly Tree[], R extends Tree>(f: (...args: A) => R): ((...args: A) => R) & { dispose(): void };
  valueAndGrad<P extends Tree, V extends Tree>(
    f: (parameters: P) => V,
    options: { readonly hasAux: true },
  ): (parameters: P) => [V, P];
  makeJaxpr<A extends readonly Tree[], R extends Tree>(
    f: (...args: A) => R,
  ): (...args: A) => { readonly jaxpr: unknown };
  readonly tree: {
    map<T extends Tree>(f: (...leaves: JaxArray[]) => JaxArray, tree: T, ...rest: T[]): T;
    leaves(tree: Tree): JaxArray[];
    ref<T extends Tree>(tree: T): T;
    dispose(tree: Tree): void;
  };
  readonly lax: {
    dot(
      a: JaxArray,
      b: JaxArray,
      dimensions: { readonly lhsContractingDims: readonly number[]; readonly rhsContractingDims: readonly number[] },
    ): JaxArray;
    stopGradient(x: JaxArray): JaxArray;
  };
  readonly numpy: {
    array(
      values: Float32Array | Int32Array | Uint32Array | readonly number[],
      options?: { readonly shape?: readonly number[] },
    ): JaxArray;
    zeros(shape: readonly number[]): JaxArray;
    ones(shape: readonly number[]): JaxArray;
    full(shape: readonly number[], value: number): JaxArray;
    take(x: JaxArray, indices: JaxArray, axis: number): JaxArray;
    concatenate(arrays: readonly JaxArray[], axis: number): JaxArray;
    repeat(x: JaxArray, repeats: number, axis: number): JaxArray;
    clip(x: JaxArray, min: number, max: number): JaxArray;
    sqrt(x: JaxArray): JaxArray;
    log(x: JaxArray): JaxArray;
  };
  readonly nn: {
    silu(x: JaxArray): JaxArray;
    sigmoid(x: JaxArray): JaxArray;
    logsumexp(x: JaxArray, axis: number): JaxArray;
    dotProductAttention(q: JaxArray, k: JaxArray, v: JaxArray, options: { readonly isCausal: boolean }): JaxArray;
  };
  readonly random: {
    key(seed: number): JaxArray;
    split(key: JaxArray, count: number): JaxArray;
    normal(key: JaxArray, shape: readonly number[]): JaxArray;
    uniform(key: JaxArray, shape: readonly number[]): JaxArray;
  };
}
