#!/usr/bin/env python3
"""Makes a model directory of a checkpoint that the paper's reference implementation trained (PyTorch, Infini-AI-Lab/STEM).

    pip install torch numpy
    python tools/import_reference_checkpoint.py checkpoints/0000100000 out/reference
    python tools/import_reference_checkpoint.py checkpoints/0000100000 out/reference --tokenizer llama3/tokenizer.json
    stem info out/reference

CHECKPOINT is the folder of one step, or its folder `consolidated`. Read are params.json, consolidated.pth (the dense weights, as
the reference's consolidate_checkpoints writes them) and stem_shards/stem_model_mp<RANK>.pt (the tables). consolidated_stem.pth is
never read: the reference joins its columns in the order in which the file system happens to list the shards.

Everything is checked before anything is written; the first thing that is missing, unknown or of another shape is refused in one
line. Tables are copied record by record, so that one larger than memory passes through. Exit codes: 0, 1 refused, 2 usage.
"""
import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import uuid
from datetime import datetime, timezone
from pathlib import Path

try:
    import numpy  # Tensor.numpy() needs it  # noqa: F401
    import torch
except ImportError:
    torch = None

PARAMS, WEIGHTS, SHARDS = "params.json", "consolidated.pth", "stem_shards"
SHARD = re.compile(r"stem_model_mp(0|[1-9][0-9]*)\.pt")
DIRECT_BLOCK = 4096  # a table's data starts at a multiple, docs/formats/table.md
PIECE_VALUES = 1 << 24  # of a table, in memory at once
# The fields of `model` in params.json: lingua/transformer.py (BaseTransformerArgs), apps/main/transformer.py
# (LMTransformerArgs) and lingua/stem.py (StemTransformerArgs) of the reference. Those of the second line say how training began.
MODEL_KEYS = {"dim", "n_layers", "head_dim", "n_heads", "n_kv_heads", "ffn_dim_multiplier", "multiple_of", "norm_eps", "rope_theta",
              "max_seqlen", "vocab_size", "weight_tying", "sliding_window", "stem_layers", "stem_embedding_dim",
              "init_base_std", "init_std_factor", "seed"}


class Refused(Exception):
    """One line that names file, key, expected and found."""


def refuse(place, expected, found):
    raise Refused(f"{place}: expected {expected}, found {found}")


def described(value):
    """A stored value in an error: F32 [3, 4], or what it is instead of a tensor."""
    if not isinstance(value, torch.Tensor):
        return "nothing" if value is None else f"a {type(value).__name__}"
    return f"{name_of(value.dtype)} {list(value.shape)}"


def name_of(dtype):
    return {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}.get(dtype, str(dtype))


def read_json(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return refuse(path, "this file", "none")
    except ValueError as error:
        return refuse(path, "JSON", str(error))


class Section:
    """One object of params.json; what is absent or of another kind is refused by name."""

    def __init__(self, values, place):
        if not isinstance(values, dict):
            refuse(place, "an object", json.dumps(values))
        self.values, self.place = values, place

    def _get(self, key, kind, fits, optional):
        value = self.values.get(key)
        if optional and key in self.values and value is None:
            return None
        if not fits(value):
            refuse(f"{self.place}: {key}", kind + (" or null" if optional else ""),
                   json.dumps(value) if key in self.values else "no such key")
        return value

    def count(self, key, optional=False):
        return self._get(key, "an integer above 0", lambda v: type(v) is int and v > 0, optional)

    def number(self, key, optional=False):
        return self._get(key, "a number above 0", lambda v: type(v) in (int, float) and v > 0, optional)

    def flag(self, key):
        return self._get(key, "true or false", lambda v: type(v) is bool, False)

    def layers(self, key, count):
        def fits(v):
            return isinstance(v, list) and v and all(type(l) is int and 0 <= l < count for l in v) and len({*v}) == len(v)

        return self._get(key, f"distinct layers below n_layers = {count}, at least one,", fits, True)


def config_of(params, path):
    """The shape as this engine's config.json says it, without stem_layers; and the STEM layers in the reference's order."""
    m = Section(params.get("model") if isinstance(params, dict) else None, f"{path}: model")
    unknown = sorted({*m.values} - MODEL_KEYS)
    if unknown:
        refuse(f"{m.place}: {unknown[0]}", "only keys of the reference's model", json.dumps(m.values[unknown[0]]))
    if m.values.get("sliding_window") is not None:
        refuse(f"{m.place}: sliding_window", "null", json.dumps(m.values["sliding_window"]))
    width, layers = m.count("dim"), m.count("n_layers")
    heads, head_width = m.count("n_heads", True), m.count("head_dim", True)
    if heads is None and head_width is None:
        refuse(f"{m.place}: n_heads", "a number where head_dim is null", "null")
    heads, head_width = heads or width // head_width, head_width or width // heads
    kv_heads = m.count("n_kv_heads", True) or heads
    if heads % kv_heads:
        refuse(f"{m.place}: n_kv_heads", f"a divisor of n_heads = {heads}", kv_heads)
    if head_width % 2:
        refuse(f"{m.place}: head_dim", "an even number (rotary pairs)", head_width)
    # lingua/stem.py, FeedForward: two thirds of 4·dim, times the multiplier, up to a multiple of multiple_of.
    ffn = int(2 * (4 * width) / 3)
    ffn = int((m.number("ffn_dim_multiplier", True) or 1) * ffn)
    ffn += -ffn % m.count("multiple_of")
    if (m.count("stem_embedding_dim", True) or ffn) != ffn:
        refuse(f"{m.place}: stem_embedding_dim", f"the feed-forward width {ffn} (of dim, multiple_of, ffn_dim_multiplier)",
               m.values["stem_embedding_dim"])
    listed = m.layers("stem_layers", layers) or list(range(1, layers))  # null: all but the first
    config = {"architectures": ["StemForCausalLM"], "model_type": "stem", "vocab_size": m.count("vocab_size"), "hidden_size": width,
              "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
              "head_dim": head_width, "rms_norm_eps": m.number("norm_eps"), "rope_theta": m.number("rope_theta"),
              "rope_scaling": None, "max_position_embeddings": m.count("max_seqlen"), "tie_word_embeddings": m.flag("weight_tying"),
              "hidden_act": "silu", "ffn_variant": "stem"}
    return config, listed


def dense_tensors(c, listed):
    """(name in the reference, name here, shape, heads whose rows change their order or 0) of every stored dense tensor."""
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    q, kv = heads * c["head_dim"], kv_heads * c["head_dim"]
    yield "tok_embeddings.weight", "model.embed_tokens.weight", [v, d], 0
    for l in range(c["num_hidden_layers"]):
        theirs, ours = f"layers.{l}.", f"model.layers.{l}."
        yield theirs + "attention_norm.weight", ours + "input_layernorm.weight", [d], 0
        yield theirs + "attention.wq.weight", ours + "self_attn.q_proj.weight", [q, d], heads
        yield theirs + "attention.wk.weight", ours + "self_attn.k_proj.weight", [kv, d], kv_heads
        yield theirs + "attention.wv.weight", ours + "self_attn.v_proj.weight", [kv, d], 0
        yield theirs + "attention.wo.weight", ours + "self_attn.o_proj.weight", [d, q], 0
        yield theirs + "ffn_norm.weight", ours + "post_attention_layernorm.weight", [d], 0
        yield theirs + "feed_forward.w1.weight", ours + "mlp.gate_proj.weight", [f, d], 0
        if l not in listed:
            yield theirs + "feed_forward.w3.weight", ours + "mlp.up_proj.weight", [f, d], 0
        yield theirs + "feed_forward.w2.weight", ours + "mlp.down_proj.weight", [d, f], 0
    yield "norm.weight", "model.norm.weight", [d], 0
    if not c["tie_word_embeddings"]:
        yield "output.weight", "lm_head.weight", [v, d], 0


def load(path):
    """A mapping that torch.save wrote; its tensors are mapped, not read. No code of the file is run."""
    try:
        values = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except FileNotFoundError:
        return refuse(path, "this file", "none")
    except Exception as error:  # many kinds, by what is wrong with the file
        return refuse(path, "a file of torch.save that holds tensors alone", (str(error) or type(error).__name__).splitlines()[0])
    if not isinstance(values, dict):
        refuse(path, "tensors by name", described(values))
    return values


def check_names(path, values, wanted):
    for name in wanted:
        if name not in values:
            refuse(f"{path}: {name}", "this tensor", "none")
    for name in values:
        if name not in wanted:
            refuse(f"{path}: {name}", "no tensor of this name (by params.json)", described(values[name]))


def check_tensor(path, name, value, shape, why="by params.json"):
    fits = isinstance(value, torch.Tensor) and value.dtype in (torch.float32, torch.bfloat16, torch.float16)
    if not fits or list(value.shape) != shape:
        refuse(f"{path}: {name}", f"F32, BF16 or F16 {shape} ({why})", described(value))


def halves_from_pairs(rows, heads):
    """Rows of q or k in the order of this engine: row j·A/2 + i of a head is its row 2i + j in the reference.

    The reference turns neighbouring components (2i, 2i + 1) of a head (lingua/transformer.py, apply_rotary_emb), this engine
    the components (i, i + A/2), see src/convert/rotary_rows.h.
    """
    return rows.reshape(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def one_piece(tensor, heads):
    """A tensor, made when it is asked for."""
    yield halves_from_pairs(tensor, heads) if heads else tensor


def dense_weights(path, c, listed):
    """[(name here, tensor, heads)] of consolidated.pth, checked."""
    if not path.exists():
        refuse(path, "the dense weights in one file, which torch makes of a trusted checkpoint's *.distcp (it unpickles .metadata): "
               f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch STEP_FOLDER {path}", "none")
    values = load(path)
    if not isinstance(values.get("model"), dict):
        refuse(f"{path}: model", "tensors by name", described(values.get("model")))
    for key in values:
        if key not in ("model", "optim"):  # lingua/stem_checkpoint.py, split_backbone_and_stem_state_dict
            refuse(f"{path}: {key}", "model and optim alone", described(values[key]))
    # A trained model's names begin with lm_transformer. (apps/main/stem.py, StemLMTransformer); those of a checkpoint to start
    # training from do not (lingua/stem_checkpoint.py, load_from_checkpoint).
    values = values["model"]
    prefix = "lm_transformer." if any(name.startswith("lm_transformer.") for name in values) else ""
    plan = {prefix + theirs: (ours, shape, heads) for theirs, ours, shape, heads in dense_tensors(c, listed)}
    embedding, again = prefix + "tok_embeddings.weight", prefix + "output.tied_module.weight"  # TiedLinear names it a second time
    repeated = c["tie_word_embeddings"] and again in values
    check_names(path, values, [*plan, again] if repeated else plan)
    for name, (_, shape, _) in plan.items():
        check_tensor(path, name, values[name], shape)
    if repeated and not (isinstance(values[again], torch.Tensor) and torch.equal(values[again], values[embedding])):
        refuse(f"{path}: {again}", f"the values of {embedding} (weight_tying)", "others")
    return [(ours, values[name], heads) for name, (ours, _, heads) in plan.items()]


def table_shards(folder, c, listed):
    """Of each STEM layer, in ascending order, its pieces [V, F/n] by rank, checked."""
    files = {}
    for path in folder.iterdir():
        match = SHARD.fullmatch(path.name)
        if match:
            files[int(match[1])] = path
        elif path.name.startswith("stem_model"):
            refuse(path, "a name like stem_model_mp0.pt", path.name)
    if not files:
        refuse(folder, "stem_model_mp0.pt and so on, one file a rank", "none")
    # lingua/stem_dist_utils.py, ParallelEmbedding: every rank holds all V rows and F/n columns of each, dimension 1; the
    # lookup joins the columns by rank (_AllToAllForStem along the last dimension). apps/main/stem.py: table i belongs to the
    # i-th layer as stem_layers lists them.
    vocab, ffn = c["vocab_size"], c["intermediate_size"]
    names = [f"stem_embeddings.{i}.weight" for i in range(len(listed))]
    ranks = sorted(files)  # as numbers: 10 after 2
    shards, width = {}, 0
    for rank in ranks:
        values = shards[rank] = load(files[rank])
        check_names(files[rank], values, names)
        if not width:
            first = values[names[0]]
            width = first.shape[1] if isinstance(first, torch.Tensor) and first.dim() == 2 else 0
            if not width or ffn % width:
                refuse(f"{files[rank]}: {names[0]}", f"[{vocab}, a divisor of {ffn}] (by params.json)", described(first))
        for name in names:
            check_tensor(files[rank], name, values[name], [vocab, width], f"by params.json and {files[ranks[0]].name}")
    require_complete(folder, {*ranks}, ffn, width)
    return [[shards[rank][names[i]] for rank in ranks] for i in sorted(range(len(listed)), key=lambda i: listed[i])]


def require_complete(folder, found, ffn, width):
    wanted = set(range(ffn // width))
    for wrong, what in ((wanted - found, "missing"), (found - wanted, "too many")):
        if wrong:
            raise Refused(f"{folder}: expected stem_model_mp0.pt to stem_model_mp{len(wanted) - 1}.pt (rows of {ffn} values, {width} "
                          f"of them in each), found {len(found)}; {what}: " + ", ".join(f"stem_model_mp{r}.pt" for r in sorted(wrong)))


def locate(checkpoint, chosen):
    """params.json, consolidated.pth and the folder of shards."""
    if not checkpoint.is_dir():
        refuse(checkpoint, "the folder of a checkpoint", "a file" if checkpoint.exists() else "nothing")
    inner = checkpoint / "consolidated"
    folder = checkpoint if (checkpoint / WEIGHTS).exists() and not (inner / WEIGHTS).exists() else inner
    params = next((p for p in (folder / PARAMS, checkpoint / PARAMS) if p.exists()), checkpoint / PARAMS)
    # Training saves the shards beside `consolidated`; the reference's own consolidate_stem_shards looks for them inside.
    beside = [checkpoint] if folder == inner else [checkpoint.parent] if checkpoint.resolve().name == "consolidated" else []
    shards = [chosen] if chosen else [p / SHARDS for p in (folder, *beside) if (p / SHARDS).is_dir()]
    if len(shards) > 1:
        raise Refused(f"{shards[0]} and {shards[1]}: expected one folder of shards, found two: choose with --shards")
    if not shards or not shards[0].is_dir():
        refuse(shards[0] if shards else checkpoint / SHARDS, "a folder with stem_model_mp0.pt and so on", "none")
    return params, folder / WEIGHTS, shards[0]


def byte_tokenizer(add_bos):
    """tokenizer.json and tokenizer_config.json of lingua/tokenizer.py's ByteTokenizer: ids 0 to 255, begin 256, end 257."""
    kept = {*range(33, 127), *range(161, 173), *range(174, 256)}
    stand_ins = iter(range(256, 512))
    vocabulary = {chr(byte if byte in kept else next(stand_ins)): byte for byte in range(256)}
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    template = [{"Sequence": {"id": letter, "type_id": 0}} for letter in "AB"]
    bos = {"SpecialToken": {"id": begin, "type_id": 0}}
    post = {"type": "TemplateProcessing", "single": [bos, template[0]], "pair": [bos, *template],
            "special_tokens": {begin: {"id": begin, "ids": [256], "tokens": [begin]}}}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary, "merges": []}
    return {"tokenizer.json": {"version": "1.0", "truncation": None, "padding": None,
                               "added_tokens": [{"id": 256, "content": begin, **special}, {"id": 257, "content": end, **special}],
                               "normalizer": None, "pre_tokenizer": byte_level, "post_processor": post if add_bos else None,
                               "decoder": byte_level, "model": model},
            "tokenizer_config.json": {"bos_token": begin, "eos_token": end, "tokenizer_class": "PreTrainedTokenizerFast"}}


def tokenizer_files(given, params, params_path, vocab):
    """The text of each tokenizer file: made for single bytes, else the given ones."""
    if given is None:
        data = Section(params.get("data"), f"{params_path}: data")
        name = Section(data.values.get("tokenizer"), f"{data.place}: tokenizer").values.get("name")
        if name != "bytes":
            raise Refused(f"{data.place}: tokenizer: name: {json.dumps(name)}: --tokenizer must name its tokenizer.json")
        made = byte_tokenizer(data.flag("add_bos"))
        place = "the tokenizer of single bytes"
        texts = {file: json.dumps(value, ensure_ascii=False) + "\n" for file, value in made.items()}
    else:
        file = given / "tokenizer.json" if given.is_dir() else given
        place, made = file, {"tokenizer.json": read_json(file)}
        texts = {"tokenizer.json": file.read_text(encoding="utf-8")}
        beside = file.parent / "tokenizer_config.json"
        if beside.exists():
            texts[beside.name] = beside.read_text(encoding="utf-8")
    try:
        ids = {*made["tokenizer.json"]["model"]["vocab"].values(), *(token["id"] for token in made["tokenizer.json"]["added_tokens"])}
        most = max(ids)
    except (KeyError, TypeError, AttributeError, ValueError):
        return refuse(place, "a tokenizer.json of byte-level BPE", "another form")
    if most >= vocab:
        refuse(place, f"ids below vocab_size = {vocab} of {params_path}", most)
    if len(ids) < vocab:
        print(f"note: {place}: {len(ids)} tokens for {vocab} rows: is it the one that the model was trained with?", file=sys.stderr)
    return texts


class Directory:
    """A model directory in the making: beside its name until the manifest, the last file, is written."""

    def __init__(self, folder):
        self.folder, self.files = folder, {}

    def write_text(self, name, text):
        self._write(name, [text.encode()])

    def write_tensors(self, name, dtype, tensors, boundary):
        """`tensors`: (name, shape, tensors that follow one another in the file)."""
        header, offset = {"__metadata__": {"format": "pt"}}, 0
        for tensor, shape, _ in tensors:
            size = dtype.itemsize * torch.Size(shape).numel()
            header[tensor] = {"dtype": name_of(dtype), "shape": shape, "data_offsets": [offset, offset + size]}
            offset += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-(8 + len(text)) % boundary)

        def parts():
            yield struct.pack("<Q", len(text)) + text
            for _, _, pieces in tensors:
                for piece in pieces:
                    yield memoryview(piece.to(dtype).contiguous().view(torch.uint8).reshape(-1).numpy())

        self._write(name, parts())

    def _write(self, name, parts):
        digest, size = hashlib.sha256(), 0
        with open(self.folder / name, "xb") as file:
            for part in parts:
                file.write(part)
                digest.update(part)
                size += len(part)
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = {"sha256": digest.hexdigest(), "bytes": size}

    def write_manifest(self):
        listed = dict(sorted(self.files.items()))
        manifest = {"format": "stem-model/1", "uuid": str(uuid.uuid4()), "model_version": 1,
                    "created": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
                    "tokenizer_sha256": listed["tokenizer.json"]["sha256"], "files": listed}
        self.write_text("stem.json", json.dumps(manifest, indent=2) + "\n")


def require_new(out):
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        refuse(out, "a new or empty directory", "other files" if out.is_dir() else "a file")


@contextlib.contextmanager
def staged(out):
    """A folder that appears under the name `out` whole, or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield Directory(partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def records(tables, dtype):
    """Pieces [tokens, S, F] of a table, token by token: all layers' rows of a token lie together (docs/formats/table.md)."""
    vocab, width = tables[0][0].shape[0], sum(shard.shape[1] for shard in tables[0])
    step = max(1, PIECE_VALUES // (len(tables) * width))
    for first in range(0, vocab, step):
        yield torch.stack([torch.cat([shard[first:first + step].to(dtype) for shard in shards], 1) for shards in tables], 1)


def run(checkpoint, out, shards=None, tokenizer=None, dtype=None):
    """Reads, checks, writes; returns a sentence."""
    require_new(out)
    params_path, weights_path, shards_path = locate(checkpoint, shards)
    params = read_json(params_path)
    config, listed = config_of(params, params_path)
    texts = tokenizer_files(tokenizer, params, params_path, config["vocab_size"])
    dense = dense_weights(weights_path, config, listed)
    tables = table_shards(shards_path, config, listed)
    types = {tensor.dtype for _, tensor, _ in dense} | {shard.dtype for pieces in tables for shard in pieces}
    kind = {"f32": torch.float32, "bf16": torch.bfloat16}.get(dtype, torch.bfloat16 if types == {torch.bfloat16} else torch.float32)
    config["torch_dtype"] = {torch.float32: "float32", torch.bfloat16: "bfloat16"}[kind]
    config["stem_layers"] = sorted(listed)
    shape = [config["vocab_size"], len(listed), config["intermediate_size"]]
    with staged(out) as directory:
        directory.write_text("config.json", json.dumps(config, indent=2) + "\n")
        directory.write_tensors("model.safetensors", kind, [
            (name, list(tensor.shape), one_piece(tensor, heads)) for name, tensor, heads in dense], 8)
        directory.write_tensors("stem_table.safetensors", kind, [("stem.table", shape, records(tables, kind))], DIRECT_BLOCK)
        for name, text in texts.items():
            directory.write_text(name, text)
        directory.write_manifest()
    parameters = sum(tensor.numel() for _, tensor, _ in dense)
    return (f"{out}: {parameters:,} dense parameters and a table of {shape[0]:,} x {shape[1]} x {shape[2]:,} (layers "
            f"{', '.join(map(str, config['stem_layers']))}) from {len(tables[0])} shard{'s' * (len(tables[0]) > 1)}, stored as "
            f"{'f32' if kind == torch.float32 else 'bf16'}")


def main(words=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of one step, or its folder consolidated")
    parser.add_argument("out", type=Path, help="model directory to write")
    parser.add_argument("--shards", type=Path, metavar="DIR", help="folder of stem_model_mp*.pt (default: stem_shards)")
    parser.add_argument("--tokenizer", type=Path, metavar="FILE",
                        help="its tokenizer.json, or the folder of it; needless for a model of single bytes")
    parser.add_argument("--dtype", choices=("f32", "bf16"), help="(default: bf16 where every tensor is)")
    arguments = parser.parse_args(words)
    if torch is None:
        parser.error("this script needs PyTorch: pip install torch numpy")
    try:
        print(run(**vars(arguments)))
    except Refused as error:
        print(f"import_reference_checkpoint: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"import_reference_checkpoint: {error.filename or arguments.out}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
