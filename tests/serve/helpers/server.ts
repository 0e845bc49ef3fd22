// Starts servers on small models, some with unusual properties, and sends requests to them.
import { type Device, openDevice } from "../../../lib/gpu/device.ts";
import { DEMO, openModelFiles } from "../../../lib/local/open_model.ts";
import type { WeightSource } from "../../../lib/spec/source.ts";
import { createTokenizer, type Tokenizer } from "../../../lib/text/tokenizer.ts";
import { loadModelFrom, type Model } from "../../../lib/model/model.ts";
import { type ModelServer, serveModel, type ServeOptions } from "../../../lib/serve/serve.ts";
import { randomSource, SPEC } from "../../formats/models.ts";
import { type FixtureName, tokenizerOf } from "../../text/fixtures.ts";

/** Name of the models that are served. */
export const NAME = "tiny";

const TEMPLATE =
  "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}";

/** A server with its model. */
export interface Served extends AsyncDisposable {
  readonly server: ModelServer;
  readonly model: Model;
  /** Sends fields as JSON; the signal is the client's. */
  post(path: string, fields: unknown, options?: PostOptions): Promise<Response>;
}

/** Options of {@link Served.post}. */
export interface PostOptions {
  readonly signal?: AbortSignal;
  readonly headers?: Readonly<Record<string, string>>;
}

/**
 * Serves the demo, with a chat template that it does not have of itself. Without `template` it chats in its own style,
 * or if `style` is false not at all. An `endless` one never ends a text, so that work lasts as long as a
 * test needs it to.
 */
export async function serveDemo(
  options: ServeOptions & { readonly endless?: boolean; readonly template?: boolean; readonly style?: boolean } = {},
): Promise<Served> {
  const { endless = false, template = true, style = true, ...own } = options;
  const { source, tokenizer } = await openModelFiles(DEMO);
  if (!tokenizer) throw new Error("the demo has a tokenizer");
  const { json, config: { compresso_style, ...others } } = tokenizer,
    config = style ? { ...others, compresso_style } : others;
  return await serve(
    endless ? { ...source, spec: { ...source.spec, eosIds: [] } } : source,
    createTokenizer(json, { config, chatTemplate: template ? TEMPLATE : null }),
    own,
  );
}

/** Serves a model with random weights that speaks a fixture's tokens and never ends a text. */
export async function serveTalker(name: FixtureName): Promise<Served> {
  const tokenizer = await tokenizerOf(name);
  const spec = { ...SPEC, vocab: tokenizer.vocabSize, maxPosition: 400, bosId: null, eosIds: [] };
  return await serve(randomSource(spec), tokenizer, {});
}

async function serve(source: WeightSource, tokenizer: Tokenizer, own: ServeOptions): Promise<Served> {
  const device: Device = await openDevice();
  const model = await loadModelFrom(source, { device, tokenizer });
  const server = serveModel(model, { port: 0, name: NAME, ...own });
  return {
    server,
    model,
    post: (path, fields, { signal, headers = {} } = {}) =>
      fetch(`${server.url}${path}`, {
        method: "POST",
        headers: { "content-type": "application/json", ...headers },
        body: typeof fields === "string" ? fields : JSON.stringify(fields),
        ...(signal ? { signal } : {}),
      }),
    async [Symbol.asyncDispose](): Promise<void> {
      await server.shutdown();
      model[Symbol.dispose]();
      device[Symbol.dispose]();
    },
  };
}

/** Data of the events of a stream, as they come. */
export async function* eventsOf(response: Response): AsyncGenerator<string, void, undefined> {
  let rest = "";
  for await (const text of response.body?.pipeThrough(new TextDecoderStream()) ?? []) {
    const parts = (rest + text).split("\n\n");
    rest = parts.pop() ?? "";
    for (const part of parts) yield part.replace(/^data: /, "");
  }
}

/** Waits until a condition holds; a test that waits for ever fails. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  for (let left = 1000; !await condition(); left--) {
    if (left === 0) throw new Error("the wait has no end");
    await new Promise((done) => setTimeout(done, 10));
  }
}
