// Parts of paths, with / or \ as separators.

/** Path of the folder that a path is in; "." where it names none. */
export function folderOf(path: string): string {
  const end = Math.max(path.lastIndexOf("/"), path.lastIndexOf("\\"));
  return end < 0 ? "." : path.slice(0, end) || "/";
}

/** Path of a file in the same folder. */
export function sibling(path: string, name: string): string {
  return path.replace(/[^/\\]*$/, name);
}

/** Path of what has a name in a folder. */
export function within(folder: string, name: string): string {
  return `${folder.replace(/[/\\]+$/, "")}/${name}`;
}

/** The last part of a path. */
export function lastPart(path: string): string {
  return path.replace(/[/\\]+$/, "").split(/[/\\]/).at(-1) ?? path;
}
