// Settings of the Hub, from the environment variables that Python's huggingface_hub has.
import { join, resolve } from "node:path";
import { refuse } from "../core/errors.ts";
import { textIfThere } from "../files/text_file.ts";

/** Where the Hub is, where its files are kept, and who asks. */
export interface HubSettings {
  /** Address without a slash at its end. */
  readonly endpoint: string;
  /** The address for messages: without a user's name and password. */
  readonly page: string;
  /** Folder of the cache, which Python's huggingface_hub shares. */
  readonly cache: string;
  /** Access token; null for none. */
  readonly token: string | null;
  /** Whether the network may not be used. */
  readonly isOffline: boolean;
}

/** Environment variables that are read. */
export const HUB_VARIABLES = [
  ...["HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_TOKEN_PATH"],
  ...["XDG_CACHE_HOME", "HOME", "USERPROFILE"],
] as const;

/** Address of the Hub where HF_ENDPOINT names no other. */
const HUB_ADDRESS = "https://huggingface.co";

/** Reads the settings. Throws `CompressoError("usage")` for a malformed address, and if no variable names the user's folder. */
export async function hubSettings(): Promise<HubSettings> {
  const home = homeFolder(), cache = variable("HF_HUB_CACHE");
  const endpoint = endpointOf(variable("HF_ENDPOINT") ?? HUB_ADDRESS);
  return {
    endpoint,
    page: endpoint.replace(/\/\/[^/]*@/, "//"),
    cache: cache === null ? join(home(), "hub") : folder(cache),
    token: await tokenOf(home),
    isOffline: /^(1|on|yes|true)$/i.test(variable("HF_HUB_OFFLINE") ?? ""),
  };
}

/** A variable; null if it is not set, or empty. */
function variable(name: typeof HUB_VARIABLES[number]): string | null {
  return Deno.env.get(name) || null;
}

/** A path, with ~ for the user's folder. */
function folder(path: string): string {
  return resolve(/^~(?=$|[/\\])/.test(path) ? join(userFolder(), path.slice(1)) : path);
}

function userFolder(): string {
  const path = Deno.build.os === "windows" ? variable("USERPROFILE") : variable("HOME");
  if (path !== null) return path;
  refuse("usage", "cannot tell where files of the Hugging Face Hub are kept", {
    rule: "HF_HOME or the user's own folder is known",
    value: "neither HF_HOME nor HOME is set",
    fix: "set HF_HOME to a folder",
  });
}

/** The folder of the cache and of the token, looked up once it is needed. */
function homeFolder(): () => string {
  let found: string | null = null;
  return () => {
    const own = found ?? variable("HF_HOME");
    return found ??= own === null
      ? join(folder(variable("XDG_CACHE_HOME") ?? join(userFolder(), ".cache")), "huggingface")
      : folder(own);
  };
}

/** The token of HF_TOKEN, else that of the file which `hf auth login` writes. */
async function tokenOf(home: () => string): Promise<string | null> {
  const own = variable("HF_TOKEN")?.trim();
  if (own) return checkedToken(own, "HF_TOKEN");
  const named = variable("HF_TOKEN_PATH"), path = named === null ? join(home(), "token") : folder(named);
  const text = (await startOf(path))?.trim() || null;
  return text === null ? null : checkedToken(text, path);
}

/** Bytes of a file that are read: a token is shorter, and a device may have no end. */
const MOST_TOKEN = 1 << 12;

/** The beginning of a file; null if it does not exist. Throws `CompressoError("input")` if it cannot be read. */
async function startOf(path: string): Promise<string | null> {
  const bytes = new Uint8Array(MOST_TOKEN);
  let length = 0;
  try {
    using file = await Deno.open(path);
    while (length < MOST_TOKEN) {
      const count = await file.read(bytes.subarray(length));
      if (count === null) break;
      length += count;
    }
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    return await textIfThere(path);
  }
  return new TextDecoder().decode(bytes.subarray(0, length));
}

/** A token that a header may hold. Its value is in no message. */
function checkedToken(token: string, place: string): string {
  if (/^[\x21-\x7e]+$/.test(token) && token.length < MOST_TOKEN) return token;
  refuse("usage", `cannot use the token of ${place}`, {
    rule: "a token is letters, digits and signs of ASCII in one line",
    value: "other characters, such as a space or a line break",
    fix: `copy the token again, or remove ${place}`,
  });
}

function endpointOf(text: string): string {
  const url = URL.canParse(text) ? new URL(text) : null;
  const isPlain = url !== null && url.search === "" && url.hash === "";
  if (isPlain && /^https?:$/.test(url.protocol)) return url.href.replace(/\/+$/, "");
  refuse("usage", "cannot use the Hub of HF_ENDPOINT", {
    rule: "it is an address of http or https, without ? and #",
    value: text.replace(/^.*@/s, ""), // a password stands before it
    fix: `set HF_ENDPOINT to one, or remove it for ${HUB_ADDRESS}`,
  });
}
