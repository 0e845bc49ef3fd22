// The body of a request: bytes within a limit, JSON, and fields that a schema checks.
import { type z } from "../core/packages.ts";
import type { HttpRequest } from "./http.ts";
import { ApiError, badRequest } from "./api_error.ts";

/** Reads a JSON body of at most `most` bytes. Throws `ApiError` 415, 413 or 400, or the signal's reason. */
export async function readJsonBody(
  request: HttpRequest,
  { most, signal }: { readonly most: number; readonly signal: AbortSignal },
): Promise<unknown> {
  // A web page in the user's browser may post text to any address without asking, but not JSON.
  const type = request.headers.get("content-type")?.split(";")[0]?.trim().toLowerCase();
  if (type !== "application/json") {
    throw new ApiError({ status: 415, message: "the content type of a request is application/json" });
  }
  const bytes = await readBytes(request, { most, signal });
  let text = "";
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw badRequest("the body is not UTF-8");
  }
  try {
    return JSON.parse(text);
  } catch (error) {
    throw badRequest(`the body is not JSON: ${error instanceof Error ? error.message : String(error)}`);
  }
}

/** Checks fields by a schema. Throws `ApiError` 400 that names the first field at fault. */
export function parseFields<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  if (issue?.code === "unrecognized_keys") {
    const name = [...issue.path, issue.keys[0] ?? ""].join(".");
    throw badRequest(`this server knows no parameter '${name}'`, { param: name, code: "unknown_parameter" });
  }
  const param = issue && issue.path.length > 0 ? issue.path.join(".") : null;
  throw badRequest(`${param === null ? "the body" : `'${param}'`}: ${issue?.message ?? "invalid"}`, {
    param,
    code: "invalid_value",
  });
}

async function readBytes(
  { body, headers }: HttpRequest,
  { most, signal }: { readonly most: number; readonly signal: AbortSignal },
): Promise<Uint8Array> {
  if (Number(headers.get("content-length") ?? 0) > most) throw tooLarge(most);
  const parts: Uint8Array[] = [];
  let length = 0;
  const reader = body?.getReader();
  // A read that nobody answers, as of a client that sends no more, must not outlast the request's time.
  const onAbort = (): void => void reader?.cancel(signal.reason).catch(() => {});
  signal.addEventListener("abort", onAbort);
  try {
    while (reader) {
      signal.throwIfAborted();
      const { done, value } = await reader.read();
      if (done) break;
      length += value.length;
      if (length > most) {
        await reader.cancel();
        throw tooLarge(most);
      }
      parts.push(value);
    }
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

function tooLarge(most: number): ApiError {
  return new ApiError({
    status: 413,
    message: `the body is larger than ${most} bytes`,
    code: "request_too_large",
  });
}
