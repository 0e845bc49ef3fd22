// The Python files beside a folder whose class stock transformers lacks. Imported where such a folder is written.
export { default as configurationText } from "./remote_code/configuration_compresso.py" with { type: "text" };
export { default as modelingText } from "./remote_code/modeling_compresso.py" with { type: "text" };
