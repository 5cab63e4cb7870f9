#!/usr/bin/env python3
"""Checks a tokenizer.json against Hugging Face's `tokenizers`, and makes token streams to compare.

usage: compare_tokenizer.py encode TOKENIZER_JSON TEXT_FILE    prints one id a line
       compare_tokenizer.py sweep TOKENIZER_JSON               prints the ids of every Unicode scalar value,
                                                               a line each, between an "a" and a "b 1"
       compare_tokenizer.py train TEXT_FILE VOCAB_SIZE OUTPUT  trains on the whole file as one text
"""
import sys

import tokenizers


def main():
    command, *arguments = sys.argv[1:]
    if command == "encode":
        tokenizer = tokenizers.Tokenizer.from_file(arguments[0])
        text = open(arguments[1], encoding="utf-8", newline="").read()
        print("\n".join(map(str, tokenizer.encode(text, add_special_tokens=False).ids)))
    elif command == "sweep":
        tokenizer = tokenizers.Tokenizer.from_file(arguments[0])
        for code in range(0x110000):
            if 0xD800 <= code < 0xE000:
                continue
            print(*tokenizer.encode(f"a{chr(code)}b 1{chr(code)} {chr(code)}", add_special_tokens=False).ids)
    elif command == "train":
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=int(arguments[1]), special_tokens=["<|endoftext|>"], show_progress=False,
            initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet())
        text = open(arguments[0], encoding="utf-8", newline="").read()
        tokenizer.train_from_iterator([text], trainer)
        tokenizer.save(arguments[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
