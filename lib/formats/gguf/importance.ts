// How much errors of the columns of matrices count in a quantised GGUF.

/**
 * Importance of the columns of matrices, by canonical name: mean squares of their inputs, as in llama.cpp's importance matrix. A matrix that is not there
 * is quantised by its values alone.
 */
export type Importance = ReadonlyMap<string, Float32Array>;
