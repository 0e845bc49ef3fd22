"""Prunes a LLaMA folder with another program's own example on the CPU, and measures it and folders of ours alike.

usage: python3 pruning_peers.py PROGRAM --model DIR --text FILE --documents FILE [--repository CHECKOUT] [--ratio R]
                                [--calibration FILE] [--save DIR]

PROGRAM: torch-pruning runs examples/LLMs/prune_llm.py of a checkout of VainF/Torch-Pruning, with its package from PyPI;
llm-pruner runs llama3.py of a checkout of horseee/LLM-Pruner, with the package in it; none measures the folder as it
is. The examples run as they are, but for the replacements below: the CPU in place of a GPU, float32, data from a file,
and no measuring of their own. Prints one JSON line. Owns what is replaced and the figures; neither program is a
dependency of this project.

torch-pruning 1.6.1 needs transformers 4.48.3, the version that its example names: with 5.24 its graph of dependencies
does not come to an end even for one layer.
"""

import argparse
import json
import math
import os
import random
import resource
import sys
import time
import types

import transformers

from protocol import leading_ids, load_tokenizer, perplexity, read_text, torch, windows_of
from transformers import AutoModelForCausalLM

WINDOW = 512

# (text of the example, what stands in its place); each must be there.
REPLACEMENTS = {
    "torch-pruning": [
        ('device = torch.device("cuda:0")', 'device = torch.device("cpu")'),
        ("torch_dtype=torch.float16", "torch_dtype=torch.float32"),
        ("torch.cuda.empty_cache()\n    model.eval()", "DONE(model)\n    return"),
    ],
    "llm-pruner": [
        ("torch_dtype=torch.float16", "torch_dtype=torch.float32"),
        # Its graph takes tensors, and tuples of them, as the output: caches of keys and values are none since transformers 4.36.
        ('    if args.device != "cpu":\n        model.half()\n', "    model.config.use_cache = False\n"),
        ("    gc.collect()\n    torch.cuda.empty_cache()\n", "    return DONE(model)\n"),
    ],
}


def load_model(path, trust_remote_code=False):
    """As that of the protocol, but with a name of the type that transformers before 4.56 know too."""
    kinds = {"torch_dtype": torch.float32, "trust_remote_code": trust_remote_code}
    return AutoModelForCausalLM.from_pretrained(path, **kinds).eval()


class Texts:
    """Stands in for a data set: documents of a JSONL file with a field `text`."""

    def __init__(self, path):
        with open(path, encoding="utf-8") as file:
            self.rows = [json.loads(line) for line in file]

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def run_example(options):
    """Runs the example and returns the model that it made, in memory."""
    folder = os.path.abspath(options.repository)
    name = {"torch-pruning": "examples/LLMs/prune_llm.py", "llm-pruner": "llama3.py"}[options.program]
    path = os.path.join(folder, name)
    with open(path, encoding="utf-8") as file:
        source = file.read()
    for old, new in REPLACEMENTS[options.program]:
        if old not in source:
            raise SystemExit(f"FAIL {path} no longer holds {old!r}")
        source = source.replace(old, new)
    datasets = types.ModuleType("datasets")
    datasets.load_dataset = lambda *_, **__: Texts(options.calibration)
    datasets.__spec__ = None
    sys.modules["datasets"] = datasets
    made = []
    arguments = [path]
    if options.program == "torch-pruning":
        # The checkout itself is not imported: its package is the one that is installed.
        arguments += ["--model", options.model, "--pruning_ratio", str(options.ratio), "--max_seq_len", str(WINDOW)]
    else:
        sys.path.insert(0, folder)
        os.chdir(options.scratch)
        # Other models' files, which need older transformers, and are not used.
        sys.modules["LLMPruner.models"] = types.ModuleType("LLMPruner.models")
        first, last = options.layers
        arguments += ["--base_model", options.model, "--pruning_ratio", str(options.ratio), "--device", "cpu"]
        arguments += ["--eval_device", "cpu", "--block_wise", "--pruner_type", "taylor"]
        arguments += ["--block_mlp_layer_start", str(first), "--block_mlp_layer_end", str(last)]
        # It fails where a ratio cuts less than one KV group, as one below 1/3 does of three: then columns alone.
        start = first if options.attention else last
        arguments += ["--block_attention_layer_start", str(start), "--block_attention_layer_end", str(last)]
    sys.argv = arguments
    exec(compile(source, path, "exec"), {"__name__": "__main__", "__file__": path, "DONE": made.append})
    return made[0].float().eval()


def linear_weights(model):
    """Weights of the layers' projections."""
    return sum(
        module.weight.numel() for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and ".layers." in name
    )


def bytes_of(tokenizer, ids, first=1):
    """Bytes of the text of all tokens but the first ones."""
    texts = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids, ids[:first]))
    whole, first = (len(text.encode()) for text in texts)
    return whole - first


def text_measures(model, tokenizer, options):
    text = read_text(options.text, 160_000)
    found = perplexity(model, tokenizer, text, WINDOW, options.windows)
    used, first = windows_of(tokenizer, text, WINDOW, options.windows), max(1, len(leading_ids(tokenizer)))
    labels = sum(len(one) - first for one in used)
    size = sum(bytes_of(tokenizer, one, first) for one in used)
    return {"perplexity": found["perplexity"], "bits_per_byte": found["nll"] * labels / size / math.log(2)}


def document_measures(model, tokenizer, options):
    """Of the last documents of a file, the first tokens of each: what `compresso experiment` measures with `last`."""
    nll = labels = size = 0
    for row in Texts(options.documents).rows[-options.last:]:
        ids = tokenizer(row["text"], add_special_tokens=False, verbose=False)["input_ids"][:WINDOW]
        if len(ids) < 2:
            continue
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1].float()
        nll += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum").double().item()
        labels += len(ids) - 1
        size += bytes_of(tokenizer, ids)
    return {"perplexity": math.exp(nll / labels), "bits_per_byte": nll / size / math.log(2)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", choices=["torch-pruning", "llm-pruner", "none"])
    parser.add_argument("--model", required=True, help="folder of Hugging Face")
    parser.add_argument("--text", required=True, help="text: its first windows of 512 tokens")
    parser.add_argument("--documents", required=True, help="JSONL of documents: 512 tokens of each of the last ones")
    parser.add_argument("--repository", help="checkout of the program")
    parser.add_argument("--ratio", type=float, default=0.2, help="the example's own --pruning_ratio")
    parser.add_argument("--layers", type=int, nargs=2, default=[3, 28], help="llm-pruner: the first, and one after the last")
    parser.add_argument("--attention", action="store_true", help="llm-pruner: cut KV groups too")
    parser.add_argument("--calibration", help="llm-pruner: JSONL of documents in place of BookCorpus")
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--last", type=int, default=100)
    parser.add_argument("--scratch", default="/tmp", help="folder for the example's logs")
    parser.add_argument("--save", help="folder to save the model in, and to load it from again")
    parser.add_argument("--no-measure", action="store_true", help="sizes alone")
    options = parser.parse_args()
    for name in ("model", "text", "documents", "calibration", "save"):
        if getattr(options, name):
            setattr(options, name, os.path.abspath(getattr(options, name)))
    dense = linear_weights(load_model(options.model)) if options.program != "none" else None
    random.seed(1)
    start, used = time.perf_counter(), time.process_time()
    model = load_model(options.model, True) if options.program == "none" else run_example(options)
    seconds, cpu = time.perf_counter() - start, time.process_time() - used
    result = {
        "program": options.program, "transformers": transformers.__version__, "ratio": options.ratio if dense else None, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "parameters": sum(one.numel() for one in model.parameters()), "linear_weights": linear_weights(model),
    }
    if dense:
        result["share_cut"] = 1 - result["linear_weights"] / dense
    tokenizer = load_tokenizer(options.model, True)
    if options.save:
        result["saved"] = saved(model, tokenizer, options.save)
    if not options.no_measure:
        result["text"] = text_measures(model, tokenizer, options)
        result["documents"] = document_measures(model, tokenizer, options)
    print(json.dumps(result))


def saved(model, tokenizer, folder):
    """Saves a model as a folder of Hugging Face, loads it in stock transformers, and says how that went."""
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        again = load_model(folder)
        ids = torch.arange(100, 140).reshape(1, -1)
        with torch.no_grad():
            gap = (again(input_ids=ids).logits - model(input_ids=ids).logits).abs().max().item()
        return f"loads; logits differ by {gap:.1e}"
    except Exception as error:  # whatever the program leaves
        return f"{type(error).__name__}: {str(error)[:300]}"


main()
