// Masks that hooks write once they are hard: what the monitors say of them at the run's end.
import assert from "node:assert/strict";
import { CompressoError, prune, type PruneResult } from "../../mod.ts";
import type { WantedSize } from "../../lib/run/contract.ts";
import type { RunOptions } from "../../lib/run/options/options.ts";
import type { Alarm, RunHandle } from "../../lib/run/mod.ts";
import { openModelFiles } from "../../lib/local/open_model.ts";
import { unitTable } from "../../lib/units/table.ts";
import type { MaskLook } from "../../lib/run/contract.ts";
import { overseeEnd, oversightOf } from "../../lib/run/monitors/oversee.ts";
import { resolveOptions } from "../../lib/run/options/resolve.ts";
import { firstPosition } from "../../lib/run/position.ts";
import { BASE, drive, withShortDemo } from "./helpers/demo_run.ts";

const { sparsity, ...RUN } = BASE;

Deno.test("hard masks that a hook has written are told of at the end where they miss sparsity or size, or leave nothing", () =>
  withShortDemo(async ({ model }) => {
    const end = async (
      { size, ...options }: Partial<RunOptions> & { readonly size?: WantedSize },
      write: (run: RunHandle) => void | Promise<void> = () => {},
    ): Promise<PruneResult> => {
      const hooks = {
        afterStage: (stage: string, run: RunHandle) => stage === "postfinetune" ? write(run) : undefined,
      };
      const aim = size ? { size } : { sparsity };
      using run = prune(model, {
        ...RUN,
        ...aim,
        units: ["ffn"],
        lora: { targets: ["q"] },
        steps: 2,
        hooks,
        ...options,
      });
      for await (const _ of run);
      return run.result();
    };
    const fill = (value: number) => async (run: RunHandle): Promise<void> => {
      const { ffn } = await run.masks();
      run.setMasks({ ffn: ffn.fill(value) });
    };
    const said = ({ alarms }: PruneResult): string[] => alarms.map(({ monitor, message }) => `${monitor}: ${message}`);
    const size = { parameters: 440_000 };
    for (const options of [{}, { size }]) {
      assert.deepEqual(said(await end(options)), [], "nothing is written, and nothing is said");
      assert.deepEqual(said(await end(options, async (run) => run.setMasks({ ffn: (await run.masks()).ffn }))), []);
    }
    const [collapse, missed, ...others] = said(await end({}, fill(1)));
    assert.match(collapse ?? "", /collapse: the masks collapse to one/);
    assert.match(missed ?? "", /constraint: the constraint is not met: hard sparsity 0\.0 %, target 20\.0 %/);
    assert.deepEqual(others, []);
    // One column more than was cut for the size.
    const larger = said(
      await end({ size }, async (run) => {
        const { ffn } = await run.masks();
        run.setMasks({ ffn: ffn.with(ffn.indexOf(0), 1) });
      }),
    );
    assert.equal(larger.length, 1, `${larger}`);
    assert.match(larger[0] ?? "", /constraint: the constraint is not met: the model is larger .* by \d+$/);
    const none = await end({}, fill(0));
    assert.ok(said(none).some((one) => one.startsWith("collapse: ")), `${said(none)}`);
    assert.ok(none.alarms.every(({ change }) => /let hooks leave the masks/.test(change)));
    await assert.rejects(
      end({ monitors: { constraint: { action: "stop" } } }, fill(1)),
      (error) =>
        error instanceof CompressoError && error.code === "numeric" && /hard sparsity 0\.0 %/.test(error.message),
    );
    const off = { constraint: { action: "off" }, collapse: { action: "off" } } as const;
    assert.deepEqual(said(await end({ monitors: off }, fill(1))), []);
  }));

Deno.test("what was said of masks before is not said again at the end in other words, and hides nothing of their size", async () => {
  const { source: { spec } } = await openModelFiles("demo"), table = unitTable(spec, ["heads", "ffn"]);
  const options = resolveOptions({ ...BASE, units: ["heads", "ffn"], steps: 4 }, spec),
    first = firstPosition({ epoch: 0, index: 0 });
  const look: MaskLook = {
    layers: spec.layers.map((_, layer) => ({
      heads: layer === 1 ? 1 : 0,
      ffn: layer === 1 ? 1 : 0,
      sparsity: layer === 1 ? 1 : 0,
    })),
    ...{ kinds: [], closed: new Uint8Array(table.count), broken: null },
  };
  const told = (position: Partial<typeof first>, excess: number | null = null): string[] => {
    const oversight = oversightOf(options, table, { steps: 4 });
    const { verdict } = overseeEnd(
      { ...first, ...position, target: sparsity },
      { look, hard: sparsity, excess },
      oversight,
    );
    return verdict.alarms.map(({ message }) => message);
  };
  const [dead = "", ...others] = told({});
  assert.match(dead, /^layer 1 is dead: 100\.0 %/);
  assert.deepEqual(others, []);
  const known = { monitors: { ...first.monitors, active: ["dead-layer 1"] } };
  assert.deepEqual(told(known), [], "it was dead when it was told of, at 98.2 %");
  const seen = { monitor: "constraint", message: "off", change: "", options: [] } as const;
  const alarm: Alarm = { ...seen, step: 2, action: "warn", restored: null };
  const [larger = "", ...no] = told({ ...known, alarms: [alarm] }, 5);
  assert.match(larger, /the model is larger .* by 5$/);
  assert.deepEqual(no, []);
});

Deno.test("masks that a hook writes are those of the steps to come, while LoRA alone is trained and where masks are learned", () =>
  withShortDemo(async ({ model }) => {
    const losses = async (stage: string): Promise<readonly number[]> => {
      const hooks = {
        beforeStep: async (run: RunHandle) => {
          if (run.stage !== stage) return;
          const { ffn } = await run.masks();
          run.setMasks({ ffn: ffn.fill(0) });
        },
      };
      const { records } = await drive(model, { prefinetune: 2, steps: 2, postfinetune: 0, seq: 32, hooks });
      return records.map(({ loss }) => loss);
    };
    const plain = await losses("none");
    assert.equal(plain.length, 4);
    for (const [stage, steps] of [["finetune", [0, 1]], ["prune", [2, 3]]] as const) {
      const written = await losses(stage), said = `${stage}: ${written} beside ${plain}`;
      for (const step of steps) assert.ok((written[step] ?? NaN) > (plain[step] ?? NaN) + 0.1, said);
    }
  }));
