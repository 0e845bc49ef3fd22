// Lends the GPU devices of a test process one after the other. A new device compiles each kernel again, at some 15 ms: a
// third of the CPU time of a file whose tests open many devices. One opening has a device alone. After a device is closed
// in good health, the next opening with the same descriptor gets it, with its compiled kernels. A device that failed, or
// that was destroyed while buffers were alive, is really destroyed.

/** A device that is lent. */
interface Pooled {
  readonly gpu: GPUDevice;
  /** Compiled objects by their descriptors. */
  readonly compiled: Map<string, object>;
}

/** The loan that made a live buffer or texture. */
const owners = new WeakMap<object, Loan>();
const idle = new Map<string, Pooled[]>();
/** Numbers of WebGPU's objects, by which the keys of descriptors name them. */
const numbers = new WeakMap<object, number>();
let count = 0;

/** A descriptor as text, in which objects that are no records have numbers. */
function keyOf(descriptor: object): string {
  return JSON.stringify(descriptor, (_, value: unknown) => {
    if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
    if (Object.getPrototypeOf(value) === Object.prototype) return value;
    const number = numbers.get(value) ?? count++;
    numbers.set(value, number);
    return { number };
  });
}

/** Use of a device from its opening until it is closed. */
class Loan {
  readonly device: GPUDevice;
  readonly #pooled: Pooled;
  readonly #key: string;
  readonly #events = new EventTarget();
  readonly #lost = Promise.withResolvers<GPUDeviceLostInfo>();
  readonly #members = new Map<PropertyKey, unknown>();
  readonly #onError: (event: Event) => void;
  alive = 0;
  #scopes = 0;
  #isHealthy = true;
  #isOver = false;

  constructor(pooled: Pooled, key: string) {
    this.#pooled = pooled;
    this.#key = key;
    const { gpu } = pooled;
    this.#onError = (event) => {
      event.preventDefault();
      this.#isHealthy = false;
      this.#events.dispatchEvent(
        new GPUUncapturedErrorEvent("uncapturederror", { error: (event as GPUUncapturedErrorEvent).error }),
      );
    };
    gpu.addEventListener("uncapturederror", this.#onError);
    gpu.lost.then((info) => {
      this.#isHealthy = false;
      this.#lost.resolve(info);
    });
    for (const name of ["addEventListener", "removeEventListener", "dispatchEvent"] as const) {
      this.#members.set(name, this.#events[name].bind(this.#events));
    }
    this.#members.set("lost", this.#lost.promise);
    this.#members.set("destroy", () => this.#close());
    for (const name of ["createBuffer", "createTexture"] as const) {
      const make = gpu[name].bind(gpu) as (descriptor: never) => object;
      this.#members.set(name, (descriptor: never) => this.#own(make(descriptor)));
    }
    for (
      const name of [
        "createShaderModule",
        "createBindGroupLayout",
        "createPipelineLayout",
        "createComputePipeline",
      ] as const
    ) {
      const make = gpu[name].bind(gpu) as (descriptor: object) => object;
      this.#members.set(name, (descriptor: object) => this.#compile(name, descriptor, make));
    }
    this.#members.set("pushErrorScope", (filter: GPUErrorFilter) => {
      this.#scopes += 1;
      gpu.pushErrorScope(filter);
    });
    this.#members.set("popErrorScope", async () => {
      this.#scopes -= 1;
      return await gpu.popErrorScope();
    });
    this.device = new Proxy(gpu, { get: (_, name) => this.#get(name) });
  }

  #get(name: PropertyKey): unknown {
    if (this.#isOver && (name === "queue" || String(name).startsWith("create"))) {
      throw new Error(`a closed device was asked for '${String(name)}'`);
    }
    if (this.#members.has(name)) return this.#members.get(name);
    const { gpu } = this.#pooled, value: unknown = Reflect.get(gpu, name, gpu);
    const member = typeof value === "function" && name !== "constructor" ? value.bind(gpu) : value;
    this.#members.set(name, member);
    return member;
  }

  #own(resource: object): object {
    owners.set(resource, this);
    this.alive += 1;
    return resource;
  }

  /** Nothing is kept within an error scope: the second of two wrong objects would raise no error. */
  #compile(name: string, descriptor: object, make: (descriptor: object) => object): object {
    if (this.#scopes > 0) return make(descriptor);
    const { compiled } = this.#pooled;
    const key = `${name} ${keyOf(descriptor)}`;
    let made = compiled.get(key);
    if (!made) compiled.set(key, made = make(descriptor));
    return made;
  }

  #close(): void {
    if (this.#isOver) return;
    const { gpu } = this.#pooled;
    // A test that destroys a device in use means its loss.
    if (this.alive > 0 || this.#scopes > 0 || !this.#isHealthy) return gpu.destroy();
    this.#isOver = true;
    gpu.removeEventListener("uncapturederror", this.#onError);
    idle.set(this.#key, [...idle.get(this.#key) ?? [], this.#pooled]);
  }
}

for (const { prototype } of [GPUBuffer, GPUTexture]) {
  const destroy = prototype.destroy;
  prototype.destroy = function (): undefined {
    const owner = owners.get(this);
    if (owner && owners.delete(this)) owner.alive -= 1;
    return destroy.call(this);
  };
}

const request = GPUAdapter.prototype.requestDevice;
GPUAdapter.prototype.requestDevice = async function (descriptor = {}): Promise<GPUDevice> {
  const key = keyOf(descriptor);
  const pooled = idle.get(key)?.pop() ?? { gpu: await request.call(this, descriptor), compiled: new Map() };
  return new Loan(pooled, key).device;
};
