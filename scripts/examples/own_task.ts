// A task of your own in a few lines.
//
//   compresso eval MODEL --tasks scripts/examples/own_task.ts --task-data DIR
//
// reads DIR/weekdays.test.jsonl, with rows such as {"day": "Monday", "next": ["Tuesday", "Friday"], "right": 0}.
import { defineTask } from "compresso/evaluate";

export default defineTask({
  name: "weekdays",
  item: (row) => ({
    context: `The day after ${row.text("day")} is`,
    choices: row.texts("next"),
    answer: row.whole("right"),
  }),
});
