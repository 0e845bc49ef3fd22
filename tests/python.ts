// Whether programs that a model writes can be run here: the toolkit's other parts need no Python.

/** Linux with a python3 in PATH. */
export const HAS_PYTHON: boolean = Deno.build.os === "linux" && hasCommand("python3");

function hasCommand(name: string): boolean {
  try {
    return new Deno.Command(name, { args: ["--version"], stdout: "null", stderr: "null" }).outputSync().success;
  } catch {
    return false;
  }
}
