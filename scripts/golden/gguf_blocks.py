"""Makes golden blocks of every GGML tensor type that Compresso reads, with gguf-py as the oracle.

Owns fixtures/gguf_blocks.safetensors; refuses whole GGUF files. Seeded: running it again gives the same file.
  <type>.raw     U8  [blocks, bytes]  random bits; the f16 scales are finite, of both signs, some subnormal, some 0
  <type>.values  F32 [blocks, block]  gguf.quants.dequantize of them
  input          F32 [rows, 64]       values to quantise: ordinary, tiny, large, constant, zero rows, ties
  input.<type>   U8  [rows, bytes]    gguf.quants.quantize of them (f16, bf16 and the types of blocks of 32)
  input_mxfp4    F32 [rows, 64]       as input, but without values so small that the exponents of their scales do not exist
  input_k        F32 [rows, 256]      values to quantise into blocks of 256
  input_k.<type> U8  [rows, bytes]    ggml_quantize_chunk of them without an importance matrix (q2_k to q6_k; gguf-py does not quantise them)
  importance     F32 [512]            importance of columns: of unlike sizes, with a group of zeros
  weighted.<type> U8 [rows, bytes]    ggml_quantize_chunk of input_k as rows of 512 values, with it (types of up to 6 bits)
LIBGGML is ggml's library as llama.cpp builds it, such as libggml-base.so of the npm package @node-llama-cpp/linux-x64.
Usage: python3 scripts/golden/gguf_blocks.py LIBGGML
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from safetensors.numpy import save_file

# Where the f16 scales stand in a block.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
WRITTEN = ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
WRITTEN_K = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
BLOCKS = 5


def scale(random: np.random.Generator) -> np.float16:
    kind = random.integers(4)
    if kind == 0:
        return np.float16(random.normal() * 6e-6)  # subnormal
    if kind == 1:
        return np.float16(random.normal() * 500)
    return np.float16(random.normal() * 0.02)


def mxfp4_blocks() -> dict[str, np.ndarray]:
    """Exponents of scales from the subnormal 0 to the largest whose products are finite; each code in each half."""
    random = np.random.default_rng(20250805)
    raw = random.integers(0, 256, (12, 17), dtype=np.uint8)
    raw[:, 0] = [0, 1, 2, 60, 110, 120, 127, 128, 140, 200, 250, 251]
    raw[4:6, 1:] = (np.arange(32) * 17 % 256).astype(np.uint8).reshape(2, 16)
    values = dequantize(raw, Type.MXFP4)
    assert np.isfinite(values).all()
    rows = random.normal(size=(12, 64)).astype(np.float32) * np.float32(0.05)
    rows[1] *= np.float32(1e-30)
    rows[2] *= np.float32(1e30)
    rows[3] = 0
    rows[4] = np.float32(0.37)
    rows[5] = np.linspace(-6, 6, 64, dtype=np.float32)
    rows[6] = (np.arange(64) - 32).astype(np.float32) / 4  # ties of rounding
    rows[7, ::8] *= 40
    rows[8] = np.nextafter(np.float32(2), np.float32(0))  # the logarithm rounds up
    rows[9] = np.nextafter(np.float32(16), np.float32(0)) * np.sign(rows[9])
    return {
        "mxfp4.raw": raw, "mxfp4.values": values, "input_mxfp4": rows,
        "input_mxfp4.mxfp4": np.ascontiguousarray(quantize(rows, Type.MXFP4)).view(np.uint8).reshape(12, -1),
    }


def k_blocks(random: np.random.Generator, library: str) -> dict[str, np.ndarray]:
    rows = random.normal(size=(20, 256)).astype(np.float32) * np.float32(0.05)
    rows[1] *= np.float32(1e-3)
    rows[2] *= np.float32(3e4)
    rows[3] = 0
    rows[4] = np.float32(0.37)
    rows[5] = np.float32(-0.37)
    rows[6] = (np.arange(256) - 128).astype(np.float32)  # ties of rounding
    rows[7] = np.abs(rows[7])  # no minimum
    rows[8] = -np.abs(rows[8])
    rows[9, 64:] = 0
    rows[10] *= np.repeat(np.float32(10) ** random.integers(-4, 2, 16).astype(np.float32), 16)  # groups of unlike sizes
    rows[11, ::32] *= 40  # outliers
    rows[12] = random.standard_t(3, 256) * 0.02
    rows[13] = random.uniform(-1, 1, 256)
    rows[14] = random.integers(-2, 3, 256)
    rows[15] *= np.float32(1e-7)  # scales below the smallest f16
    found = {"input_k": rows}
    for name in WRITTEN_K:
        found[f"input_k.{name.lower()}"] = quantized(library, name, rows, None)
    columns = np.random.default_rng(51)
    importance = (columns.standard_t(3, 512) ** 2 * np.exp(columns.normal(size=512))).astype(np.float32)
    importance[96:128] = 0
    found["importance"] = importance
    for name in ["Q4_0", "Q4_1", "Q5_0", "Q5_1", *WRITTEN_K]:
        found[f"weighted.{name.lower()}"] = quantized(library, name, rows.reshape(-1, 512), importance)
    return found


def quantized(library: str, name: str, rows: np.ndarray, importance: np.ndarray | None) -> np.ndarray:
    ggml, kind = ctypes.CDLL(library), Type[name]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    block, size = GGML_QUANT_SIZES[kind]
    raw = np.zeros((len(rows), rows.shape[1] // block * size), dtype=np.uint8)
    pointers = [rows.ctypes.data_as(ctypes.c_void_p), raw.ctypes.data_as(ctypes.c_void_p)]
    counts = [ctypes.c_int64(count) for count in (0, *rows.shape)]
    weights = None if importance is None else importance.ctypes.data_as(ctypes.c_void_p)
    assert ggml.ggml_quantize_chunk(ctypes.c_int(kind), *pointers, *counts, weights) == raw.size
    return raw


def main() -> None:
    random = np.random.default_rng(20240607)
    tensors: dict[str, np.ndarray] = {}
    for name, places in SCALES.items():
        kind = Type[name]
        block, size = GGML_QUANT_SIZES[kind]
        raw = random.integers(0, 256, (BLOCKS, size), dtype=np.uint8)
        for row in range(BLOCKS):
            for place in places:
                bits = np.float16(0) if row == 3 else scale(random)
                raw[row, place : place + 2] = np.frombuffer(bits.tobytes(), dtype=np.uint8)
        values = dequantize(raw, kind)
        assert values.shape == (BLOCKS, block) and np.isfinite(values).all()
        tensors[f"{name.lower()}.raw"] = raw
        tensors[f"{name.lower()}.values"] = values
    for name, dtype in {"F16": np.float16, "BF16": np.uint16}.items():
        bits = np.concatenate([np.arange(0, 0x7C00 if name == "F16" else 0x7F80, 37), [0, 1, 0x3FF, 0x400, 0x8000, 0x8001]])
        raw = bits.astype(np.uint16).view(np.uint8).reshape(1, -1)
        tensors[f"{name.lower()}.raw"] = raw
        tensors[f"{name.lower()}.values"] = dequantize(raw, Type[name]).astype(np.float32)
    rows = random.normal(size=(12, 64)).astype(np.float32) * np.float32(0.05)
    rows[1] *= np.float32(1e-4)
    rows[2] *= np.float32(3e4)
    rows[3] = 0
    rows[4] = np.float32(0.37)
    rows[5] = np.float32(-0.37)
    rows[6] = (np.arange(64) - 32).astype(np.float32)  # ties of rounding, equal extremes of both signs
    rows[7] = np.float32(1e-9) * np.arange(64)  # scales below the smallest f16
    rows[8] = np.float32(127) * np.linspace(-1, 1, 64, dtype=np.float32)
    rows[9, ::2] = np.arange(32) + np.float32(0.5)
    tensors["input"] = rows
    for name in WRITTEN:
        tensors[f"input.{name.lower()}"] = np.ascontiguousarray(quantize(rows, Type[name])).view(np.uint8).reshape(12, -1)
    tensors |= k_blocks(random, sys.argv[1])
    tensors |= mxfp4_blocks()
    path = Path(__file__).parents[2] / "fixtures" / "gguf_blocks.safetensors"
    save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
    print(f"{path.name}: {len(tensors)} tensors, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
