// Whether something stands at a path. Owns that question and whether it is a folder; refuses to tell why not.

/** Whether a file or folder is there and may be looked at. */
export async function exists(path: string): Promise<boolean> {
  return await Deno.stat(path).then(() => true, () => false);
}

/** Whether a folder is there. */
export async function isFolder(path: string): Promise<boolean> {
  return await Deno.stat(path).then(({ isDirectory }) => isDirectory, () => false);
}
