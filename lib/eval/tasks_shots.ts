// MMLU and BIG-bench-hard: tasks with many subsets and solved examples before each question, with the prompts of lm-evaluation-harness.
import { trim } from "../compat/python_text.ts";
import { shownJson } from "../core/text.ts";
import type { TaskDefinition, TaskItem, TaskRow } from "./task.ts";

const MMLU_SUBJECTS = [
  ...["abstract_algebra", "anatomy", "astronomy", "business_ethics", "clinical_knowledge", "college_biology"],
  ...["college_chemistry", "college_computer_science", "college_mathematics", "college_medicine", "college_physics"],
  ...["computer_security", "conceptual_physics", "econometrics", "electrical_engineering", "elementary_mathematics"],
  ...["formal_logic", "global_facts", "high_school_biology", "high_school_chemistry", "high_school_computer_science"],
  ...["high_school_european_history", "high_school_geography", "high_school_government_and_politics"],
  ...["high_school_macroeconomics", "high_school_mathematics", "high_school_microeconomics", "high_school_physics"],
  ...["high_school_psychology", "high_school_statistics", "high_school_us_history", "high_school_world_history"],
  ...["human_aging", "human_sexuality", "international_law", "jurisprudence", "logical_fallacies", "machine_learning"],
  ...["management", "marketing", "medical_genetics", "miscellaneous", "moral_disputes", "moral_scenarios", "nutrition"],
  ...["philosophy", "prehistory", "professional_accounting", "professional_law", "professional_medicine"],
  ...["professional_psychology", "public_relations", "security_studies", "sociology", "us_foreign_policy", "virology"],
  "world_religions",
];

function mmlu(name: string, subject: (row: TaskRow) => string): TaskDefinition {
  return {
    name,
    splits: ["test"],
    shots: 5,
    shotSplits: ["dev"],
    subset: subject,
    description: (row) =>
      `The following are multiple choice questions (with answers) about ${subject(row).replaceAll("_", " ")}.\n\n`,
    item: (row): TaskItem => {
      const choices = row.texts("choices");
      if (choices.length !== 4) throw row.error('"choices" has four texts', `has ${shownJson(choices)}`);
      const listed = choices.map((choice, index) => `${"ABCD"[index]}. ${choice}\n`).join("");
      return {
        context: `${trim(row.text("question"))}\n${listed}Answer:`,
        choices: ["A", "B", "C", "D"],
        answer: row.whole("answer"),
      };
    },
  };
}

/** MMLU over all subjects: the field `subject`, or a file for each, such as mmlu_anatomy.test.jsonl. */
export const MMLU: TaskDefinition = mmlu("mmlu", (row) => row.text("subject"));

/** MMLU's subjects one by one. */
export const MMLU_PARTS: readonly TaskDefinition[] = MMLU_SUBJECTS.map((subject) =>
  mmlu(`mmlu_${subject}`, () => subject)
);

const letters = (count: number): string[] =>
  Array.from({ length: count }, (_, index) => `(${"ABCDEFGHIJKLMNOPQR"[index]})`);
const DEDUCTION = "A logical deduction task which requires deducing the order of a sequence of objects.";
const SHUFFLED =
  "A task requiring determining the final positions of a set of objects given their initial positions and a description of a sequence of swaps.";

/** Description and choices of each subset, as in the harness's leaderboard_bbh. */
const BBH_SUBSETS: Readonly<Record<string, readonly [description: string, choices: readonly string[]]>> = {
  boolean_expressions: ["Evaluate the result of a random Boolean expression.", ["False", "True"]],
  causal_judgement: ["Answer questions about causal attribution.", ["Yes", "No"]],
  date_understanding: ["Infer the date from context.", letters(6)],
  disambiguation_qa: ["Clarify the meaning of sentences with ambiguous pronouns.", letters(3)],
  formal_fallacies: ["Distinguish deductively valid arguments from formal fallacies.", ["valid", "invalid"]],
  geometric_shapes: ["Name geometric shapes from their SVG paths.", letters(11)],
  hyperbaton: ["Order adjectives correctly in English sentences.", letters(2)],
  logical_deduction_five_objects: [DEDUCTION, letters(5)],
  logical_deduction_seven_objects: [DEDUCTION, letters(7)],
  logical_deduction_three_objects: [DEDUCTION, letters(3)],
  movie_recommendation: ["Recommend movies similar to the given list of movies.", letters(6)],
  navigate: [
    "Given a series of navigation instructions, determine whether one would end up back at the starting point.",
    ["Yes", "No"],
  ],
  object_counting: [
    "Questions that involve enumerating objects and asking the model to count them.",
    Array.from({ length: 19 }, (_, number) => String(number)),
  ],
  penguins_in_a_table: ["Answer questions about a table of penguins and their attributes.", letters(5)],
  reasoning_about_colored_objects: [
    "Answer extremely simple questions about the colors of objects on a surface.",
    letters(18),
  ],
  ruin_names: ["Select the humorous edit that 'ruins' the input movie or musical artist name.", letters(6)],
  salient_translation_error_detection: [
    "Detect the type of error in an English translation of a German source sentence.",
    letters(6),
  ],
  snarks: [
    'Determine which of two sentences is sarcastic.\n\nAccording to Cambridge University Dictionary, sarcasm is "the use of remarks that clearly mean the opposite of what they say, made in order to hurt someone\'s feelings or to criticize something in a humorous way." Sarcastic sentences often contain satirical or ironic utterances, hyperboles, ambivalent or witty remarks.',
    letters(2),
  ],
  sports_understanding: [
    "Determine whether an artificially constructed sentence relating to sports is plausible or not.",
    ["yes", "no"],
  ],
  temporal_sequences: [
    "Task description: Answer questions about which times certain events could have occurred.",
    letters(4),
  ],
  tracking_shuffled_objects_five_objects: [SHUFFLED, letters(5)],
  tracking_shuffled_objects_seven_objects: [SHUFFLED, letters(7)],
  tracking_shuffled_objects_three_objects: [SHUFFLED, letters(3)],
  web_of_lies: ["Evaluate a random boolean function expressed as a word problem.", ["Yes", "No"]],
};

function bbh(name: string, subset: (row: TaskRow) => string): TaskDefinition {
  const facts = (row: TaskRow): (typeof BBH_SUBSETS)[string] => {
    const of = subset(row), known = Object.hasOwn(BBH_SUBSETS, of) ? BBH_SUBSETS[of] : undefined;
    if (known) return known;
    throw row.error(`a subset is one of ${Object.keys(BBH_SUBSETS).join(", ")}`, `has ${shownJson(of)}`);
  };
  return {
    name,
    splits: ["test"],
    shots: 3,
    shotSplits: ["fewshot", "dev"],
    subset,
    description: (row) => facts(row)[0],
    item: (row): TaskItem => {
      const [, choices] = facts(row), answer = choices.indexOf(row.text("target"));
      // A few targets of the data set are no choice; the harness counts such questions as answered wrongly.
      return { context: `Q: ${row.text("input")}\nA:`, choices, answer: answer < 0 ? null : answer };
    },
  };
}

/** BIG-bench-hard's multiple choice over all subsets: the field `subset`, or a file for each, such as bbh_snarks.test.jsonl. */
export const BBH: TaskDefinition = bbh("bbh", (row) => row.text("subset"));

/** BIG-bench-hard's subsets one by one. */
export const BBH_PARTS: readonly TaskDefinition[] = Object.keys(BBH_SUBSETS).map((subset) =>
  bbh(`bbh_${subset}`, () => subset)
);
