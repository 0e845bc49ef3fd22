// Whether a file in the cache has the bytes that the Hub lists.
import { createHash, type Hash } from "node:crypto";
import { refuse } from "../core/errors.ts";
import type { HubFile } from "./cache.ts";
import { visible } from "./visible.ts";
import { hubText } from "./name.ts";
import type { HubRepo } from "./repo.ts";
import { piecesOf } from "./storage.ts";

/** The hash by which a file is known, of the bytes that follow. */
export function hashOf({ sha256, size }: Pick<HubFile, "sha256" | "size">): Hash {
  return sha256 === null ? createHash("sha1").update(`blob ${size}\0`) : createHash("sha256");
}

/**
 * Whether a file in the cache has the listed hash. The hash is computed unless size and time are as at the last check.
 */
export async function isIntact(
  path: string,
  { repo: { cache }, file, hash }: { readonly repo: HubRepo; readonly file: HubFile; readonly hash: string },
): Promise<boolean> {
  if (await cache.isStamped(path, hash)) return true;
  if (await digestOf(path, file) !== hash) return false;
  await cache.keepStamp(path, hash);
  return true;
}

/**
 * Computes the hash of a file in the cache, without regard to notes of earlier checks.
 *
 * @throws CompressoError("input") for other bytes than the Hub lists, and if the list is not known. It then removes the
 * note of the last check.
 */
export async function verifyIntact(
  path: string,
  { repo, file, onBytes }: {
    readonly repo: HubRepo;
    readonly file: HubFile;
    /** Called with the bytes that are hashed. */
    readonly onBytes?: ((bytes: number) => void) | undefined;
  },
): Promise<void> {
  const hash = file.sha256 ?? file.blobId, what = visible(`cannot verify ${hubText(repo.name, { file: file.path })}`);
  if (hash === null) {
    refuse("input", what, {
      rule: "the list of the Hub names its hash",
      value: `${repo.cache.folder} holds no list of this commit`,
      fix: "connect to the Hub, and remove HF_HUB_OFFLINE",
    });
  }
  const found = await digestOf(path, file, onBytes);
  if (found === hash) return await repo.cache.keepStamp(path, hash);
  await repo.cache.forgetStamp(hash);
  refuse("input", what, {
    rule: `its bytes have the hash that the Hub lists, ${hash}`,
    value: found,
    fix: `remove ${await Deno.realPath(path)}: the next use fetches it again`,
  });
}

async function digestOf(path: string, file: HubFile, onBytes?: (bytes: number) => void): Promise<string> {
  const hash = hashOf(file);
  let bytes = 0;
  for await (const piece of piecesOf(path, 0, file.size)) {
    hash.update(piece);
    onBytes?.(bytes += piece.length);
  }
  return hash.digest("hex");
}
