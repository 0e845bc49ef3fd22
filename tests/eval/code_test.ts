// Programs that a model writes: what they may do, how they are ended, and what counts as passed.
import assert from "node:assert/strict";
import { openPython } from "../../lib/eval/code/python.ts";
import type { CodeRunner, CodeVerdict } from "../../lib/eval/code/runner.ts";
import { evaluateTasks } from "../../lib/eval/evaluate.ts";
import { compareItems } from "../../lib/eval/compare.ts";
import { defineTask } from "../../lib/eval/task.ts";
import { openDemo } from "../run/helpers/reference.ts";
import { sharedDevice } from "../device.ts";
import { HAS_PYTHON } from "../python.ts";
import { rejects } from "../refuses.ts";

const WITH_PYTHON = { ignore: !HAS_PYTHON };
/** A runner with short limits; the time in all is long, for a machine at work. */
const python = async (): Promise<CodeRunner> => await openPython({ processorSeconds: 1, seconds: 30, memoryMiB: 256 });

Deno.test(
  "a program reads nothing but Python's library, and has no network, processes or environment",
  WITH_PYTHON,
  async () => {
    const folder = await Deno.makeTempDir({ prefix: "compresso_code_" }), victim = `${folder}/victim`;
    await Deno.writeTextFile(victim, "kept");
    Deno.env.set("COMPRESSO_SECRET", "secret");
    // Each attempt succeeds in a process with rights; `done` has the ones that did here, by Python and by the C library.
    const { isPassed, reason } = await (await python()).run(`
import ctypes, os, resource, shutil, socket, subprocess, sys, threading
done, libc, victim = [], ctypes.CDLL(None), ${JSON.stringify(victim)}
def attempt(name, act, failed=lambda result: False):
    try:
        if not failed(act()): done.append(name)
    except (OSError, ValueError):
        pass
refused = lambda result: result < 0
attempt("read", lambda: open(victim).read())
attempt("password", lambda: open("/etc/passwd").read())
attempt("process", lambda: open("/proc/self/environ").read())
attempt("list", lambda: os.listdir(${JSON.stringify(folder)}))
attempt("write", lambda: open(victim, "w"))
attempt("append", lambda: open(victim, "a"))
attempt("create", lambda: open(${JSON.stringify(`${folder}/new`)}, "x"))
attempt("remove", lambda: os.unlink(victim))
attempt("rename", lambda: os.rename(victim, victim + "2"))
attempt("folder", lambda: os.mkdir(${JSON.stringify(`${folder}/folder`)}))
attempt("mode", lambda: os.chmod(victim, 0o777))
attempt("tree", lambda: shutil.rmtree(${JSON.stringify(folder)}))
attempt("memory file", lambda: os.memfd_create("x"))
attempt("fork", os.fork)
attempt("run", lambda: subprocess.run(["true"]))
attempt("exec", lambda: os.execv("/bin/true", ["true"]))
attempt("shell", lambda: os.system("true"), lambda result: result != 0)
attempt("kill", lambda: os.kill(os.getppid(), 0))
attempt("socket", lambda: socket.socket(socket.AF_INET))
attempt("local socket", lambda: socket.socket(socket.AF_UNIX))
attempt("more memory", lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)))
attempt("c fork", lambda: libc.fork(), refused)
attempt("c socket", lambda: libc.socket(2, 1, 0), refused)
attempt("c read", lambda: libc.open(victim.encode(), 0), refused)
attempt("c write", lambda: libc.open(victim.encode(), 1), refused)
attempt("c remove", lambda: libc.unlink(victim.encode()), refused)
attempt("c rename", lambda: libc.rename(victim.encode(), b"/tmp/other"), refused)
attempt("c ptrace", lambda: libc.ptrace(16, os.getppid(), 0, 0), refused)
assert not done, done
assert set(os.environ) <= {"LC_CTYPE"}, dict(os.environ)
thread = threading.Thread(target=lambda: done.append("thread")); thread.start(); thread.join()
assert done == ["thread"]
import collections, decimal, hashlib, heapq, itertools, json, math, random, re, string, typing
assert hashlib.md5(b"x").hexdigest()
`);
    Deno.env.delete("COMPRESSO_SECRET");
    assert.deepEqual([isPassed, reason], [true, "passed"]);
    assert.equal(await Deno.readTextFile(victim), "kept");
    assert.deepEqual([...Deno.readDirSync(folder)].map(({ name }) => name), ["victim"]);
    await Deno.remove(folder, { recursive: true });
  },
);

Deno.test("a program passes only if its last line is reached, within its time and memory", WITH_PYTHON, async () => {
  const runner = await python();
  assert.ok(runner.isolation.includes("seccomp"), runner.isolation.join());
  const cases: readonly (readonly [program: string, reason: RegExp])[] = [
    ["assert 1 + 1 == 2", /^passed$/],
    ["assert 1 == 2, 'no'", /^failed: AssertionError: no$/],
    ["while True: pass", /^timed out$/],
    ["x = []\nwhile True: x.append(bytearray(1 << 20))", /^failed: MemoryError/],
    ["import sys\nsys.exit(0)", /^failed: SystemExit/],
    ["import os\nos._exit(0)", /^failed: it ended/],
    ["print('passed')\nassert False", /^failed: AssertionError/],
    [
      "import os\nfor place in range(64):\n  try: os.write(place, b'passed\\n')\n  except OSError: pass\nos._exit(0)",
      /^failed: it ended/,
    ],
    [
      "import os\nwhile True:\n  for place in range(3, 64):\n    try: os.write(place, b'x' * 4096)\n    except OSError: pass",
      /^failed: it was killed$/,
    ],
    ["import ctypes\nctypes.string_at(0)", /^failed: it was killed$/],
    ["input()", /^failed: OSError/],
    ["class E(Exception):\n  def __str__(self): raise SystemExit\nraise E", /^failed: /],
    ["def broken(:", /^failed: SyntaxError/],
    ["print('\\ud800')\nif __name__ == '__main__': raise ValueError", /^passed$/],
  ];
  const verdicts = await Promise.all(cases.map(([program]) => runner.run(program)));
  for (const [place, { isPassed, reason }] of verdicts.entries()) {
    const [program = "", wanted = /never/] = cases[place] ?? [];
    assert.match(reason, wanted, program);
    assert.equal(isPassed, reason === "passed", program);
  }
  const short = await openPython({ seconds: 2 });
  assert.equal((await short.run("import time\ntime.sleep(60)")).reason, "timed out");
  const stop = AbortSignal.abort();
  await assert.rejects(runner.run("pass", { signal: stop }), { name: "AbortError" });
  await rejects(openPython({ memoryMiB: 1 }), "usage", { option: "memoryMiB" });
});

Deno.test("answers that are code count by their programs, which are refused where nobody asked to run them", async () => {
  const demo = await openDemo(await sharedDevice());
  using model = demo.model;
  const folder = await Deno.makeTempDir({ prefix: "compresso_code_" });
  await Deno.writeTextFile(`${folder}/code.test.jsonl`, ["a", "b", "c", "d"].map((x) => `{"name":"${x}"}\n`).join(""));
  const task = defineTask({
    name: "code",
    generate: { rule: "code", maxTokens: 6, until: ["."] },
    item: (row) => ({ context: "Tom went", program: { before: `${row.text("name")}:`, after: ":end" } }),
  });
  const ran: string[] = [];
  const runCode: CodeRunner = {
    isolation: ["a test"],
    run(program): Promise<CodeVerdict> {
      ran.push(program);
      const isPassed = program.startsWith("a:");
      return Promise.resolve({ isPassed, reason: isPassed ? "passed" : "failed: x" });
    },
  };
  const options = { tasks: [task], taskData: folder };
  await rejects(evaluateTasks(model, options), "usage", { option: "runCode", value: "code" });
  const { tasks, items, isolation } = await evaluateTasks(model, { ...options, runCode });
  const { low, high, ...score } = { low: NaN, high: NaN, ...tasks["code"] };
  assert.deepEqual(score, { "pass@1": 0.25, stderr: 0.25, n: 4, truncated: 0 });
  assert.ok(low > 0 && low < 0.25 && high > 0.25 && high < 1);
  assert.deepEqual(isolation, ["a test"]);
  const texts = (items["code"] ?? []).map(({ text }) => text);
  assert.deepEqual([...ran].sort(), texts.map((text, place) => `${"abcd"[place]}:${text}:end`));
  const first = items["code"] ?? [], none = first.map((item) => ({ ...item, isPassed: false, reason: "failed: x" }));
  assert.equal(compareItems(none as typeof first, first)["pass@1"]?.difference, 0.25);
  await Deno.remove(folder, { recursive: true });
});
