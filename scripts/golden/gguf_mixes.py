"""Makes golden types of tensors: which type llama.cpp's quantiser gives each matrix, for every type of a file that Compresso writes.

Owns fixtures/gguf_mixes.json: a list of { arch, shape, types: { <file type>: { <part>: <its types, by layer> } } }; a part is a tensor's name without
"blk.N." and ".weight". Weights are zeros.
LIBRARIES is a folder of llama.cpp's shared libraries, such as bins/linux-x64 of the npm package @node-llama-cpp/linux-x64.
Usage: python3 scripts/golden/gguf_mixes.py LIBRARIES
"""

import ctypes
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFWriter

FILE_TYPES = {
    "q8_0": 7, "q6_k": 18, "q5_k_m": 17, "q5_k_s": 16, "q5_1": 9, "q5_0": 8, "q4_k_m": 15, "q4_k_s": 14, "q4_1": 3, "q4_0": 2,
    "q3_k_l": 13, "q3_k_m": 12, "q3_k_s": 11, "q2_k": 10,
}
# Architecture, layers, hidden size, FFN columns, heads, KV heads, whether the head is the embedding.
SHAPES = [
    ("llama", 17, 256, 256, 4, 1, False), ("llama", 10, 256, 512, 2, 1, True), ("llama", 9, 96, 256, 4, 4, False),
    ("llama", 3, 96, 80, 4, 4, True), ("gptneox", 10, 256, 256, 8, 8, False), ("gpt2", 9, 256, 256, 8, 8, True),
    ("phi3", 17, 256, 256, 8, 2, False),
]
VOCAB, HEAD_DIM = 32, 32


class Parameters(ctypes.Structure):
    """The first fields of llama_model_quantize_params, and room for the others."""

    _fields_ = [(name, ctypes.c_int32) for name in ("threads", "file_type", "output_type", "embedding_type")] + [
        (name, ctypes.c_bool) for name in ("requantize", "quantize_output", "only_copy", "pure")
    ] + [("others", ctypes.c_char * 248)]


def write_model(path: str, shape: tuple[str, int, int, int, int, int, bool]) -> None:
    arch, layers, hidden, ffn, heads, kv_heads, tied = shape
    writer = GGUFWriter(path, arch)
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(HEAD_DIM)
    writer.add_value_length(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_layer_norm_eps(1e-5)
    writer.add_parallel_residual(True)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(VOCAB)
    writer.add_tokenizer_model("none")
    matrices = {"token_embd": (VOCAB, hidden)} | ({} if tied else {"output": (VOCAB, hidden)})
    vectors = {"output_norm": hidden}
    if arch == "gpt2":
        # Its converter stores it as f32.
        vectors |= {"position_embd": (128, hidden)}
    for layer in range(layers):
        sizes = {
            "attn_q": (heads * HEAD_DIM, hidden), "attn_k": (kv_heads * HEAD_DIM, hidden), "attn_v": (kv_heads * HEAD_DIM, hidden),
            "attn_output": (hidden, heads * HEAD_DIM), "ffn_gate": (ffn, hidden), "ffn_up": (ffn, hidden), "ffn_down": (hidden, ffn),
        }
        if arch != "llama":
            rows = sum(sizes.pop(f"attn_{part}")[0] for part in "qkv")
            sizes = {"attn_qkv": (rows, hidden)} | sizes
            del sizes["ffn_gate"]
        if arch == "phi3":
            sizes["ffn_up"] = (2 * ffn, hidden)
        matrices |= {f"blk.{layer}.{part}": size for part, size in sizes.items()}
        vectors |= {f"blk.{layer}.{part}": hidden for part in ("attn_norm", "ffn_norm")}
    for name, size in matrices.items():
        writer.add_tensor(f"{name}.weight", np.zeros(size, dtype=np.float16))
    for name, size in vectors.items():
        writer.add_tensor(f"{name}.weight", np.ones(size, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def by_part(types: dict[str, str]) -> dict[str, list[str]]:
    """In the order of the layers, whatever that of the file is."""
    parts: dict[str, list[str]] = {}
    for name, kind in sorted(types.items(), key=lambda entry: int(entry[0].split(".")[1]) if entry[0].startswith("blk.") else 0):
        parts.setdefault(name.removesuffix(".weight").split(".")[-1], []).append(kind)
    return {part: kinds[:1] if len(set(kinds)) == 1 else kinds for part, kinds in parts.items()}


def library(folder: Path, pattern: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(next(folder.glob(pattern))), mode=ctypes.RTLD_GLOBAL)


def main() -> None:
    folder = Path(sys.argv[1]).resolve()
    library(folder, "libggml-base.so*")
    library(folder, "libggml.*").ggml_backend_load_all_from_path(str(folder).encode())
    llama = library(folder, "libllama.*")
    llama.llama_model_quantize_default_params.restype = Parameters
    llama.llama_model_quantize.restype = ctypes.c_uint32
    golden = []
    for shape in SHAPES:
        arch, layers, hidden, ffn, heads, kv_heads, tied = shape
        types = {}
        with tempfile.TemporaryDirectory() as out:
            write_model(f"{out}/f16.gguf", shape)
            for name, number in FILE_TYPES.items():
                parameters = llama.llama_model_quantize_default_params()
                parameters.file_type = number
                made = f"{out}/made.gguf"
                assert llama.llama_model_quantize(f"{out}/f16.gguf".encode(), made.encode(), ctypes.byref(parameters)) == 0
                tensors = GGUFReader(made).tensors
                types[name] = by_part({t.name: t.tensor_type.name.lower() for t in tensors if len(t.shape) > 1})
        layer = {"heads": heads, "kvHeads": kv_heads, "ffn": ffn}
        golden.append({
            "arch": arch,
            "shape": {"vocab": VOCAB, "hidden": hidden, "headDim": HEAD_DIM, "layers": [layer] * layers, "tied": tied},
            "types": types,
        })
    path = Path(__file__).parents[2] / "fixtures" / "gguf_mixes.json"
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{path.name}: {len(golden)} shapes, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
