// Where a model comes from and under which licence, as its files say it.

/** What a model's files say of its origin; what they do not say is absent. */
export interface Provenance {
  /** Name of the model. */
  readonly name?: string;
  /** Who made it. */
  readonly organization?: string;
  /** Name of its family, without size and version. */
  readonly basename?: string;
  /** Its size in words, such as "135M". */
  readonly sizeLabel?: string;
  /** Identifier of the licence, such as "apache-2.0", or "other". */
  readonly license?: string;
  /** Name of a licence that has no identifier. */
  readonly licenseName?: string;
  /** Address of the licence's text. */
  readonly licenseLink?: string;
  /** The licence's text, where a file beside the model has it. */
  readonly licenseText?: string;
  /** Languages, as codes such as "en". */
  readonly languages?: readonly string[];
  /** Models of the Hugging Face Hub that it was made from, as `owner/name`. */
  readonly baseModels?: readonly string[];
}
