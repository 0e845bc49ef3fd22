"""Makes fixtures/tokenizer: two tiny tokenizers and what the reference libraries make of odd strings. Owns the corpus and the cases.

Development only. Needs tokenizers, transformers and sentencepiece. Run: python3 scripts/golden/tokenizer.py
"""

import io
import json
import random
from pathlib import Path

import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

OUT = Path(__file__).resolve().parents[2] / "fixtures" / "tokenizer"

CHATML = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + '<|end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)
# Writes BOS itself, puts a space around contents and refuses a system turn, as the first Mistral templates do.
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate user/assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + eos_token }}{% endif %}{% endfor %}"
)

NOUNS = "river stone garden window engine letter winter kitchen mountain teacher number market island bridge question answer".split()
VERBS = "carries finds opens measures forgets paints follows builds remembers counts".split()
OTHERS = [
    "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / len(values)\n",
    "if (x == 12) { y[3] = x * 4; } // ok\n", "The 3 letters cost 17.50, the 24 others 1,208.\n",
    "C'est l'été, le garçon mange un gâteau.\n", "Grüße aus München, schöne Straße!\n", "Привет, как дела? Всё хорошо.\n",
    "今日は天気がいいですね。\n", "I'm sure they'll say we've won; it isn't so.\n", "### Instruction:\n### Input:\n### Response:\n",
]

TEXTS = [
    "", "a", " ", "  ", "     x", "\n", "\n\n\n", "\t\ttab", " leading", "trailing ", "  two  spaces  ", "a\r\nb", "The river carries a stone.",
    "the winter garden", "Window", "WINDOW", "I'm you're they'll HE'LL we'd o'clock", "12345", "  12  34", "1,208.50", "٣٤٥ ½ ²³ Ⅷ", "x1y22z333",
    "c'est l'été", "e\u0301 \u00e9", "Straße", "Привет", "日本語のテキスト", "한국어", "مرحبا بالعالم", "👍", "👍🏽 👨‍👩‍👧 🏳️‍🌈", "a👍b", "\U00020000", "\u00a0nbsp\u00a0", "a\u3000b",
    "zero\u200bwidth", "x\u0085y\u2028z", "\ufeffbom", "�", "def f(x):\n    return x[0] // 5\n", "a=b+c*d", "<|end|>", "a<|end|>b", " <|start|>user\nhi<|end|>\n",
    "<s>", "</s> x", "<unk>", "<0x0A>", "▁", "▁▁a", "Ġ", "https://ex.org/?q=a%20b", "!!!???", "¿qué?", "\x01\x7f", "mountainmountain", "...", "a" * 40, " " * 19 + "x",
    "### Instruction:\nCount.\n\n### Response:\n", "question answer question", "teacher's", "A.B.C", "e.g. 3 letters", "0x1F 3e-10", "new\nline\n  indented\n",
]


def corpus() -> list[str]:
    rng = random.Random(0)
    lines = [f"The {rng.choice(NOUNS)} {rng.choice(VERBS)} the {rng.choice(NOUNS)} near a {rng.choice(NOUNS)}.\n" for _ in range(400)]
    return lines + OTHERS * 12


def random_texts(count: int) -> list[str]:
    rng = random.Random(1)
    alphabet = list("abe tr  0 9\n\t'.,!-é漢😀ß¹٢\u00a0(){}<|>▁") + [" the", "stone", "ing"]
    return ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 40))) for _ in range(count)]


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=["<|pad|>", "<|start|>", "<|end|>"], initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def sentence_piece() -> sentencepiece.SentencePieceProcessor:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line.rstrip("\n") for text in corpus() for line in text.splitlines()), model_writer=model, model_type="bpe",
        vocab_size=560, byte_fallback=True, character_coverage=0.995, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def merges_by_score(tokens: list[str], scores: list[float]) -> list[tuple[str, str]]:
    known = set(tokens)
    found = []
    for token, score in zip(tokens, scores):
        found += [(score, token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in known and token[cut:] in known]
    # Scores differ from token to token; within a token the order of its cuts does not matter here, the longest left part goes first.
    found.sort(key=lambda entry: (-entry[0], -len(entry[1])))
    return [(left, right) for _, left, right in found]


def as_fast(tokens: list[str], scores: list[float]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges_by_score(tokens, scores), unk_token="<unk>", fuse_unk=True,
        byte_fallback=True,
    ))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1),
    ])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    return tokenizer


def chats(tokenizer: Tokenizer, template: str, config: dict) -> list[dict]:
    names = {key: value for key, value in config.items() if key.endswith("_token") and isinstance(value, str)}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": " A stone. "}, {"role": "user", "content": "Why?\n"}]
    return [
        {"messages": messages, "addGenerationPrompt": add, "text": fast.apply_chat_template(messages, tokenize=False, add_generation_prompt=add)}
        for messages, add in ((turns[:1], True), (turns[:2], False), (turns, True))
    ]


def write(folder: Path, tokenizer: Tokenizer, config: dict, template: str, extra: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}, indent=2) + "\n")
    cases = []
    for text in TEXTS + random_texts(60):
        bare = tokenizer.encode(text, add_special_tokens=False).ids
        cases.append({
            "text": text, "ids": bare, "withSpecial": tokenizer.encode(text).ids,
            "decoded": tokenizer.decode(bare, skip_special_tokens=False), "skipped": tokenizer.decode(bare, skip_special_tokens=True),
        })
    golden = {"cases": cases, "chats": chats(tokenizer, template, config), **extra}
    (folder / "golden.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(folder.name, tokenizer.get_vocab_size(), "tokens,", len(cases), "cases")


def main() -> None:
    write(
        OUT / "byte_level", byte_level(),
        {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>", "clean_up_tokenization_spaces": False},
        CHATML, {},
    )
    spm = sentence_piece()
    ids = range(spm.vocab_size())
    tokens, scores = [spm.id_to_piece(i) for i in ids], [spm.get_score(i) for i in ids]
    types = [2 if spm.is_unknown(i) else 3 if spm.is_control(i) else 6 if spm.is_byte(i) else 1 for i in ids]
    # SentencePiece itself on the same texts; it does not know special tokens in a text.
    direct = [{"text": text, "ids": spm.encode(text)} for text in TEXTS + random_texts(60) if not any(s in text for s in ("<s>", "</s>", "<unk>"))]
    write(
        OUT / "sentencepiece", as_fast(tokens, scores),
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "clean_up_tokenization_spaces": False},
        BRACKETS, {"tokens": tokens, "scores": scores, "types": types, "sentencepiece": direct},
    )


if __name__ == "__main__":
    main()
