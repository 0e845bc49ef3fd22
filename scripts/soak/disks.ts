// Fills disks in the midst of runs, and damages checkpoints.
import { readCheckpoint } from "../../lib/run/checkpoint.ts";
import { CompressoError } from "../../lib/core/errors.ts";
import { disk } from "../../lib/files/disk.ts";
import { below, type Bounds, type Loop, outputs, pruneArgs, start } from "./loop.ts";

/** Runs on disks of 64 KiB to 8 MiB that are full at some write. */
export const FULL_DISKS: Loop = {
  name: "full disks",
  promise:
    "a full disk ends the run with its path and leaves nothing half-written; with room it ends with the same bits",
  async run(tally, { until, folder }: Bounds): Promise<void> {
    const place = `${folder}/disk`;
    await Deno.mkdir(place);
    if (!await mount(["-t", "tmpfs", "-o", "size=64M", "tmpfs", place])) {
      throw new Error("not run: this needs the right to mount a tmpfs");
    }
    try {
      const whole = await start(pruneArgs(`${place}/run`)).ended;
      const wanted = whole.code === 0 ? await outputs(`${place}/run`) : whole.said;
      for (let round = 0; performance.now() < until; round++) {
        await Deno.remove(`${place}/run`, { recursive: true });
        const bytes = 2 ** 16 + below(2 ** (17 + below(7)));
        await mount(["-o", `remount,size=${bytes}`, place]);
        const { code, said } = await start(pruneArgs(`${place}/run`)).ended;
        const left = code === 0 ? [] : leftovers(`${place}/run`),
          isNamed = said.includes(place) && /no space|full/i.test(said);
        tally.count(code === 0 ? "disks with room" : "full disks");
        tally.check(
          code === 0 || (code === 3 && isNamed && left.length === 0),
          `${bytes} bytes: ${code} ${left}\n${said}`,
        );
        await mount(["-o", "remount,size=64M", place]);
        const again = await start(pruneArgs(`${place}/run`, "--resume=auto")).ended;
        const now = again.code === 0 ? await outputs(`${place}/run`) : again.said;
        tally.check(now === wanted, `with room again after ${bytes} bytes: ${again.code}\n${now.slice(0, 2000)}`);
      }
    } finally {
      await new Deno.Command("umount", { args: [place] }).output();
    }
  },
};

async function mount(args: readonly string[]): Promise<boolean> {
  return (await new Deno.Command("mount", { args: [...args], stderr: "null" }).output()).success;
}

/** Names of half-written files. */
function leftovers(folder: string): string[] {
  try {
    return [...Deno.readDirSync(folder)].map(({ name }) => name).filter((name) => /\.(?:tmp|old)-/.test(name));
  } catch {
    return [];
  }
}

/** Damaged checkpoints. */
export const CHECKPOINTS: Loop = {
  name: "damaged checkpoints",
  promise: "a checkpoint of which a bit, a piece or the end is changed is refused before any work",
  async run(tally, { until, folder }: Bounds): Promise<void> {
    const out = `${folder}/run`, path = `${out}/checkpoint.safetensors`, { child, ended } = start(pruneArgs(out));
    while (await Deno.stat(path).then(() => false, () => true)) await new Promise((resolve) => setTimeout(resolve, 5));
    child.kill("SIGKILL");
    await ended;
    const whole = await Deno.readFile(path);
    await readCheckpoint(path, { files: disk });
    for (let round = 0; performance.now() < until; round++) {
      await Deno.writeFile(path, damaged(whole));
      let what = "accepted";
      try {
        await readCheckpoint(path, { files: disk });
      } catch (error) {
        what = error instanceof CompressoError && error.code === "input" ? "" : String(error);
      }
      tally.check(what === "", what);
      if (round % 500 !== 0) continue;
      const { code, said } = await start(pruneArgs(out, "--resume")).ended;
      tally.count("whole commands");
      tally.check(code === 3, `status ${code}\n${said}`);
    }
  },
};

/** The bytes with a bit, a byte or a piece changed, or with less or more of them. */
function damaged(whole: Uint8Array<ArrayBuffer>): Uint8Array<ArrayBuffer> {
  const bytes = whole.slice(), at = below(below(2) === 0 ? 4096 : bytes.length), length = 1 + below(64);
  switch (below(5)) {
    case 0:
      bytes.copyWithin(at, at + length);
      if (bytes.every((byte, index) => byte === whole[index])) bytes[at] = (bytes[at] ?? 0) ^ 1;
      return bytes;
    case 1:
      return bytes.slice(0, at);
    case 2:
      return new Uint8Array([...bytes.subarray(0, at), 0, ...bytes.subarray(at)]);
    default:
      bytes[at] = (bytes[at] ?? 0) ^ (1 << below(8));
      return bytes;
  }
}
