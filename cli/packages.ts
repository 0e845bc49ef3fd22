// The npm packages of cli/, with versions in the specifiers, so that the program runs by its address and installs without a configuration file.
// Versions are those of deno.json, which a test compares.
export {
  Argument,
  Command,
  CommanderError,
  type CommandUnknownOpts,
  Help,
  Option,
} from "npm:@commander-js/extra-typings@^15.0.0";
export { default as stringWidth } from "npm:string-width@^8.3.0";
