/**
 * A model behind an OpenAI-compatible HTTP server.
 *
 * @module
 */

// Serving.
export { type ModelServer, serveModel, type ServeOptions } from "./serve.ts";
export type { ServeLimits } from "./limits.ts";
export type { RequestRecord } from "./handler.ts";
