#!/usr/bin/env python3
"""Writes tests/fuzz/safetensors: small well-formed and malformed files and verdicts.tsv.

verdicts.tsv has one line a file: name, our verdict, the verdict of the Python package `safetensors` (run here), why.
Our verdict is stated in this script; where it differs from the package's, the reason says why on purpose.
Usage: make_safetensors_corpus.py [directory]      (needs: pip install safetensors)
"""
import json
import pathlib
import struct
import sys

import safetensors

U64 = 2**64 - 1
cases = []


def case(name, accept, why, data):
    cases.append((name, accept, why, data))


def file(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else header.encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensors(data=b"", metadata=None, **entries):
    header = {} if metadata is None else {"__metadata__": metadata}
    for name, (dtype, shape, begin, end) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    return file(json.dumps(header, separators=(",", ":")), data)


def one(dtype="F32", shape="[2]", offsets="[0,8]", data=bytes(8), more=""):
    return file(f'{{"a":{{"dtype":{json.dumps(dtype)},"shape":{shape},'
                f'"data_offsets":{offsets}{more}}}}}', data)


Z8 = bytes(8)
case("ok_plain", True, "two tensors", tensors(bytes(12), a=("F32", [2], 0, 8), b=("BF16", [1, 2], 8, 12)))
case("ok_empty", True, "no tensors", file("{}"))
case("ok_padded", True, "spaces after the header", file('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}     ', b"x"))
case("ok_unordered", True, "header order is not offset order", tensors(bytes(12), b=("F32", [1], 8, 12), a=("F32", [2], 0, 8)))
case("ok_scalar", True, "rank 0", tensors(bytes(4), a=("F32", [], 0, 4)))
case("ok_zero_dim", True, "a zero dimension", tensors(bytes(4), a=("F32", [0, 7], 0, 0), b=("I32", [1], 0, 4)))
case("ok_zero_dim_last", True, "a zero dimension at the end", tensors(bytes(4), b=("I32", [1], 0, 4), a=("F32", [3, 0], 4, 4)))
case("ok_metadata", True, "metadata of strings", tensors(Z8, {"k": "v", "é": "\u20ac"}, a=("F64", [1], 0, 8)))
case("ok_null_metadata", True, "null metadata counts as none", file('{"__metadata__":null}'))
case("ok_empty_name", True, "an empty tensor name", tensors(b"x", **{"": ("U8", [1], 0, 1)}))
case("ok_unaligned", True, "header length 8 n + 3", tensors(b"xyz12345", a=("U8", [3], 0, 3), b=("U8", [5], 3, 8)))
case("ok_extra_field", True, "unknown fields are ignored", one(more=',"note":[1,{"x":null}]'))
for t, n in [("F64", 8), ("F32", 4), ("F16", 2), ("BF16", 2), ("I64", 8), ("I32", 4), ("I16", 2), ("I8", 1), ("U64", 8),
             ("U32", 4), ("U16", 2), ("U8", 1), ("BOOL", 1), ("F8_E4M3", 1), ("F8_E5M2", 1), ("F8_E8M0", 1), ("C64", 8)]:
    case(f"ok_type_{t.lower()}", True, "a type of the format", tensors(bytes(3 * n), a=(t, [3], 0, 3 * n)))
case("ok_type_f4", True, "two to a byte", tensors(bytes(2), a=("F4", [4], 0, 2)))
case("ok_type_f6", True, "four to three bytes", tensors(bytes(3), a=("F6_E2M3", [4], 0, 3)))
case("bad_type_f4_odd", False, "half a byte", tensors(bytes(2), a=("F4", [3], 0, 2)))

case("bad_empty", False, "no bytes", b"")
case("bad_short", False, "seven bytes", bytes(7))
case("bad_length_0", False, "an empty header", struct.pack("<Q", 0))
case("bad_length_0_data", False, "an empty header and data", struct.pack("<Q", 0) + Z8)
case("bad_length_file", False, "header longer than the file", file("{}", length=3))
case("bad_length_2_63", False, "2^63", file("{}", length=2**63))
case("bad_length_max", False, "2^64 - 1", file("{}", length=U64))
case("bad_length_wraps", False, "8 + length wraps to the file's size", file("{}", length=2**64 - 6))
case("bad_length_over_limit", False, "100,000,001", file("{}", length=100_000_001))
case("bad_header_cut", False, "header length one short", file('{"a":{}}', length=7))
case("bad_utf8", False, "ff in a name", file(b'{"\xff":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
case("bad_utf8_overlong", False, "overlong NUL", file(b'{"\xc0\x80":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
case("bad_surrogate", False, "a lone surrogate", file('{"\\ud800":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
case("bad_surrogate_utf8", False, "an encoded surrogate", file(b'{"\xed\xa0\x80":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
case("bad_depth_bomb", False, "10,000 brackets", file("[" * 10_000))
case("bad_depth_in_tensor", False, "10,000 brackets in an unknown field", one(more=',"x":' + "[" * 10_000 + "]" * 10_000))
case("bad_array", False, "an array", file("[]"))
case("bad_leading_space", False, "the format says that the header begins with { (the package does not check)", file(" {}"))
case("bad_bom", False, "byte order mark", file(b"\xef\xbb\xbf{}"))
case("bad_nul", False, "NUL after the header's value", file(b"{}\x00\x00"))
case("bad_two_values", False, "two values", file("{}{}"))
case("bad_comment", False, "a comment", file("{}/**/"))
case("bad_trailing_comma", False, "a trailing comma", file('{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},}'))
case("bad_control", False, "a control character in a name", file(b'{"\x01":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'))
Z = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'
case("bad_duplicate", False, "the same key twice (the package keeps the last)", file(f'{{"a":{Z},"a":{Z}}}'))
case("bad_duplicate_escaped", False, "the same key after unescaping (the package keeps the last)", file(f'{{"a":{Z},"\\u0061":{Z}}}'))
case("bad_duplicate_metadata", False, "two __metadata__", file('{"__metadata__":{},"__metadata__":{}}'))
case("bad_duplicate_field", False, "two shapes", one(more=',"shape":[2]'))
case("bad_metadata_number", False, "a number in metadata", file('{"__metadata__":{"k":1}}'))
case("bad_metadata_null", False, "a null in metadata", file('{"__metadata__":{"k":null}}'))
case("bad_metadata_array", False, "metadata is an array", file('{"__metadata__":[]}'))
case("bad_tensor_null", False, "a tensor is null", file('{"a":null}'))
case("bad_tensor_number", False, "a tensor is a number", file('{"a":1}'))

case("bad_no_dtype", False, "no dtype", file('{"a":{"shape":[0],"data_offsets":[0,0]}}'))
case("bad_no_shape", False, "no shape", file('{"a":{"dtype":"U8","data_offsets":[0,0]}}'))
case("bad_no_offsets", False, "no offsets", file('{"a":{"dtype":"U8","shape":[0]}}'))
case("bad_dtype_unknown", False, "unknown type", one("F31"))
case("bad_dtype_case", False, "types are upper case", one("f32"))
case("bad_dtype_empty", False, "empty type", one(""))
case("bad_dtype_number", False, "type is a number", one(1))
case("bad_shape_null", False, "shape is null", one(shape="null"))
case("bad_shape_number", False, "shape is a number", one(shape="2"))
case("bad_shape_string", False, "an extent is a string", one(shape='["2"]'))
case("bad_shape_negative", False, "a negative extent", one(shape="[-2]"))
case("bad_shape_negative_pair", False, "two negative extents", one(shape="[-1,-2]"))
case("bad_shape_float", False, "a float extent", one(shape="[2.0]"))
case("bad_shape_exponent", False, "an exponent", one(shape="[2e0]"))
case("bad_shape_huge", False, "2^64", one(shape="[18446744073709551616]"))
case("bad_shape_wraps", False, "[2, 2^64 - 2]", one(shape="[2,18446744073709551614]"))
case("bad_shape_wraps_half", False, "[2, 2^63 - 1]", one(shape="[2,9223372036854775807]"))
case("bad_shape_wraps_bytes", False, "elements fit, bytes wrap to 8", one(shape="[4611686018427387906]"))
case("bad_shape_wraps_zero", False, "the product overflows before the zero", tensors(a=("U8", [2**62, 4, 0], 0, 0)))
case("bad_shape_over_int64", False, "an extent above int64 (the package takes it beside a zero)", tensors(a=("U8", [0, U64], 0, 0)))
case("bad_shape_small", False, "shape smaller than offsets", one(shape="[1]"))
case("bad_shape_large", False, "shape larger than offsets", one(shape="[3]"))
case("bad_rank", False, "rank 65 (the package has no limit)", tensors(b"x", a=("U8", [1] * 65, 0, 1)))
case("bad_offsets_one", False, "one offset", one(offsets="[0]"))
case("bad_offsets_three", False, "three offsets", one(offsets="[0,8,8]"))
case("bad_offsets_negative", False, "a negative offset", one(offsets="[-8,0]"))
case("bad_offsets_float", False, "a float offset", one(offsets="[0,8.0]"))
case("bad_offsets_reversed", False, "reversed", one(offsets="[8,0]"))
case("bad_offsets_wrap", False, "end - begin wraps to 8", one(offsets="[18446744073709551608,0]"))
case("bad_offsets_beyond", False, "beyond the file", tensors(Z8, a=("F32", [4], 0, 16)))
case("bad_offsets_hole", False, "a hole", tensors(bytes(16), a=("F32", [1], 0, 4), b=("F32", [2], 8, 16)))
case("bad_offsets_hole_first", False, "a hole before the first", tensors(bytes(12), a=("F32", [2], 4, 12)))
case("bad_offsets_overlap", False, "an overlap", tensors(bytes(12), a=("F32", [2], 0, 8), b=("F32", [2], 4, 12)))
case("bad_offsets_same", False, "two tensors on the same bytes", tensors(Z8, a=("F32", [2], 0, 8), b=("F32", [2], 0, 8)))
case("bad_offsets_zero_dim", False, "an empty tensor inside another", tensors(Z8, a=("F32", [2], 0, 8), b=("F32", [0], 4, 4)))
case("bad_trailing", False, "a byte after the data", tensors(bytes(9), a=("F32", [2], 0, 8)))
case("bad_trailing_empty", False, "data without tensors", file("{}", b"x"))
case("bad_one_short", False, "one byte short", tensors(bytes(7), a=("F32", [2], 0, 8)))
case("bad_no_data", False, "no data", tensors(b"", a=("F32", [2], 0, 8)))


def reference_accepts(path):
    try:
        with safetensors.safe_open(path, framework="numpy") as f:
            f.keys()
        return True
    except (safetensors.SafetensorError, ValueError, OSError):
        return False


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "tests/fuzz/safetensors")
    folder.mkdir(parents=True, exist_ok=True)
    word = {True: "accept", False: "reject"}
    lines = ["# file\tours\tPython safetensors " + safetensors.__version__ + "\twhy; written by tools/make_safetensors_corpus.py"]
    for name, accept, why, data in cases:
        path = folder / f"{name}.safetensors"
        path.write_bytes(data)
        reference = reference_accepts(path)
        lines.append(f"{name}\t{word[accept]}\t{word[reference]}\t{why}")
        if reference != accept:
            print("differs:", lines[-1])
    (folder / "verdicts.tsv").write_text("\n".join(lines) + "\n")
    print(len(cases), "files")


main()
