// Lifetime of an object that works on the GPU: calls after its end are refused, and nothing is freed while a step uses it.
import { type CompressoError, refusal } from "../core/errors.ts";

/** From its beginning to its end, which may come in the midst of work. */
export class Lifetime {
  /** Fires where the user stops the work, or ends it while it is under way. */
  readonly signal: AbortSignal;
  readonly #controller = new AbortController();
  readonly #name: string;
  #isOver = false;
  #underWay = 0;
  /** What is to be freed as soon as nothing is under way. */
  #free: (() => void) | null = null;

  /** `name` is what an error calls it; `signal` that of the user, if there is one. */
  constructor(name: string, signal?: AbortSignal) {
    this.#name = name;
    const { signal: own } = this.#controller;
    this.signal = signal ? AbortSignal.any([signal, own]) : own;
  }

  /** Whether its end was asked for. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Throws `CompressoError("usage")` from its end on. */
  check(): void {
    if (this.#isOver) throw disposed(this.#name);
  }

  /** Does work that uses what is freed at the end. Throws as {@link Lifetime.check}, and that too where the end comes meanwhile and stops it. */
  async during<T>(work: () => Promise<T>): Promise<T> {
    using _entered = this.enter();
    return await work();
  }

  /** Begins such work, which lasts until what it gives is disposed. Throws as {@link Lifetime.check}. */
  enter(): Disposable {
    this.check();
    this.#underWay++;
    return {
      [Symbol.dispose]: () => {
        this.#underWay--;
        this.#freeIfIdle();
      },
    };
  }

  /** Ends it, once: frees at once where nothing is under way, else as soon as that has stopped. */
  end(free: () => void): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.#free = free;
    if (this.#underWay > 0) this.#controller.abort(disposed(this.#name));
    this.#freeIfIdle();
  }

  #freeIfIdle(): void {
    if (this.#underWay > 0) return;
    const free = this.#free;
    this.#free = null;
    free?.();
  }
}

function disposed(name: string): CompressoError {
  return refusal("usage", `cannot use the ${name}`, {
    rule: `a ${name} works until it is disposed`,
    value: `the ${name} was disposed`,
    fix: "dispose it after its last use, or begin a new one",
  });
}
