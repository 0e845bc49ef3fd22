// Origin and licence of a model, as stated by its files.

/** Origin that the files of a model state. Missing facts are absent. */
export interface Provenance {
  /** Name of the model. */
  readonly name?: string;
  /** Its author. */
  readonly organization?: string;
  /** Name of its family, without size and version. */
  readonly basename?: string;
  /** Its size as text, such as "135M". */
  readonly sizeLabel?: string;
  /** Identifier of the licence, such as "apache-2.0", or "other". */
  readonly license?: string;
  /** Name of a licence without an identifier. */
  readonly licenseName?: string;
  /** URL of the licence text. */
  readonly licenseLink?: string;
  /** The licence text, if a file in the model's folder contains it. */
  readonly licenseText?: string;
  /** Languages, as codes such as "en". */
  readonly languages?: readonly string[];
  /** Models of the Hugging Face Hub that it is based on, as `owner/name`. */
  readonly baseModels?: readonly string[];
}
