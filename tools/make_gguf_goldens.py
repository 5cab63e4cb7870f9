#!/usr/bin/env python3
"""Writes tests/golden/gguf/blocks.gguf: tensors of every type that the engine computes with, and what they mean.

For each type T the file holds the tensor "T" of a few rows of 256 values and the F32 tensor "T.expected": the package's
`dequantize` of it. Where the package can quantise to T, the first row is quantised normal noise; the other rows are random
blocks whose scales are random finite halves (normal, subnormal, zero, negative). F16 and BF16 rows hold zeros, subnormals,
the largest values and infinities too. The metadata has a key of every value type, read back by the tests.

    pip install gguf numpy
    python tools/make_gguf_goldens.py            # writes the file
    python tools/make_gguf_goldens.py --check    # recomputes, compares with the file, writes nothing
"""
import argparse
import importlib.metadata
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

FILE = Path(__file__).resolve().parent.parent / "tests" / "golden" / "gguf" / "blocks.gguf"
COLS = 256
# type: random rows, where a block keeps its halves
BLOCKS = {
    Type.Q8_0: (2, [0]), Type.Q4_0: (2, [0]), Type.Q4_1: (2, [0, 2]), Type.Q5_0: (2, [0]), Type.Q5_1: (2, [0, 2]),
    Type.Q4_K: (3, [0, 2]), Type.Q5_K: (3, [0, 2]), Type.Q6_K: (3, [208]),
}
CAN_QUANTISE = (Type.Q8_0, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1)


def random_halves(rng, count):
    bits = rng.integers(0, 2**16, count, dtype=np.uint16)
    exponent = bits >> 10 & 31
    bits = np.where(exponent == 31, bits & 0x83ff, bits).astype(np.uint16)  # infinities and NaN become subnormals
    bits[rng.random(count) < 0.05] = 0
    return bits.view(np.uint8).reshape(count, 2)


def random_rows(rng, kind, rows, halves):
    values, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * COLS // values, size), dtype=np.uint8)
    for at in halves:
        blocks[:, at:at + 2] = random_halves(rng, len(blocks))
    return blocks.reshape(rows, -1)


def tensors():
    rng = np.random.default_rng(5)
    f32 = rng.standard_normal((1, COLS)).astype(np.float32)
    f32[0, :6] = [0.0, -0.0, np.inf, 1e-45, 3.4e38, -1e-40]
    yield "F32", f32, Type.F32
    yield "F32.expected", f32, Type.F32

    bits = rng.integers(0, 2**16, (2, COLS), dtype=np.uint16)
    bits[0, :12] = [0, 0x8000, 1, 0x8001, 0x03ff, 0x0400, 0x83ff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x3c00]
    bits[bits & 0x7fff > 0x7c00] = 0x3555  # NaN has many bit patterns
    yield "F16", bits.view(np.float16), Type.F16
    yield "F16.expected", bits.view(np.float16).astype(np.float32), Type.F32

    bits = rng.integers(0, 2**16, (2, COLS), dtype=np.uint16)
    bits[0, :8] = [0, 0x8000, 1, 0x8001, 0x7f80, 0xff80, 0x7f7f, 0x3f80]
    bits[bits & 0x7fff > 0x7f80] = 0x3eab
    yield "BF16", bits.view(np.uint8), Type.BF16
    yield "BF16.expected", (bits.astype(np.uint32) << 16).view(np.float32), Type.F32

    for kind, (rows, halves) in BLOCKS.items():
        data = random_rows(rng, kind, rows, halves)
        if kind in CAN_QUANTISE:
            noise = rng.standard_normal((1, COLS)).astype(np.float32)
            data = np.concatenate([gguf.quants.quantize(noise, kind), data])
        yield kind.name, data, kind
        yield kind.name + ".expected", gguf.quants.dequantize(data, kind), Type.F32


def write(path):
    writer = gguf.GGUFWriter(path, "golden")
    for name, kind, value in (("uint8", Value.UINT8, 255), ("int8", Value.INT8, -128), ("uint16", Value.UINT16, 65535),
                              ("int16", Value.INT16, -32768), ("uint32", Value.UINT32, 2**32 - 1),
                              ("int32", Value.INT32, -2**31), ("float32", Value.FLOAT32, 0.5), ("bool", Value.BOOL, True),
                              ("string", Value.STRING, "é\n\"x\""), ("uint64", Value.UINT64, 2**64 - 1),
                              ("int64", Value.INT64, -2**63), ("float64", Value.FLOAT64, 0.1)):
        writer.add_key_value("kind." + name, value, kind)
    writer.add_array("array.strings", ["", "Ġthe", "a b\n"])
    writer.add_array("array.ints", [3, -4, 5])
    writer.add_array("array.floats", [0.25, -1.5])
    writer.add_array("array.bools", [True, False])
    writer.add_string("made.by", f"make_gguf_goldens.py, gguf {importlib.metadata.version('gguf')}")
    for name, data, kind in tensors():
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    args = parser.parse_args()
    if not args.check:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        write(FILE)
        print(f"{FILE.name}: {FILE.stat().st_size} bytes")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "again.gguf"
        write(path)
        if path.read_bytes() != FILE.read_bytes():
            sys.exit(f"{FILE.name} differs from what gguf {importlib.metadata.version('gguf')} makes now")
    print(f"{FILE.name} is what this script makes")


if __name__ == "__main__":
    main()
