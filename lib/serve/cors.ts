// Cross-origin requests (https://fetch.spec.whatwg.org/#http-cors-protocol): which web pages may use the server, and the answer to their preflights.
import type { HttpRequest } from "./http.ts";
import { option, refuse } from "../core/errors.ts";

/** Seconds for which a browser keeps the answer to a preflight. */
const MAX_AGE = 600;
/** Headers of answers that a page's script may read in addition to the CORS-safelisted ones; OpenAI's client reads both. */
const EXPOSED = "retry-after, x-should-retry";

/** Throws `CompressoError("usage")` for what is neither "*" nor an origin. */
export function checkOrigin(cors: string | null): void {
  if (cors === null || cors === "*" || URL.parse(cors)?.origin === cors) return;
  refuse("usage", `cannot use ${option("cors", cors)}`, {
    rule: 'it is "*" or the origin of a page: scheme, host and port, such as http://localhost:5173',
    value: JSON.stringify(cors),
    fix: `give ${URL.parse(cors)?.origin ?? "an origin"}, or * for every page`,
  });
}

/** The answer to a preflight request; null for another request. */
export function preflight({ method, headers }: HttpRequest): Response | null {
  if (method !== "OPTIONS" || !headers.has("origin") || !headers.has("access-control-request-method")) return null;
  const isPrivate = headers.get("access-control-request-private-network") === "true";
  return new Response(null, {
    status: 204,
    headers: {
      "access-control-allow-methods": "GET, HEAD, POST",
      "access-control-allow-headers": headers.get("access-control-request-headers") ?? "authorization, content-type",
      "access-control-max-age": String(MAX_AGE),
      // Chrome asks for it where a page of the web reaches for this machine.
      ...(isPrivate ? { "access-control-allow-private-network": "true" } : {}),
    },
  });
}

/** The response with the headers that let a page of the allowed origin read it. */
export function withOrigin(response: Response, cors: string | null): Response {
  if (cors === null) return response;
  response.headers.set("access-control-allow-origin", cors);
  response.headers.set("access-control-expose-headers", EXPOSED);
  if (cors !== "*") response.headers.append("vary", "origin");
  return response;
}
