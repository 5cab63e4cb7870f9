#!/usr/bin/env python3
"""Writes tests/golden/tokenizer/{train,encode,characters}.json: what Hugging Face's `tokenizers` makes of small texts.

usage: make_tokenizer_goldens.py OUTPUT_DIRECTORY

train.json   cases: texts and options, then the trained vocabulary (by id) and merges
encode.json  one BPE model, texts, id lists; cases: the rest of a tokenizer.json, then the ids of every text and the
             text of every id list
characters.json  the same for BPE over characters (Llama, Mistral), where a case also changes the model; and merges from
             scores, in the order that transformers gives those of SentencePiece models
"""
import json
import pathlib
import platform
import random
import sys

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|"
        r"\s+(?!\S)|\s+")
LLAMA3 = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|", 1)
VERSIONS = {"python": platform.python_version(), "tokenizers": tokenizers.__version__}

PROSE = """The capital of Spain is Madrid; Spain's neighbours are Portugal and France. It isn't far, they'll say, and
we've walked it in 12 days (1,234 km).  In 2024 the population was 48,797,875.

\tdef walk(days: int = 12) -> float:
\t\treturn 1234.5 / days    # km a day

La capital de España es Madrid. Die Hauptstadt von Österreich ist Wien; das Wetter ist schön. Столица России — Москва.
日本の首都は東京です。中国的首都是北京。 대한민국의 수도는 서울이다. عاصمة مصر هي القاهرة. नई दिल्ली भारत की राजधानी है।
Emoji: 🦙🦙 👩‍👩‍👧‍👦 🇪🇸 ✅ 🏳️‍🌈.  Maths: ∑ x² ≤ ∞, ½ + ⅓ = Ⅴ/Ⅵ.
"""

RANGES = [(0x20, 0x7F), (0x00, 0x20), (0x80, 0x250), (0x300, 0x370), (0x400, 0x530), (0x590, 0x700), (0x900, 0x980),
          (0x1100, 0x1200), (0x1E00, 0x1F00), (0x2000, 0x2070), (0x20D0, 0x20F1), (0x2190, 0x2300), (0x3000, 0x3100),
          (0x4E00, 0x4E80), (0xAC00, 0xAC80), (0xE000, 0xE010), (0xFB00, 0xFB50), (0xFE00, 0xFF00),
          (0x10300, 0x10350), (0x1D15E, 0x1D166), (0x1F1E6, 0x1F200), (0x1F300, 0x1F700), (0x20000, 0x20020),
          (0x2F800, 0x2F820), (0xE0100, 0xE0110), (0x10FFF0, 0x110000)]


def random_text(rng, length):
    text = []
    while len(text) < length:
        low, high = rng.choice(RANGES)
        for _ in range(rng.randint(1, 5)):
            text.append(chr(rng.randrange(low, high)))
        if rng.random() < 0.4:
            text.append(rng.choice([" ", "  ", "\n", "\r\n", "\t", " a", "\u00a0", "\u180e", "\u3000", "'s", "1"]))
    return "".join(text[:length])


def byte_level(use_regex=True, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def split(pattern, behavior="isolated", invert=False, literal=False):
    return pre_tokenizers.Split(pattern if literal else tokenizers.Regex(pattern), behavior, invert)


def train(texts, vocab_size, min_frequency=0, special_tokens=("<|endoftext|>",), pattern="", nfc=False):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = (pre_tokenizers.Sequence([split(pattern), byte_level(use_regex=False)])
                               if pattern else byte_level())
    tokenizer.decoder = decoders.ByteLevel()
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(special_tokens), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def train_goldens():
    rng = random.Random(1)
    lines = PROSE.split("\n")
    options = [
        dict(texts=[PROSE], vocab_size=400),
        dict(texts=lines, vocab_size=400),
        dict(texts=lines, vocab_size=100_000),  # until no pair is left
        dict(texts=lines, vocab_size=100_000, min_frequency=2),
        dict(texts=lines, vocab_size=600, min_frequency=3, special_tokens=["<s>", "</s>", "<|pad|>"]),
        dict(texts=[PROSE], vocab_size=500, pattern=LLAMA3),
        dict(texts=[PROSE], vocab_size=500, pattern=QWEN, nfc=True, special_tokens=[]),
        # one-letter and merged texts among the special tokens: ids and merges meet existing tokens
        dict(texts=[PROSE], vocab_size=420, special_tokens=["a", "th", "the", "<|endoftext|>"]),
        dict(texts=["aaaa aaa aa a aaaaaaa aaaaaaaaa"] * 3, vocab_size=300),
        # every pair equally often: nothing but the tie-break decides
        dict(texts=["ab bc cd de ea", "zy yx xw wz"], vocab_size=300),
        dict(texts=["e\u0301 e\u0301te\u0301 \u00e9t\u00e9"] * 2, vocab_size=300, nfc=True),
        dict(texts=["", " ", "<|endoftext|> hello <|endoftext|>"], vocab_size=300),
        dict(texts=[], vocab_size=300),
    ]
    # few letters and much text: the same token comes up by different ways
    for letters in ("ab", "abc", "abcd "):
        options.append(dict(texts=["".join(rng.choice(letters) for _ in range(300)) for _ in range(4)], vocab_size=420))
    options.append(dict(texts=[random_text(rng, 200) for _ in range(5)], vocab_size=450))
    cases = []
    for option in options:
        model = json.loads(train(**option).to_str())["model"]
        vocabulary = sorted(model["vocab"], key=model["vocab"].get)
        assert [model["vocab"][token] for token in vocabulary] == list(range(len(vocabulary)))
        cases.append({**option, "vocab": vocabulary, "merges": [" ".join(pair) for pair in model["merges"]]})
    return {"versions": VERSIONS, "cases": cases}


def added(ident, content, **flags):
    defaults = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=False)
    return {"id": ident, "content": content, **defaults, **flags}


def encode_goldens():
    rng = random.Random(2)
    trained = train([PROSE], 700)
    frame = json.loads(trained.to_str())
    model = frame.pop("model")
    size = len(model["vocab"])
    end = frame["added_tokens"][0]
    flagged = [end, added(size, "<|im_start|>", special=True), added(size + 1, "<|im_end|>", special=True),
               added(size + 2, "<left>", lstrip=True), added(size + 3, "<right>", rstrip=True),
               added(size + 4, "<both>", lstrip=True, rstrip=True, special=True),
               added(size + 5, "word", single_word=True), added(size + 6, "caf\u00e9", normalized=True),
               added(size + 7, "<|im_", special=False), added(size + 8, "\u6771\u4eac"),
               added(size + 9, "e\u0301e", normalized=True)]
    # apart from the stripping ones: there the reference encodes white space twice
    spaces = [end, *(added(size + i, " " * (i + 2), normalized=True) for i in range(4)), added(size + 4, "\n\n")]
    nfc = {"type": "NFC"}
    named = {
        "gpt2": {},
        "prefix space": dict(pre_tokenizer=byte_level(add_prefix_space=True)),
        "no regex": dict(pre_tokenizer=byte_level(use_regex=False)),
        "qwen": dict(pre_tokenizer=pre_tokenizers.Sequence([split(QWEN), byte_level(False)]), normalizer=nfc),
        "llama3": dict(pre_tokenizer=pre_tokenizers.Sequence([split(LLAMA3), byte_level(False)]), ignore_merges=True),
        "smollm": dict(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(True), byte_level()])),
        "digits together": dict(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Digits(False), byte_level()])),
        "nfc sequence": dict(normalizer={"type": "Sequence", "normalizers": [nfc, nfc]}),
        "added tokens": dict(added_tokens=flagged),
        "white space tokens": dict(added_tokens=spaces),
        "added tokens, nfc": dict(added_tokens=flagged, normalizer=nfc),
        "added tokens, prefix space": dict(added_tokens=flagged, pre_tokenizer=byte_level(add_prefix_space=True)),
        "empty matches": dict(pre_tokenizer=pre_tokenizers.Sequence([split("a*|(?=1)"), byte_level()])),
        "empty matches, merged": dict(
            pre_tokenizer=pre_tokenizers.Sequence([split("a*", "merged_with_next"), byte_level(False)])),
        "line ends": dict(pre_tokenizer=pre_tokenizers.Sequence([split("^.|.$"), byte_level(False)])),
    }
    for behavior in ("removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"):
        for invert in (False, True):
            named[f"split {behavior} invert={invert}"] = dict(
                pre_tokenizer=pre_tokenizers.Sequence([split(r"\s|\p{L}{3}", behavior, invert), byte_level(False)]))
        named[f"split {behavior} string"] = dict(
            pre_tokenizer=pre_tokenizers.Sequence([split(" ", behavior, literal=True), byte_level(False)]))

    texts = ["", " ", "  ", "a", "\n", PROSE[:400], PROSE[330:700], "I'M HERE, it'\u017f fine 'LL x'sy '\u017f",
             "<|endoftext|>", "a<|endoftext|>b <|endoftext|> c", "<|im_start|>user\nhi<|im_end|>\n<|im_<|im_end",
             "x  <left>  y <right>  z  <both>  \u00a0w <both>\u3000<left> <right> <right>", "word words wordword sword a_word word",
             "\u00e9word word\u0301 (word) 1word word", "caf\u00e9 cafe\u0301 e\u0301e \u00e9e CAF\u00c9", "\u6771\u4eac\u90fd\u6771\u4eac",
             "     indented\n      more\n\n\n   \n", "1234567 12 3 \u0661\u0662\u0663 \u216b\u00bd x1y22z333",
             "a\u180eb \u180e c \u200b d\u0085e \u2028 f", "\u0041\u030a \u212b \u1e9b\u0323 \uac00 \u1100\u1161\u11a8 \u0958 \U0001d15e",
             "q\u0307\u0323 q\u0323\u0307 a\u0315\u0300\u05ae\u0315b", "aaabaaa banana", "\x00\x01\x7f", "\ufeffBOM", "a\r\nb\rc\n\nd"]
    texts += [random_text(rng, rng.randint(1, 30)) for _ in range(24)]
    id_lists = [[rng.randrange(size + 12) for _ in range(rng.randint(0, 12))] for _ in range(12)]
    id_lists += [[rng.randrange(190, 257) for _ in range(12)] for _ in range(12)]

    cases = []
    for name, change in named.items():
        case_frame = {**frame, **{key: value for key, value in change.items() if key in frame}}
        if "pre_tokenizer" in change:
            case_frame["pre_tokenizer"] = json.loads(change["pre_tokenizer"].__getstate__())
        ignore_merges = change.get("ignore_merges", False)
        whole = {**case_frame, "model": {**model, "ignore_merges": ignore_merges}}
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(whole))
        case = {"name": name, "frame": case_frame, "ignore_merges": ignore_merges,
                "ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]}
        if name == "gpt2":
            case["decoded"] = [tokenizer.decode(ids, skip_special_tokens=False) for ids in id_lists]
            case["decoded_skip_special"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in id_lists]
        if name == "added tokens":
            tokenizer.encode_special_tokens = True
            case["ids_no_special"] = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        cases.append(case)
    return {"versions": VERSIONS, "model": model, "texts": texts, "id_lists": id_lists, "cases": cases}


def scored_merges(tokens, scores):
    """Every way to join two tokens into one: by falling score, then length of the parts, then ids."""
    ids = {token: i for i, token in enumerate(tokens)}
    found = []
    for result, token in enumerate(tokens):
        for cut in range(1, len(token)):
            if token[:cut] in ids and token[cut:] in ids:
                found.append((-scores[result], -cut, cut - len(token), result, ids[token[:cut]], ids[token[cut:]]))
    return [f"{tokens[left]} {tokens[right]}" for *_, left, right in sorted(found)]


def character_goldens():
    rng = random.Random(3)
    mark = "\u2581"
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trained = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator([PROSE.replace("\n", " ")] * 2, trainers.BpeTrainer(
        vocab_size=620, special_tokens=["<unk>", "<s>", "</s>", *fallback], limit_alphabet=70, show_progress=False))
    frame = json.loads(trained.to_str())
    model = frame.pop("model")
    size = len(model["vocab"])
    frame["added_tokens"] = [added(i, token, special=True) for i, token in enumerate(("<unk>", "<s>", "</s>"))]
    prepend = {"type": "Prepend", "prepend": mark}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": mark}
    back = {"type": "Replace", "pattern": {"String": mark}, "content": " "}
    bytes_and_fuse = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}

    def sequence(key, *steps):
        return {"type": "Sequence", key: list(steps)}

    def metaspace(scheme, split=True):
        return {"type": "Metaspace", "replacement": mark, "prepend_scheme": scheme, "split": split}

    llama = dict(normalizer=sequence("normalizers", prepend, replace), decoder=sequence("decoders", *bytes_and_fuse, strip))
    plain = dict(normalizer=replace, decoder=sequence("decoders", *bytes_and_fuse))
    flagged = [*frame["added_tokens"], added(size, "<|user|>", special=True), added(size + 1, "<n>", normalized=True),
               added(size + 2, "a b", normalized=True), added(size + 3, "<right>", rstrip=True), added(size + 4, "   ")]
    named = {
        "llama": llama,
        "llama, added tokens": dict(llama, added_tokens=flagged),
        "llama, every unknown": dict(llama, model=dict(byte_fallback=False, fuse_unk=False)),
        "llama, fused unknown": dict(llama, model=dict(byte_fallback=False)),
        "llama, some bytes": dict(llama, without=[f"<0x{byte:02X}>" for byte in (0x0A, 0x9F, 0xE3)]),
        "llama, whole words": dict(llama, pre_tokenizer=metaspace("always"), model=dict(ignore_merges=True)),
        "strip more": dict(llama, decoder=sequence("decoders", *bytes_and_fuse, {**strip, "start": 3})),
        "mistral": dict(pre_tokenizer=metaspace("first", False), decoder=llama["decoder"]),
        "mistral, added tokens": dict(pre_tokenizer=metaspace("first", False), decoder=llama["decoder"],
                                      added_tokens=flagged),
        "metaspace": dict(pre_tokenizer=metaspace("always"), decoder=metaspace("always")),
        "metaspace first": dict(pre_tokenizer=metaspace("first"), decoder=metaspace("first"), added_tokens=flagged),
        "metaspace never": dict(pre_tokenizer=metaspace("never"), decoder=metaspace("never")),
        "metaspace, bytes": dict(pre_tokenizer=metaspace("always"),
                                 decoder=sequence("decoders", {"type": "ByteFallback"}, metaspace("always"))),
        "metaspace after digits": dict(
            pre_tokenizer=sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, metaspace("first")),
            decoder=metaspace("first")),
        "prepend": dict(plain, normalizer=sequence("normalizers", replace, prepend)),
        "gemma": dict(plain, pre_tokenizer={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
                                            "invert": False}),
        "replace only": plain,
        "replace a pattern": dict(plain, normalizer=sequence("normalizers", {"type": "NFC"}, {
            "type": "Replace", "pattern": {"Regex": r"\s+"}, "content": mark})),
    }
    texts = ["", " ", "  ", "a", " a", "\n", PROSE[:300], PROSE[330:640], "the capital<s>of Spain</s> is", "<s> the",
             "</s><s>x", " <s>", "<unk>the", "the<|user|> the <n>a b<n> a b a  b<right>  the     end", "<0x41>a<0x0A>",
             "\u65e5\u672c \U0001f999\U0001f999 caf\u00e9 e\u0301", "\u2581the\u2581 \u2581", "x" * 70 + " " * 70,
             "\x00\x01\x7f", "12 345  6", "\u30c7\u30fc\u30bf"]
    texts += [random_text(rng, rng.randint(1, 30)) for _ in range(12)]
    plain_ids = [i for i in range(size) if not 3 <= i < 259]
    id_lists = []
    for _ in range(24):
        ids = []
        for _ in range(rng.randint(0, 6)):
            ids += rng.choices(plain_ids, k=rng.randint(0, 3))
            ids += [3 + byte for byte in rng.choice([" ", "\n", "\u00e9", "\U0001f999", "\u65e5\u672c", "a"]).encode()]
        id_lists.append(ids)
    spaced = [i for token, i in model["vocab"].items() if token.startswith(mark)]
    id_lists += [[model["vocab"][mark]] * 3 + [spaced[5]], [1, spaced[6], spaced[7]], spaced[8:11], [3 + 0x20] * 2]

    cases = []
    for name, change in named.items():
        case_frame = {**frame, "normalizer": None, "pre_tokenizer": None,
                      **{key: value for key, value in change.items() if key not in ("model", "without")}}
        settings = {**{key: value for key, value in model.items() if key not in ("vocab", "merges")},
                    **change.get("model", {})}
        vocab = {token: i for token, i in model["vocab"].items() if token not in change.get("without", [])}
        tokenizer = tokenizers.Tokenizer.from_str(
            json.dumps({**case_frame, "model": {**settings, "vocab": vocab, "merges": model["merges"]}}))
        case = {"name": name, "frame": case_frame, "model": settings, "without": change.get("without", []),
                "ids": [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]}
        if not case["without"]:  # else bytes are missing from characters, of which stem shows the whole ones
            case["decoded"] = [tokenizer.decode(ids, skip_special_tokens=False) for ids in id_lists]
            case["decoded_skip_special"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in id_lists]
        cases.append(case)
    scored = []
    for levels in (1, 4, 1000):
        tokens = list(model["vocab"])[259:]
        tokens = [token for token in sorted(tokens, key=model["vocab"].get) if len(token) < 9][:220]
        scores = [float(rng.randrange(levels)) for _ in tokens]
        scored.append({"tokens": tokens, "scores": scores, "merges": scored_merges(tokens, scores)})
    return {"versions": VERSIONS, "vocab": sorted(model["vocab"], key=model["vocab"].get),
            "merges": [" ".join(pair) for pair in model["merges"]], "texts": texts, "id_lists": id_lists, "cases": cases,
            "scored": scored}


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    directory = pathlib.Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, golden in (("train", train_goldens()), ("encode", encode_goldens()),
                         ("characters", character_goldens())):
        text = json.dumps(golden, separators=(",", ":")).replace('{"name":', '\n{"name":').replace('{"texts":', '\n{"texts":')
        (directory / f"{name}.json").write_text(text + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
