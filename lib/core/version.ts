// The version of the toolkit.

/** The version that deno.json names. It is written here too, so that a page need not load all of deno.json. */
export const VERSION = "0.1.0";
