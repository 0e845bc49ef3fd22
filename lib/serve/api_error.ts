// Errors as clients get them, in OpenAI's shape: statuses, types and codes, without inner details.
import { CompressoError } from "../core/errors.ts";

/** The parts of an error that a client gets. */
export interface ApiErrorParts {
  /** HTTP status. */
  readonly status: number;
  readonly message: string;
  /** OpenAI's class of errors. Default: "invalid_request_error" below 500, else "server_error". */
  readonly type?: string;
  /** Field of the request that is at fault. */
  readonly param?: string | null;
  /** Word for programs. */
  readonly code?: string | null;
  /** Methods that the address takes. */
  readonly allow?: string;
  /** Seconds after which to try again. */
  readonly retryAfter?: number;
}

/** A request that cannot be answered. */
export class ApiError extends Error {
  override readonly name = "ApiError";
  readonly parts: ApiErrorParts;

  constructor(parts: ApiErrorParts, options?: ErrorOptions) {
    super(parts.message, options);
    this.parts = parts;
  }
}

/** The body of an error: `{ error: { message, type, param, code } }`. */
export function errorBody({ parts }: ApiError): { readonly error: Readonly<Record<string, string | null>> } {
  const { status, message, param = null, code = null } = parts;
  const type = parts.type ?? (status < 500 ? "invalid_request_error" : "server_error");
  return { error: { message, type, param, code } };
}

/** The response of an error. */
export function errorResponse(error: ApiError): Response {
  const { status, retryAfter, allow } = error.parts;
  const headers = {
    ...(allow === undefined ? {} : { allow }),
    ...(status === 401 ? { "www-authenticate": "Bearer" } : {}),
    ...(retryAfter === undefined ? {} : { "retry-after": String(retryAfter) }),
    // OpenAI's clients try a 408 again of themselves, but what has taken too long once will do so again.
    ...(status === 408 ? { "x-should-retry": "false" } : {}),
  };
  return Response.json(errorBody(error), { status, headers });
}

/** Any error as an {@link ApiError}. Messages of a `CompressoError` are passed on unless it is "aborted"; other errors get a general one. */
export function toApiError(error: unknown): ApiError {
  if (error instanceof ApiError) return error;
  if (error instanceof CompressoError && (error.code === "input" || error.code === "usage")) {
    return new ApiError({ status: 400, message: error.message }, { cause: error });
  }
  if (error instanceof CompressoError && error.code !== "aborted") {
    return new ApiError({ status: 500, message: error.message, code: error.code }, { cause: error });
  }
  return new ApiError({ status: 500, message: "the server failed to answer" }, { cause: error });
}

/** A request without a usable field. */
export function badRequest(message: string, { param = null, code = null }: {
  readonly param?: string | null;
  readonly code?: string | null;
} = {}): ApiError {
  return new ApiError({ status: 400, message, param, code });
}
