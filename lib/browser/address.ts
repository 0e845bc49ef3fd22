// A file at an address as a source of bytes: it is read by ranges where the server gives them, and else whole.
import { type CompressoError, refusal } from "../core/errors.ts";
import { memorySource } from "../files/memory.ts";
import { type ByteSource, endsEarly } from "../files/system.ts";

/** Bytes that are fetched at least: headers are read in small pieces. */
const LEAST_RANGE = 1 << 20;

/**
 * Opens a file at an address. A server that answers ranges is asked for the bytes that are read, and another one for the
 * whole file at once.
 *
 * @throws CompressoError("input") if the server gives no file.
 */
export async function addressSource(name: string, url: URL): Promise<ByteSource> {
  const { response, range } = await ask(url, 0, LEAST_RANGE), first = await bytesOf(url, response);
  if (!range || range.total <= first.length) return memorySource(name, first);
  const { total } = range;
  let kept = { start: 0, bytes: first };
  return {
    name,
    size: total,
    async read(target, offset): Promise<void> {
      const end = offset + target.length;
      if (end > total) throw endsEarly(name, end, total);
      if (offset < kept.start || end > kept.start + kept.bytes.length) {
        const bytes = await rangeOf(url, { start: offset, end: Math.max(end, offset + LEAST_RANGE), total });
        if (target.length > LEAST_RANGE) return target.set(bytes);
        kept = { start: offset, bytes };
      }
      target.set(kept.bytes.subarray(offset - kept.start, end - kept.start));
    },
  };
}

async function rangeOf(
  url: URL,
  { start, end, total }: { readonly start: number; readonly end: number; readonly total: number },
): Promise<Uint8Array<ArrayBuffer>> {
  const last = Math.min(end, total), { response, range } = await ask(url, start, last);
  if (range?.start === start && range.total === total) {
    const bytes = await bytesOf(url, response);
    if (bytes.length === last - start) return bytes;
  } else await response.body?.cancel();
  throw refused(url, { rule: "the file is as it was when it was opened", value: "the server gives other bytes" });
}

/** The answer to a request of bytes, and the range that it has; null for the whole file. */
async function ask(url: URL, start: number, end: number): Promise<{
  readonly response: Response;
  readonly range: { readonly start: number; readonly total: number } | null;
}> {
  const response = await answerOf(url, { range: `bytes=${start}-${end - 1}` });
  if (response.status !== 206) return { response, range: null };
  const [, from, total] = /^bytes (\d+)-\d+\/(\d+)$/.exec(response.headers.get("content-range") ?? "") ?? [];
  if (from !== undefined && total !== undefined) return { response, range: { start: +from, total: +total } };
  // A server of another origin may hide the size: the whole file is asked for.
  await response.body?.cancel();
  return { response: await answerOf(url, {}), range: null };
}

async function answerOf(url: URL, headers: Readonly<Record<string, string>>): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { headers });
  } catch (cause) {
    throw refused(url, { rule: "the server answers", value: String(cause), cause });
  }
  if (response.ok) return response;
  await response.body?.cancel();
  throw refused(url, { rule: "the server gives the file", value: response.status });
}

async function bytesOf(url: URL, response: Response): Promise<Uint8Array<ArrayBuffer>> {
  try {
    return new Uint8Array(await response.arrayBuffer());
  } catch (cause) {
    throw refused(url, { rule: "the server gives all of the file", value: String(cause), cause });
  }
}

function refused(
  url: URL,
  reasons: { readonly rule: string; readonly value: string | number; readonly cause?: unknown },
): CompressoError {
  return refusal("input", `cannot read ${url.href}`, reasons);
}
