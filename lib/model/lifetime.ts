// Lifetime of an object that works on the GPU: calls after its end are refused, and nothing is freed while a step uses it.
import { type CompressoError, refusal } from "../core/errors.ts";

/** The lifetime of one object. It may end while work is under way. */
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

  /** Whether it was ended, even if work is still stopping. */
  get isOver(): boolean {
    return this.#isOver;
  }

  /** Throws `CompressoError("usage")` from its end on. */
  check(): void {
    if (this.#isOver) throw disposed(this.#name);
  }

  /**
   * Does work that uses the resources. Throws as {@link Lifetime.check}, also if the lifetime ends and stops the work.
   */
  async during<T>(work: () => Promise<T>): Promise<T> {
    using _entered = this.enter();
    return await work();
  }

  /** Begins work that lasts until the result is disposed. Throws as {@link Lifetime.check}. */
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

  /** Ends the lifetime. Frees the resources as soon as no work is under way. Further calls do nothing. */
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
