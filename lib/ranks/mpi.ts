// Ranks by MPI: the library of the machine, called through FFI. No other file knows it.
//
// Handles differ by implementation: addresses of symbols in Open MPI 5, numbers in MPICH and in the standard ABI of
// MPI 5.0. Only f32 is sent; texts are sent as their bytes in f32. Sums are made here and not by MPI_Reduce, which
// promises no order of adding.
import { refusal, refuse, stopped } from "../core/errors.ts";
import { addInto, type Ranks } from "./ranks.ts";

/** Ranks of an MPI job. */
export interface MpiRanks extends Ranks {
  /** Fires on all ranks after the same sum, once {@link stopAll} was called on one. */
  readonly signal: AbortSignal;
  /** Asks all ranks to stop at the end of the present step. */
  stopAll(reason: unknown): void;
  /** Waits for all ranks, then ends MPI. */
  finish(): Promise<void>;
  /**
   * Ends the processes of all ranks at once, this one with the exit status. Where ranks have lost each other it ends
   * this one, and the launcher and the time limit end the others.
   */
  abort(status: number): void;
}

/** How a launcher names the number of processes of a job in the environment. */
const SIZES = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"] as const;
/** What each of these launchers sets besides for a process that may call MPI. */
const RANK_OF = {
  OMPI_COMM_WORLD_SIZE: "OMPI_COMM_WORLD_RANK",
  PMI_SIZE: "PMI_RANK",
  SLURM_STEP_NUM_TASKS: "PMIX_RANK",
} as const;

/** Seconds that a rank waits for another one: longer than a checkpoint takes, or a slower adapter's step. */
const DEFAULT_SECONDS = 600;

/** Files of Open MPI, and of MPICH and those with its ABI or the standard one. */
const OPEN_MPI = ["libmpi.so.40", "libmpi.40.dylib", "libmpi.dylib"];
const MPICH_LIKE = ["libmpich.so.12", "libmpi.so.12", "libmpi_abi.so.1", "libmpich.12.dylib"];

/** Handles of the communicator of all ranks and of f32, where they are numbers. */
const MPICH = { world: 0x44000000n, float: 0x4c00040an };
const STANDARD = { world: 0x101n, float: 0x210n };

// Handles are passed as 64 bits, whether they are addresses or ints: the platforms' calling conventions read the low half of an int.
const FUNCTIONS = {
  MPI_Init_thread: { parameters: ["usize", "usize", "i32", "buffer"], result: "i32" },
  MPI_Comm_rank: { parameters: ["usize", "buffer"], result: "i32" },
  MPI_Comm_size: { parameters: ["usize", "buffer"], result: "i32" },
  MPI_Send: { parameters: ["buffer", "i32", "usize", "i32", "i32", "usize"], result: "i32", nonblocking: true },
  MPI_Recv: {
    parameters: ["buffer", "i32", "usize", "i32", "i32", "usize", "buffer"],
    result: "i32",
    nonblocking: true,
  },
  MPI_Bcast: { parameters: ["buffer", "i32", "usize", "i32", "usize"], result: "i32", nonblocking: true },
  MPI_Finalize: { parameters: [], result: "i32", nonblocking: true },
  MPI_Abort: { parameters: ["usize", "i32"], result: "i32" },
} as const;

type Library = Deno.DynamicLibrary<typeof FUNCTIONS>;

/** Calls come one after the other, from threads of Deno's pool: MPI_THREAD_SERIALIZED. */
const SERIALIZED = 2;
/** f32 in a message, so that ranks add one part of a sum while others add another: 1 MiB. */
const CHUNK = 1 << 18;
/** Bytes that are enough for a status in each implementation. */
const STATUS_BYTES = 64;

/** The place of this process in the job of a launcher, without a call of MPI; null if it was started alone. */
export function launchedRank(): Pick<Ranks, "rank" | "size"> | null {
  const launcher = launcherOf();
  if (launcher === undefined) return null;
  return { rank: Number(variable(RANK_OF[launcher])), size: Number(variable(launcher)) };
}

function launcherOf(): typeof SIZES[number] | undefined {
  return SIZES.find((name) => Number(variable(name) ?? 1) > 1 && variable(RANK_OF[name]) !== undefined);
}

/**
 * Joins the MPI job that this process was started in, such as by `mpirun -n 4 deno run …`; null if it was started
 * alone. Needs the right to call libraries (`--allow-ffi`), and to read the environment variables of the launcher.
 *
 * @throws CompressoError("usage") if the process belongs to a job and no MPI library can be opened.
 */
export function openMpi(): MpiRanks | null {
  const launcher = launcherOf();
  if (launcher === undefined) return null;
  const { library, path } = openLibrary(launcher), { symbols } = library, handles = handlesOf(path);
  const provided = new Int32Array(1), rank = new Int32Array(1), size = new Int32Array(1);
  symbols.MPI_Init_thread(0n, 0n, SERIALIZED, provided);
  symbols.MPI_Comm_rank(handles.world, rank);
  symbols.MPI_Comm_size(handles.world, size);
  const [count = 0] = size;
  if (count !== Number(variable(launcher))) {
    refuse("usage", "cannot train on several ranks", {
      rule: `the MPI library is that of the launcher, which started ${variable(launcher)} processes`,
      value: `${path} knows ${count}`,
      fix: "name the launcher's library by the environment variable COMPRESSO_MPI",
    });
  }
  if ((provided[0] ?? 0) < SERIALIZED) {
    refuse("usage", "cannot train on several ranks", {
      rule: "the MPI library lets several threads call it, one at a time (MPI_THREAD_SERIALIZED)",
      value: `level ${provided[0]} of ${path}`,
      fix: "use a library that was built with threads",
    });
  }
  return ranksOf(symbols, handles, { rank: rank[0] ?? 0, size: count });
}

function ranksOf(
  symbols: Library["symbols"],
  { world, float }: Handles,
  { rank, size }: { readonly rank: number; readonly size: number },
): MpiRanks {
  const stopping = new AbortController(), status = new Uint8Array(STATUS_BYTES), last = size - 1;
  const seconds = Number(variable("COMPRESSO_MPI_SECONDS") ?? DEFAULT_SECONDS);
  let stop: { readonly reason: unknown } | null = null, isLost = false;
  /** The call's end. Throws if it does not come: MPI itself would wait for ever for a host that is cut off. */
  const inTime = async (call: Promise<number>): Promise<void> => {
    const timer = Promise.withResolvers<never>();
    const timeout = setTimeout(() => {
      isLost = true;
      timer.reject(
        refusal("input", `rank ${rank} of ${size} cannot go further`, {
          rule: `hosts and network stay up, and no rank takes longer than ${seconds} seconds for its part of a step`,
          value: "nothing was heard from the others for that time",
          fix: "resume from the last checkpoint; the environment variable COMPRESSO_MPI_SECONDS sets the time",
        }),
      );
    }, 1000 * seconds);
    try {
      await Promise.race([call, timer.promise]);
    } finally {
      clearTimeout(timeout);
    }
  };
  const broadcast = async (values: Float32Array<ArrayBuffer>, from: number): Promise<void> => {
    for (const part of chunksOf(values)) await inTime(symbols.MPI_Bcast(part, part.length, float, from, world));
  };
  /** Each part of the sum passes from rank to rank, and each adds its own, while later ranks are at earlier parts. */
  const chain = async (total: Float32Array<ArrayBuffer>, parts: readonly Float32Array[]): Promise<void> => {
    let start = 0;
    for (const chunk of chunksOf(total)) {
      const end = start + chunk.length;
      if (rank > 0) await inTime(symbols.MPI_Recv(chunk, chunk.length, float, rank - 1, 0, world, status));
      for (const part of parts) addInto(chunk, part.subarray(start, end));
      if (rank < last) await inTime(symbols.MPI_Send(chunk, chunk.length, float, rank + 1, 0, world));
      start = end;
    }
    await broadcast(total, last);
  };
  return {
    rank,
    size,
    signal: stopping.signal,
    async sum(parts): Promise<Float32Array<ArrayBuffer>> {
      const total = new Float32Array(parts[0]?.length ?? 0), stops = new Float32Array(1);
      await chain(total, parts);
      await chain(stops, [Float32Array.of(stop ? 1 : 0)]);
      if ((stops[0] ?? 0) > 0) {
        stopping.abort(stop?.reason ?? stopped("stopped by another rank"));
      }
      return total;
    },
    async textOf(from, text): Promise<string> {
      const bytes = new TextEncoder().encode(text), count = Float32Array.of(bytes.length >>> 16, bytes.length & 0xffff);
      await broadcast(count, from);
      const length = (count[0] ?? 0) * 0x10000 + (count[1] ?? 0), values = new Float32Array(Math.ceil(length / 4));
      const view = new Uint8Array(values.buffer, 0, length);
      if (rank === from) view.set(bytes);
      await broadcast(values, from);
      return new TextDecoder().decode(view);
    },
    stopAll(reason): void {
      stop ??= { reason };
    },
    async finish(): Promise<void> {
      await symbols.MPI_Finalize();
    },
    abort(exitStatus): void {
      if (isLost) Deno.exit(exitStatus);
      symbols.MPI_Abort(world, exitStatus);
    },
  };
}

function* chunksOf(values: Float32Array<ArrayBuffer>): Generator<Float32Array<ArrayBuffer>> {
  for (let start = 0; start < values.length; start += CHUNK) yield values.subarray(start, start + CHUNK);
}

/** The variable's value; undefined if it is not set, or where this process may not read it. Asks for no right. */
function variable(name: string): string | undefined {
  if (Deno.permissions.querySync({ name: "env", variable: name }).state !== "granted") return undefined;
  return Deno.env.get(name);
}

/** Opens the library of the launcher: a machine may have several, and PMI alone is how MPICH's starts processes. */
function openLibrary(
  launcher: typeof SIZES[number],
): { readonly library: Library; readonly path: string } {
  const named = variable("COMPRESSO_MPI");
  const known = launcher === "PMI_SIZE" ? [...MPICH_LIKE, ...OPEN_MPI] : [...OPEN_MPI, ...MPICH_LIKE];
  const tried = named ? [named] : known;
  let first: unknown;
  for (const path of tried) {
    try {
      return { library: Deno.dlopen(path, FUNCTIONS), path };
    } catch (error) {
      first ??= error;
    }
  }
  const isRight = first instanceof Deno.errors.NotCapable;
  refuse("usage", "cannot train on several ranks", {
    rule: isRight ? "the process may call the MPI library" : `there is an MPI library: ${tried.join(", ")}`,
    value: first instanceof Error ? first.message : String(first),
    fix: isRight
      ? "give the process the right ffi"
      : "install it (Debian and Ubuntu: apt-get install openmpi-bin libopenmpi40), or name its file by COMPRESSO_MPI",
    cause: first,
  });
}

interface Handles {
  readonly world: bigint;
  readonly float: bigint;
}

/** The handles of a library: it is Open MPI where it has Open MPI's symbols. */
function handlesOf(path: string): Handles {
  const world = addressOf(path, "ompi_mpi_comm_world"), float = addressOf(path, "ompi_mpi_float");
  if (world !== 0n && float !== 0n) return { world, float };
  return path.includes("libmpi_abi") ? STANDARD : MPICH;
}

/** The address of a data symbol; 0 if the library does not define it. Deno gives the value at a symbol, not its address. */
function addressOf(path: string, symbol: string): bigint {
  const libc = Deno.dlopen(Deno.build.os === "darwin" ? "libSystem.dylib" : "libc.so.6", {
    dlopen: { parameters: ["buffer", "i32"], result: "usize" },
    dlsym: { parameters: ["usize", "buffer"], result: "usize" },
  });
  const text = (value: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(`${value}\0`);
  try {
    return BigInt(libc.symbols.dlsym(libc.symbols.dlopen(text(path), 2), text(symbol)));
  } finally {
    libc.close();
  }
}
