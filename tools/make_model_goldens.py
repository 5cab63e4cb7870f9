#!/usr/bin/env python3
"""Writes tests/golden/model/<case>.safetensors: a small STEM model, a batch, and what PyTorch computes from them.

A plain, independent implementation of the model: a Llama decoder (RoPE on half-split heads, RMSNorm, grouped-query
attention that stays inside its segment; Qwen2's biases and Qwen3's norms of queries and keys where asked for) whose FFN is dense, stem, stem_gate, stem_additive, hash_moe or moe. Each file holds
the weights under Llama's names (experts: Mixtral's scheme), the table "stem.table" [V, S, F], the batch ("tokens",
"positions", "targets" [N], "segments" [n, 2]: first row and length), "logits" [N, V], "loss" (mean cross-entropy over targets
>= 0), "auxiliary" (moe: the routers' balance and z losses with their coefficients), "grad.<name>" of every parameter (of
loss + auxiliary), and "losses" [10]: the loss before each of ten AdamW steps on the same batch. The metadata key "config" is
config.json's text; "optimizer" holds the settings of the ten steps, "f32_error" how far this f32 run lies from the same run
in f64.

    pip install torch numpy safetensors
    python tools/make_model_goldens.py            # writes the files
    python tools/make_model_goldens.py --check    # recomputes, compares with the files, writes nothing
"""
import argparse
import json
import math
import platform
import sys
from pathlib import Path

import numpy as np
import safetensors
import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden" / "model"
BASE = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            head_dim=8, rms_norm_eps=1e-5, rope_theta=10000.0, max_position_embeddings=64, vocab_size=64)
CASES = {
    "dense_tied": dict(ffn_variant="dense", stem_layers=[], tie_word_embeddings=True, seed=1),
    "stem_untied": dict(ffn_variant="stem", stem_layers=[1, 3], tie_word_embeddings=False, seed=2),
    "stem_full_tied": dict(ffn_variant="stem", stem_layers=[1, 2, 3], tie_word_embeddings=True, seed=3),
    "stem_gate_untied": dict(ffn_variant="stem_gate", stem_layers=[1, 3], tie_word_embeddings=False, seed=4),
    "stem_additive_tied": dict(ffn_variant="stem_additive", stem_layers=[0, 2], tie_word_embeddings=True, seed=5),
    "hash_moe_tied": dict(ffn_variant="hash_moe", stem_layers=[1, 3], tie_word_embeddings=True, seed=6, num_local_experts=5,
                          num_experts_per_tok=1, moe_intermediate_size=48, hash_seed=9),
    "moe_untied": dict(ffn_variant="moe", stem_layers=[1, 2], tie_word_embeddings=False, seed=7, num_local_experts=4,
                       num_experts_per_tok=2, moe_intermediate_size=24, router_aux_loss_coef=0.1, router_z_loss_coef=0.02),
    "qwen2_tied": dict(ffn_variant="stem_additive", stem_layers=[0, 1, 2, 3], tie_word_embeddings=True, seed=8, qkv_bias=True,
                       rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                         original_max_position_embeddings=32)),
    "qwen3_untied": dict(ffn_variant="stem", stem_layers=[1, 3], tie_word_embeddings=False, seed=9, qk_norm=True, head_dim=16,
                         rope_scaling=dict(rope_type="linear", factor=2.0)),
}
# Two sequences of 24 tokens; the documents in them do not see one another.
SEGMENTS = [(0, 9), (9, 1), (10, 14), (24, 24)]
OPTIMIZER = dict(steps=10, lr=1e-2, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.1, table_weight_decay=0.0, clip=1.0,
                 table_clip=1.0, table_mode="lazy")
TABLE, EMBED = "stem.table", "model.embed_tokens.weight"
MIXTURES = ("hash_moe", "moe")


def make_weights(c, rng):
    d, f, v = c["hidden_size"], c["intermediate_size"], c["vocab_size"]
    q, kv = c["num_attention_heads"] * c["head_dim"], c["num_key_value_heads"] * c["head_dim"]
    normal = lambda shape, sigma: torch.from_numpy(rng.normal(0, sigma, shape).astype(np.float32))
    norm = lambda n=d: torch.from_numpy((1 + 0.2 * rng.standard_normal(n)).astype(np.float32))
    w = {EMBED: normal((v, d), 0.5)}
    for l in range(c["num_hidden_layers"]):
        p = f"model.layers.{l}."
        w[p + "input_layernorm.weight"] = norm()
        for name, shape in (("q", (q, d)), ("k", (kv, d)), ("v", (kv, d)), ("o", (d, q))):
            w[f"{p}self_attn.{name}_proj.weight"] = normal(shape, 1.5 / math.sqrt(d))
        if c.get("qkv_bias"):
            for name, n in (("q", q), ("k", kv), ("v", kv)):
                w[f"{p}self_attn.{name}_proj.bias"] = normal(n, 0.5)
        if c.get("qk_norm"):
            for name in "qk":
                w[f"{p}self_attn.{name}_norm.weight"] = norm(c["head_dim"])
        w[p + "post_attention_layernorm.weight"] = norm()
        variant = c["ffn_variant"] if l in c["stem_layers"] else "dense"
        if variant in MIXTURES:
            e = c["moe_intermediate_size"]
            if variant == "moe":
                w[p + "mlp.gate.weight"] = normal((c["num_local_experts"], d), 1 / math.sqrt(d))
            for i in range(c["num_local_experts"]):
                expert = f"{p}mlp.experts.{i}."
                w[expert + "gate_proj.weight"] = normal((e, d), 1.5 / math.sqrt(d))
                w[expert + "up_proj.weight"] = normal((e, d), 1 / math.sqrt(d))
                w[expert + "down_proj.weight"] = normal((d, e), 1 / math.sqrt(e))
            continue
        if variant != "stem_gate":
            w[p + "mlp.gate_proj.weight"] = normal((f, d), 1.5 / math.sqrt(d))
        if variant != "stem":
            w[p + "mlp.up_proj.weight"] = normal((f, d), 1 / math.sqrt(d))
        w[p + "mlp.down_proj.weight"] = normal((d, f), 1 / math.sqrt(f))
    w["model.norm.weight"] = norm()
    if not c["tie_word_embeddings"]:
        w["lm_head.weight"] = normal((v, d), 1 / math.sqrt(d))
    if c["stem_layers"] and c["ffn_variant"] not in MIXTURES:
        w[TABLE] = normal((v, len(c["stem_layers"]), f), 0.7)
    return w


def make_batch(c, rng):
    v = c["vocab_size"]
    chance = 1.0 / np.arange(1, v + 1)  # some tokens several times, many never: the table's gradient is row-sparse
    n = sum(length for _, length in SEGMENTS)
    tokens = rng.permutation(v)[rng.choice(v, n, p=chance / chance.sum())]
    positions = np.concatenate([np.arange(length) for _, length in SEGMENTS])
    targets = np.full(n, -1)
    for first, length in SEGMENTS:
        targets[first:first + length - 1] = tokens[first + 1:first + length]
    targets[[3, 30]] = -1  # ignored inside a document too
    return {"tokens": torch.from_numpy(tokens), "positions": torch.from_numpy(positions),
            "segments": torch.tensor(SEGMENTS), "targets": torch.from_numpy(targets)}


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


def scaled(frequency, scaling):
    """Rotary frequencies stretched as transformers' rope types linear and llama3 do."""
    if scaling is None:
        return frequency
    factor = scaling["factor"]
    if scaling["rope_type"] == "linear":
        return frequency / factor
    low, high, original = (scaling[key] for key in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings"))
    wavelength = 2 * math.pi / frequency
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * frequency / factor + smooth * frequency
    return torch.where(wavelength < original / high, frequency,
                       torch.where(wavelength > original / low, frequency / factor, between))


def rope(x, positions, theta, scaling):
    """x [N, heads, A]: component i turns with component i + A/2 by positions · theta^(-2i/A)."""
    a = x.shape[-1]
    frequency = scaled(theta ** (-torch.arange(0, a, 2, dtype=torch.float64) / a), scaling)
    angle = positions.double()[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype)[:, None], angle.sin().to(x.dtype)[:, None]
    first, second = x[..., :a // 2], x[..., a // 2:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def attention(c, w, p, x, batch):
    n, a = x.shape[0], c["head_dim"]
    h, k = c["num_attention_heads"], c["num_key_value_heads"]

    def heads_of(name, count):
        y = x @ w[f"{p}{name}_proj.weight"].T
        if c.get("qkv_bias"):
            y = y + w[f"{p}{name}_proj.bias"]
        y = y.view(n, count, a)
        if c.get("qk_norm") and name != "v":
            y = rms_norm(y, w[f"{p}{name}_norm.weight"], c["rms_norm_eps"])
        return y if name == "v" else rope(y, batch["positions"], c["rope_theta"], c.get("rope_scaling"))

    query, key, value = heads_of("q", h), heads_of("k", k), heads_of("v", k)
    parts = []
    for first, length in batch["segments"].tolist():
        rows = slice(first, first + length)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        heads = []
        for i in range(h):
            j = i // (h // k)
            scores = (query[rows, i] @ key[rows, j].T) / math.sqrt(a)
            heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ value[rows, j])
        parts.append(torch.cat(heads, -1))
    return torch.cat(parts) @ w[p + "o_proj.weight"].T


def hash_expert(seed, token, experts):
    """Philox4x32-10 at key `seed`, counter (token, the hash's stream): its first word scaled to the experts."""
    mask, (k0, k1), counter = 0xFFFFFFFF, (seed & 0xFFFFFFFF, seed >> 32), [token, 0, 0x68617368, 0]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ k0, b & mask, a >> 32 ^ counter[3] ^ k1, a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & mask, (k1 + 0xBB67AE85) & mask
    return counter[0] * experts >> 32


def mixture(c, w, p, x, tokens, auxiliary):
    """Every expert on every position, weighted: zero where it was not chosen. Appends the router's losses."""
    experts, k = c["num_local_experts"], c["num_experts_per_tok"]
    if c["ffn_variant"] == "hash_moe":
        chosen = torch.tensor([hash_expert(c["hash_seed"], t, experts) for t in tokens.tolist()])
        weights = torch.nn.functional.one_hot(chosen, experts).to(x.dtype)
    else:
        logits = x @ w[p + "gate.weight"].T
        best, chosen = logits.topk(k, -1)
        weights = torch.zeros_like(logits).scatter(1, chosen, best.softmax(-1))
        load = torch.bincount(chosen.flatten(), minlength=experts).to(x.dtype) / chosen.numel()
        auxiliary.append(c["router_aux_loss_coef"] * experts * (load * logits.softmax(-1).mean(0)).sum() +
                         c["router_z_loss_coef"] * logits.logsumexp(-1).pow(2).mean())
    y = torch.zeros_like(x)
    for i in range(experts):
        gate, up, down = (w[f"{p}experts.{i}.{name}_proj.weight"] for name in ("gate", "up", "down"))
        a = x @ gate.T
        y = y + weights[:, i:i + 1] * ((a * torch.sigmoid(a) * (x @ up.T)) @ down.T)
    return y


def ffn(c, w, l, x, tokens, auxiliary):
    p = f"model.layers.{l}.mlp."
    if l in c["stem_layers"] and c["ffn_variant"] in MIXTURES:
        return mixture(c, w, p, x, tokens, auxiliary)
    gate = lambda: x @ w[p + "gate_proj.weight"].T
    up = lambda: x @ w[p + "up_proj.weight"].T
    silu = lambda y: y * torch.sigmoid(y)
    if l not in c["stem_layers"]:
        hidden = silu(gate()) * up()
    else:
        row = w[TABLE][tokens, c["stem_layers"].index(l)]
        hidden = {"stem": lambda: silu(gate()) * row,
                  "stem_gate": lambda: silu(row) * up(),
                  "stem_additive": lambda: silu(gate()) * (up() + row)}[c["ffn_variant"]]()
    return hidden @ w[p + "down_proj.weight"].T


def forward(c, w, batch):
    """Returns the logits [N, V], the mean loss over targets >= 0 and the sum of all routers' losses."""
    auxiliary = []
    x = w[EMBED][batch["tokens"]]
    for l in range(c["num_hidden_layers"]):
        p = f"model.layers.{l}."
        x = x + attention(c, w, p + "self_attn.", rms_norm(x, w[p + "input_layernorm.weight"], c["rms_norm_eps"]), batch)
        x = x + ffn(c, w, l, rms_norm(x, w[p + "post_attention_layernorm.weight"], c["rms_norm_eps"]), batch["tokens"],
                    auxiliary)
    x = rms_norm(x, w["model.norm.weight"], c["rms_norm_eps"])
    logits = x @ w[EMBED if c["tie_word_embeddings"] else "lm_head.weight"].T
    kept = batch["targets"] >= 0
    loss = -torch.log_softmax(logits[kept], -1).gather(1, batch["targets"][kept][:, None]).mean()
    return logits, loss, sum(auxiliary, torch.zeros((), dtype=x.dtype))


def loss_and_gradients(c, w, batch):
    leaves = {name: t.detach().clone().requires_grad_() for name, t in w.items()}
    logits, loss, auxiliary = forward(c, leaves, batch)
    grads = torch.autograd.grad(loss + auxiliary, list(leaves.values()))
    return logits.detach(), loss.detach(), auxiliary.detach(), dict(zip(leaves, grads))


def clip(grads, limit):
    norm = math.sqrt(sum(g.double().pow(2).sum().item() for g in grads.values()))
    return {name: g * min(1.0, limit / norm) for name, g in grads.items()} if norm > 0 else grads


def train(c, w, batch):
    """Ten AdamW steps; the loss before each. Norms do not decay. The table, and the embedding when it is not also the
    head, move only in the rows of the batch: weight, both moments and decay."""
    o = OPTIMIZER
    w = {name: t.clone() for name, t in w.items()}
    m = {name: torch.zeros_like(t) for name, t in w.items()}
    v = {name: torch.zeros_like(t) for name, t in w.items()}
    rows = torch.unique(batch["tokens"])
    losses = []
    for step in range(1, o["steps"] + 1):
        _, loss, _, grads = loss_and_gradients(c, w, batch)
        losses.append(loss)
        grads = clip({n: g for n, g in grads.items() if n != TABLE}, o["clip"]) | \
            clip({n: g for n, g in grads.items() if n == TABLE}, o["table_clip"])
        for name, g in grads.items():
            sparse = name == TABLE or (name == EMBED and not c["tie_word_embeddings"])
            at = rows if sparse else slice(None)
            decay = o["table_weight_decay"] if name == TABLE else 0.0 if w[name].dim() == 1 else o["weight_decay"]
            m[name][at] = o["beta1"] * m[name][at] + (1 - o["beta1"]) * g[at]
            v[name][at] = o["beta2"] * v[name][at] + (1 - o["beta2"]) * g[at] ** 2
            m_hat = m[name][at] / (1 - o["beta1"] ** step)
            v_hat = v[name][at] / (1 - o["beta2"] ** step)
            w[name][at] = w[name][at] * (1 - o["lr"] * decay) - o["lr"] * m_hat / (v_hat.sqrt() + o["eps"])
    return torch.stack(losses)


def compute(c, w, batch, dtype):
    w = {name: t.to(dtype) for name, t in w.items()}
    logits, loss, auxiliary, grads = loss_and_gradients(c, w, batch)
    out = {"logits": logits, "loss": loss.reshape(1), "losses": train(c, w, batch)}
    if c["ffn_variant"] == "moe":
        out["auxiliary"] = auxiliary.reshape(1)
    return out | {f"grad.{name}": g for name, g in grads.items()}


def distance(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max()).item()


def make_case(name):
    settings = dict(CASES[name])
    rng = np.random.default_rng(settings.pop("seed"))
    c = BASE | settings | dict(model_type="stem", torch_dtype="float32")
    weights, batch = make_weights(c, rng), make_batch(c, rng)
    result, exact = (compute(c, weights, batch, dtype) for dtype in (torch.float32, torch.float64))
    errors = {key: distance(result[key], exact[key]) for key in result}
    worst = max(errors, key=errors.get)
    integers = {key: t.to(torch.int32) for key, t in batch.items()}
    tensors = {key: t.contiguous() for key, t in (weights | integers | result).items()}
    metadata = {"format": "pt", "config": json.dumps(c), "optimizer": json.dumps(OPTIMIZER),
                "f32_error": f"{errors[worst]:.1e} ({worst})", "torch": torch.__version__, "numpy": np.__version__,
                "python": platform.python_version()}
    print(f"{name}: loss {result['loss'].item():.4f}, after ten steps {result['losses'][-1].item():.4f}, "
          f"f32 against f64 {metadata['f32_error']}, {len(torch.unique(batch['tokens']))} distinct tokens")
    return tensors, metadata


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    check = parser.parse_args().check
    torch.set_num_threads(1)
    FOLDER.mkdir(parents=True, exist_ok=True)
    failures = 0
    for name in CASES:
        tensors, metadata = make_case(name)
        path = FOLDER / f"{name}.safetensors"
        if not check:
            save_file(tensors, path, metadata)
            continue
        with safetensors.safe_open(path, "pt") as stored:
            if set(stored.keys()) != set(tensors):
                failures += 1
                print(f"  {path.name}: other tensors than computed")
                continue
            for key, t in tensors.items():
                if distance(t, stored.get_tensor(key)) > 1e-5:
                    failures += 1
                    print(f"  {path.name}: {key} differs by {distance(t, stored.get_tensor(key)):.1e}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
