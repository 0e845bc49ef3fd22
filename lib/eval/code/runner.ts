// What runs programs that a model wrote.

/** How a program ended. */
export interface CodeVerdict {
  /** Whether its last line was reached. */
  readonly isPassed: boolean;
  /** `passed`, `timed out`, or `failed: ` with the exception or, for a process that ended otherwise, why. */
  readonly reason: string;
}

/** Runs programs; see `openPython`. */
export interface CodeRunner {
  /** What keeps a program from files, network and other processes, such as seccomp and Landlock. */
  readonly isolation: readonly string[];
  /** Runs a program to its end, or to a limit. */
  run(program: string, options?: { readonly signal?: AbortSignal | undefined }): Promise<CodeVerdict>;
}
