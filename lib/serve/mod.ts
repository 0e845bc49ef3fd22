/**
 * Import this entry to serve a model over HTTP, compatible with OpenAI's API.
 *
 * @module
 */

// Serving.
export { type ModelServer, serveModel, type ServeOptions } from "./serve.ts";
export type { ServeLimits } from "./limits.ts";
export type { RequestRecord } from "./handler.ts";
