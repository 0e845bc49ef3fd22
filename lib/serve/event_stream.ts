// Server-sent events (https://html.spec.whatwg.org/#server-sent-events): a stream of JSON, its end and its errors.
import { errorBody, toApiError } from "./api_error.ts";

/**
 * A response that sends events as they come, and `[DONE]` at the end; an error is the last event. A client that reads
 * slowly keeps nobody waiting: events that it has not read are held in memory, which is megabytes for log-probabilities
 * of many tokens.
 */
export function eventStream(
  events: AsyncGenerator<unknown, void, undefined>,
  { onGone, describe }: {
    /** Called where the client goes before the end. */
    readonly onGone: () => void;
    /** The error that the client gets. */
    readonly describe: (error: unknown) => unknown;
  },
): Response {
  const encoder = new TextEncoder();
  let isGone = false;
  const body = new ReadableStream<Uint8Array>({
    start(controller): void {
      const send = (data: string): void => {
        if (!isGone) controller.enqueue(encoder.encode(`data: ${data}\n\n`));
      };
      const pump = async (): Promise<void> => {
        try {
          for await (const event of events) send(JSON.stringify(event));
          send("[DONE]");
        } catch (error) {
          send(JSON.stringify(errorBody(toApiError(describe(error)))));
        }
        if (!isGone) controller.close();
      };
      pump();
    },
    cancel(): void {
      isGone = true;
      onGone();
    },
  });
  return new Response(body, {
    headers: { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache" },
  });
}
