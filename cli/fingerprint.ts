// Digests of models for the verbs. Owns no code of its own.
export { modelDigest } from "../lib/io/fingerprint.ts";
