// `Deno` for the library in Node.js: @deno/shim-deno, with open files that have a position. What is missing is refused where it is used.
import { fsyncSync, readSync, writeSync } from "node:fs";
import { refuse } from "../../lib/core/errors.ts";

/** An error class of Deno that the shim leaves to Node.js, by its code. */
const byCode = (code) =>
  class {
    static [Symbol.hasInstance](error) {
      return error?.code === code;
    }
  };

function extended(shim) {
  /** The shim's file can neither seek nor be flushed. */
  class File extends shim.FsFile {
    #at = 0;
    #appends;

    constructor({ rid }, appends) {
      super(rid);
      this.#appends = appends;
    }

    readSync(bytes) {
      const count = readSync(this.rid, bytes, 0, bytes.length, this.#at);
      this.#at += count;
      return count === 0 && bytes.length > 0 ? null : count;
    }

    async read(bytes) {
      return await this.readSync(bytes);
    }

    writeSync(bytes) {
      const count = writeSync(this.rid, bytes, 0, bytes.length, this.#appends ? null : this.#at);
      this.#at += count;
      return count;
    }

    async write(bytes) {
      return await this.writeSync(bytes);
    }

    seekSync(offset, whence) {
      const { Start, End } = shim.SeekMode,
        from = whence === Start ? 0 : whence === End ? this.statSync().size : this.#at;
      return this.#at = from + Number(offset);
    }

    async seek(offset, whence) {
      return await this.seekSync(offset, whence);
    }

    async sync() {
      await fsyncSync(this.rid);
    }
  }
  const all = {
    ...shim,
    open: async (path, options = {}) => new File(await shim.open(path, options), options.append === true),
    errors: {
      ...shim.errors,
      NotCapable: byCode("ERR_ACCESS_DENIED"),
      NotADirectory: byCode("ENOTDIR"),
      IsADirectory: byCode("EISDIR"),
    },
    unrefTimer: (id) => id.unref(),
    // A server of the shim accepts nothing that node:http could serve.
    listen: undefined,
  };
  return new Proxy(all, {
    get: (_, name) =>
      all[name] ??
        refuse("usage", `cannot use Deno.${String(name)} in Node.js`, {
          rule: "servers, schedule scripts and MPI need Deno",
          value: `Node.js ${process.versions.node}`,
          fix: "run the program with deno",
        }),
  });
}

const isNode = globalThis.Deno === undefined && globalThis.process?.versions?.node !== undefined;

/** Undefined in browsers. */
export const Deno = isNode ? extended((await import("@deno/shim-deno")).Deno) : globalThis.Deno;
