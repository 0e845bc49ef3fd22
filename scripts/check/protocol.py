"""The perplexity protocol, greedy generation and model loading that the other checks share, on top of transformers.

Owns the definition of the figures; refuses to compare them. The protocol: the first C characters of a text, tokenised
without special tokens, cut into whole windows of W tokens (the rest is dropped), each window alone from position 0,
mean negative log-likelihood over the W - 1 predictions of each window, in float32.
"""

import math
import os
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache  # noqa: E402
from transformers.utils import logging  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
logging.set_verbosity_error()
logging.disable_progress_bar()
# past_key_values is what every published modelling file takes; transformers 5 warns about its coming name.
warnings.filterwarnings("ignore", category=FutureWarning)


def _where(path, trust_remote_code):
    if path.endswith(".gguf"):
        folder, name = os.path.split(os.path.abspath(path))
        return {"pretrained_model_name_or_path": folder, "gguf_file": name}
    return {"pretrained_model_name_or_path": path, "trust_remote_code": trust_remote_code}


def load_model(path, trust_remote_code=False):
    """Model in float32 and eval mode, from a Hugging Face folder or a GGUF file."""
    return AutoModelForCausalLM.from_pretrained(**_where(path, trust_remote_code), dtype=torch.float32).eval()


def load_tokenizer(path, trust_remote_code=False):
    """Tokenizer of a Hugging Face folder or a GGUF file."""
    return AutoTokenizer.from_pretrained(**_where(path, trust_remote_code))


def read_text(path, limit_chars):
    """The first `limit_chars` characters (code points) of a UTF-8 text, line endings as they are; 0 means all."""
    with open(path, encoding="utf-8", newline="") as file:
        text = file.read()
    return text[:limit_chars] if limit_chars else text


def leading_ids(tokenizer):
    """Ids that the tokenizer puts before a text, such as BOS."""
    whole, own = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    at = next(at for at in range(len(whole)) if whole[at:at + len(own)] == own)
    return whole[:at]


def windows_of(tokenizer, text, window, max_windows=0):
    """Windows of a text, each of `window` tokens with the leading ids of the tokenizer among them."""
    tokens = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    leading = leading_ids(tokenizer)
    own = window - len(leading)
    count = len(tokens) // own
    if max_windows:
        count = min(count, max_windows)
    if count == 0:
        raise SystemExit(f"FAIL the text holds {len(tokens)} tokens, less than one window of {own}")
    return [leading + tokens[index * own:(index + 1) * own] for index in range(count)]


def perplexity(model, tokenizer, text, window, max_windows=0):
    """Perplexity of a text, how many windows and tokens it was measured on, and the mean NLL of each window."""
    windows, first = windows_of(tokenizer, text, window, max_windows), max(1, len(leading_ids(tokenizer)))
    means = []
    with torch.no_grad():
        for tokens in windows:
            ids = torch.tensor([tokens])
            logits = model(input_ids=ids, use_cache=False).logits[0, first - 1:-1].float()
            means.append(torch.nn.functional.cross_entropy(logits, ids[0, first:]).double().item())
    nll = sum(means) / len(windows)
    return {
        "perplexity": math.exp(nll), "nll": nll, "windows": len(windows), "tokens": len(windows) * window,
        "window_nll": [round(mean, 6) for mean in means],
    }


def step_with_cache(model, ids, cache):
    """Logits of the next tokens, and the cache they were added to; `cache` is None at the start."""
    if cache is None:
        # Layers with other states than keys are made from the configuration alone.
        cache = DynamicCache(config=model.config) if hasattr(model.config, "conv_L_cache") else DynamicCache()
    return model(input_ids=ids, past_key_values=cache, use_cache=True).logits.float(), cache


def greedy(model, tokenizer, prompt, max_tokens, special_tokens=False):
    """Greedy continuation of a prompt, by default without special tokens: ids of both, text, smallest margin.

    The margin of a step is the gap between the best and the second logit: a small one says that another program,
    with other rounding, may rightly choose another token there.
    """
    ids = tokenizer(prompt, add_special_tokens=special_tokens)["input_ids"]
    stops = model.generation_config.eos_token_id
    stops = set(stops if isinstance(stops, list) else [stops])
    stops.add(tokenizer.eos_token_id)
    new, margin, cache, step, ended = [], math.inf, None, torch.tensor([ids]), False
    with torch.no_grad():
        for _ in range(max_tokens):
            logits, cache = step_with_cache(model, step, cache)
            best = torch.topk(logits[0, -1], 2)
            token = int(best.indices[0])
            if token in stops:
                ended = True
                break
            margin = min(margin, float(best.values[0] - best.values[1]))
            new.append(token)
            step = torch.tensor([[token]])
    return {
        "prompt": prompt, "prompt_tokens": ids, "tokens": new, "ended": ended, "text": tokenizer.decode(new),
        "smallest_margin": round(margin, 4),
    }
