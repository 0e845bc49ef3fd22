// Options of pruning: what a run reads.
import { MOST_WINDOWS, QUESTIONS, WINDOW } from "../../evaluation.ts";
import { scoresOnRows } from "../../methods/method.ts";
import { GIVEN, type OptionTable } from "./entry.ts";

/** Their rows. */
export const DATA_OPTIONS = {
  data: {
    type: "text",
    of: "command",
    everyday: true,
    placeholder: "file",
    defaultText: "none; the demo has its own",
    scope: ["experiment", "sweep"],
    help:
      "training data (instructions, conversations or texts): a file of JSON, JSON lines, plain text (each also .gz or .zst) or parquet, or a data set of the Hub, hf:owner/name[:file]",
  },
  rows: { name: null, type: "list", help: "rows to train on" },
  textField: {
    type: "text",
    of: "readRows",
    placeholder: "name",
    defaultText: "detected from the fields",
    elsewhere: "textField of the data",
    help: "field with the text of every row",
  },
  limit: {
    type: "count",
    least: 1,
    of: "readRows",
    name: "limitRows",
    scope: ["experiment", "sweep"],
    elsewhere: "limit of the data",
    help: "largest number of rows to read",
  },
  skipBroken: {
    type: "switch",
    default: false,
    mayChange: true,
    scope: ["sweep"],
    elsewhere: "skipBroken of the data",
    help: "leave broken rows out and count them, instead of stopping",
  },
  packing: {
    type: "switch",
    default: true,
    paper: false,
    work: "training",
    help: "pack rows into full sequences; a row may continue in the next one",
    off: "one sequence for each row, padded or cut",
  },
  prompt: {
    type: "prompt",
    placeholder: "file",
    defaultText: "the collaborative prompt; none for a run without steps that cuts only the vocabulary",
    off: "leave the collaborative prompt out",
    help: "file with a text to put before every instruction in training",
  },
  calibration: {
    type: "calibration",
    placeholder: "file",
    when: { method: scoresOnRows },
    defaultText:
      "own for masks learned from saliency with a prior, else none; none in experiments, where it names data",
    work: "choosing",
    help: "texts on which units are scored before pruning: a file, own (the model writes them first), or none",
  },
  "evaluate.text": {
    type: "text",
    name: "evalText",
    placeholder: "file",
    mayChange: true,
    scope: ["sweep"],
    help:
      `text on which loss, perplexity and bits per byte are measured, before and after pruning; only its first ${MOST_WINDOWS} windows of ${WINDOW} tokens count`,
  },
  "evaluate.tasks": {
    type: "list",
    name: "evalTasks",
    placeholder: "list",
    mayChange: true,
    scope: ["sweep"],
    help: "tasks to score before and after pruning: names as for eval, or files with your own tasks",
  },
  "evaluate.taskData": {
    type: "text",
    name: "taskData",
    placeholder: "dir",
    mayChange: true,
    when: { "evaluate.tasks": GIVEN },
    defaultText: "this folder",
    scope: ["sweep"],
    elsewhere: "evaluate.tasks.data",
    help: "folder with the data of these tasks",
  },
  "evaluate.questions": {
    type: "count",
    least: 1,
    name: "evalLimit",
    mayChange: true,
    default: QUESTIONS,
    when: { "evaluate.tasks": GIVEN },
    scope: ["sweep"],
    help: "largest number of questions of each task, or of each of its subsets",
  },
  reading: { name: null, type: "value", mayChange: true, help: "what became of the rows in reading" },
  calibrationReading: {
    name: null,
    type: "value",
    mayChange: true,
    work: "training",
    help: "what became of the calibration rows in reading",
  },
  vocabData: {
    type: "text",
    of: "command",
    placeholder: "file",
    defaultText: "the training data",
    when: { units: ["vocab"] },
    scope: [],
    help: "texts by which the unit vocab decides which tokens to keep",
  },
} as const satisfies OptionTable;
