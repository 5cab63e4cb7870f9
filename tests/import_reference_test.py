#!/usr/bin/env python3
"""Checkpoints of the reference implementation through tools/import_reference_checkpoint.py, and what is refused.

    STEM_TRANSFORMERS_PYTHON=/path/to/python tests/import_reference_test.py --stem build/stem

Makes tiny checkpoints in the reference's form out of random weights, converts them, and compares the program's logits with
the forward pass below, which is written after the paper's formulas and rotates neighbouring pairs as the reference does. Needs
a Python with torch and numpy: this one, or the one that STEM_TRANSFORMERS_PYTHON names; else it is skipped (exit code 77).
"""
import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import unittest
import unittest.mock
import warnings
from pathlib import Path

try:
    import numpy  # noqa: F401
    import torch
except ImportError:
    other = os.environ.pop("STEM_TRANSFORMERS_PYTHON", None)
    if other:
        os.execv(other, [other, *sys.argv])
    print("skipped: needs torch and numpy: set STEM_TRANSFORMERS_PYTHON to a Python that has them")
    sys.exit(77)

SOURCE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "tools"))
sys.dont_write_bytecode = True
import import_reference_checkpoint as tool  # noqa: E402

STEM = None
PROMPTS = ["The capital of France is Paris.", "caf\u00e9 \U0001f33f", "0123456789" * 5]
LIMIT = 1e-5  # of logits, relative to the largest: the program computes in f32, the forward pass here in f64
RANKS = 12  # more than ten: as text, 10 and 11 come before 2


def params_of(**changes):
    """A params.json whose numbers all matter: grouped queries, a base and an epsilon far from the usual."""
    model = {"dim": 32, "n_layers": 4, "head_dim": None, "n_heads": 4, "n_kv_heads": 2, "ffn_dim_multiplier": 1.1, "multiple_of": 24,
             "norm_eps": 0.02, "rope_theta": 37.0, "init_base_std": None, "init_std_factor": "disabled", "max_seqlen": 96, "seed": 42,
             "vocab_size": 258, "weight_tying": False, "sliding_window": None, "stem_layers": [1, 3], "stem_embedding_dim": 96}
    return {"name": "tiny", "model": {**model, **changes}, "distributed": {"model_dtype": "fp32", "stem_parallel_size": RANKS},
            "data": {"add_bos": True, "add_eos": True, "tokenizer": {"name": "bytes", "path": None}}}


def weights_of(params, seed):
    """Dense weights under the reference's names, and one table [V, F] a STEM layer, as listed."""
    m, random = params["model"], torch.Generator().manual_seed(seed)
    d, f, v, a = m["dim"], m["stem_embedding_dim"], m["vocab_size"], m["head_dim"] or m["dim"] // m["n_heads"]
    matrix = lambda rows, columns: torch.randn(rows, columns, generator=random) * 1.5 / columns**0.5
    norm = lambda: 1 + 0.5 * torch.randn(d, generator=random)
    w = {"tok_embeddings.weight": 2 * torch.randn(v, d, generator=random)}
    for l in range(m["n_layers"]):
        p = f"layers.{l}."
        for name, rows, columns in (("q", m["n_heads"] * a, d), ("k", m["n_kv_heads"] * a, d), ("v", m["n_kv_heads"] * a, d),
                                    ("o", d, m["n_heads"] * a)):
            w[f"{p}attention.w{name}.weight"] = matrix(rows, columns)
        for name, rows, columns in (("1", f, d), ("2", d, f)) + (() if l in m["stem_layers"] else (("3", f, d),)):
            w[f"{p}feed_forward.w{name}.weight"] = matrix(rows, columns)
        w[p + "attention_norm.weight"], w[p + "ffn_norm.weight"] = norm(), norm()
    w["norm.weight"] = norm()
    if m["weight_tying"]:
        w["output.tied_module.weight"] = w["tok_embeddings.weight"]
    else:
        w["output.weight"] = matrix(v, d)
    return w, [torch.randn(v, f, generator=random) for _ in m["stem_layers"]]


def forward(params, w, tables, ids):
    """Logits [N, V] in f64. Positions rotate as complex numbers: components 2i and 2i + 1 are one of them."""
    m = params["model"]
    w, tables = {name: t.double() for name, t in w.items()}, [t.double() for t in tables]
    ids, n, a = torch.tensor(ids), len(ids), m["head_dim"] or m["dim"] // m["n_heads"]
    angle = torch.arange(n, dtype=torch.float64)[:, None] * m["rope_theta"] ** (-torch.arange(0, a, 2, dtype=torch.float64) / a)
    turn = torch.polar(torch.ones_like(angle), angle)[:, None]

    def normed(x, name):
        return x / (x.square().mean(-1, keepdim=True) + m["norm_eps"]).sqrt() * w[name]

    def turned(x):
        return torch.view_as_real(torch.view_as_complex(x.reshape(*x.shape[:-1], a // 2, 2)) * turn).flatten(-2)

    x = w["tok_embeddings.weight"][ids]
    for l in range(m["n_layers"]):
        p = f"layers.{l}."
        y = normed(x, p + "attention_norm.weight")
        q, k, v = ((y @ w[f"{p}attention.w{name}.weight"].T).view(n, -1, a) for name in "qkv")
        k, v = (t.repeat_interleave(m["n_heads"] // m["n_kv_heads"], 1) for t in (turned(k), v))
        scores = torch.einsum("ihc,jhc->hij", turned(q), k) / a**0.5
        scores = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -torch.inf)
        x = x + torch.einsum("hij,jhc->ihc", scores.softmax(-1), v).reshape(n, -1) @ w[p + "attention.wo.weight"].T
        y = normed(x, p + "ffn_norm.weight")
        gate = y @ w[p + "feed_forward.w1.weight"].T
        up = tables[m["stem_layers"].index(l)][ids] if l in m["stem_layers"] else y @ w[p + "feed_forward.w3.weight"].T
        x = x + (gate * gate.sigmoid() * up) @ w[p + "feed_forward.w2.weight"].T
    head = w["tok_embeddings.weight" if m["weight_tying"] else "output.weight"]
    return normed(x, "norm.weight") @ head.T


def save_shards(folder, tables, ranks):
    """Columns of every table by rank. The last rank is written first: no order but that of the numbers is right."""
    folder.mkdir(parents=True)
    for rank in reversed(range(ranks)):
        columns = slice(rank * tables[0].shape[1] // ranks, (rank + 1) * tables[0].shape[1] // ranks)
        torch.save({f"stem_embeddings.{i}.weight": t[:, columns].clone() for i, t in enumerate(tables)},
                   folder / f"stem_model_mp{rank}.pt")
        torch.save({"state": {}, "param_groups": []}, folder / f"stem_optim_mp{rank}.pt")


def save_checkpoint(folder, params, w, tables, ranks=RANKS, prefix="lm_transformer."):
    """What training leaves, with consolidated.pth made by torch of its distributed files, as the reference makes it."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    folder.mkdir(parents=True)
    state = {"model": {prefix + name: t for name, t in w.items()},
             "optim": {"state": {prefix + "norm.weight": {"step": torch.tensor(3.0)}}, "param_groups": []}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder)
        (folder / "consolidated").mkdir()
        dcp_to_torch_save(folder, folder / "consolidated" / "consolidated.pth")
    for place in (folder, folder / "consolidated"):
        (place / "params.json").write_text(json.dumps(params))
    save_shards(folder / "stem_shards", tables, ranks)
    # What the reference's own consolidation may write: columns in another order. It must not be read.
    torch.save({f"stem_embeddings.{i}.weight": t.flip(1) for i, t in enumerate(tables)},
               folder / "consolidated" / "consolidated_stem.pth")


def convert(*arguments):
    """The script, in this process: importing torch takes seconds."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = tool.main([str(a) for a in arguments])
    return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


def stem(*arguments):
    result = subprocess.run([STEM, *map(str, arguments)], cwd=SOURCE, capture_output=True, text=True, timeout=120, check=False,
                            env=dict(os.environ, OMP_NUM_THREADS="1"))
    if result.returncode:
        raise AssertionError(f"stem {' '.join(map(str, arguments))}: exit code {result.returncode}: {result.stderr}")
    return result.stdout


def read_tensors(path):
    """Name, type and tensor of a safetensors file, and where its data starts."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    types = {"F32": torch.float32, "BF16": torch.bfloat16}
    tensors = {}
    for name, t in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = t["data_offsets"]
            tensors[name] = torch.frombuffer(bytearray(data[start + first:start + end]), dtype=types[t["dtype"]]).view(t["shape"])
    return tensors, start


class ImportReferenceTest(unittest.TestCase):
    def setUp(self):
        place = tempfile.TemporaryDirectory(prefix="stem_reference_")
        self.addCleanup(place.cleanup)
        self.folder = Path(place.name)

    def made(self, checkpoint, *options):
        out = self.folder / "out"
        result = convert(checkpoint, out, *options)
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertEqual(sorted(p.name for p in self.folder.iterdir() if p.name.startswith("out")), ["out"])
        self.said = result.stdout
        return out

    def check_logits(self, model, params, w, tables):
        file = self.folder / "logits.safetensors"
        stem("info", model)  # checks every digest of the manifest
        stem("export", model, self.folder / "exported", "--logits", file, *(word for p in PROMPTS for word in ("--prompt", p)))
        exported = read_tensors_of_export(file)
        for i, prompt in enumerate(PROMPTS):
            ids, found = exported[f"tokens.{i}"], exported[f"logits.{i}"].double()
            self.assertEqual(ids, [256, *prompt.encode()])
            wanted = forward(params, w, tables, ids)
            worst = ((found - wanted).abs().max() / wanted.abs().max()).item()
            self.assertLessEqual(worst, LIMIT, prompt)

    def test_logits(self):
        params = params_of()
        w, tables = weights_of(params, 1)
        save_checkpoint(self.folder / "0000000100", params, w, tables)
        out = self.folder / "out"  # as a user runs it
        said = subprocess.run([sys.executable, tool.__file__, self.folder / "0000000100", out], capture_output=True, text=True,
                              timeout=300, check=True).stdout
        self.assertRegex(said, r"out: [\d,]+ dense parameters and a table of 258 x 2 x 96 \(layers 1, 3\) from 12 shards, "
                               r"stored as f32\n")
        self.check_logits(out, params, w, tables)
        stored, start = read_tensors(out / "stem_table.safetensors")
        self.assertEqual(start % 4096, 0)
        self.assertTrue(torch.equal(stored["stem.table"], torch.stack(tables, 1)))

    def test_logits_of_the_other_forms(self):
        """Tied, layers listed out of order, heads wider than dim / heads, names without prefix, one rank, from `consolidated`."""
        params = params_of(stem_layers=[2, 0], weight_tying=True, head_dim=12, n_heads=4, n_kv_heads=4, ffn_dim_multiplier=None)
        w, tables = weights_of(params, 2)
        save_checkpoint(self.folder / "step", params, w, tables, 1, "")
        out = self.made(self.folder / "step" / "consolidated")
        self.assertEqual(json.loads((out / "config.json").read_text())["stem_layers"], [0, 2])
        self.check_logits(out, params, w, tables)

    def test_every_layer_but_the_first(self):
        """Null for stem_layers and stem_embedding_dim, which the reference computes; bf16, which stays so."""
        params = params_of(stem_layers=[1, 2, 3])
        w, tables = weights_of(params, 3)
        w, tables = {name: t.bfloat16() for name, t in w.items()}, [t.bfloat16() for t in tables]
        save_checkpoint(self.folder / "step", params_of(stem_layers=None, stem_embedding_dim=None), w, tables, 3)
        out = self.made(self.folder / "step")
        self.assertIn("(layers 1, 2, 3) from 3 shards, stored as bf16", self.said)
        stem("info", out)
        dense, _ = read_tensors(out / "model.safetensors")
        self.assertTrue(torch.equal(dense["model.layers.0.mlp.up_proj.weight"], w["layers.0.feed_forward.w3.weight"]))
        self.assertTrue(torch.equal(read_tensors(out / "stem_table.safetensors")[0]["stem.table"], torch.stack(tables, 1)))
        wide = self.folder / "wide"
        self.assertEqual(convert(self.folder / "step", wide, "--dtype", "f32").returncode, 0)
        self.check_logits(wide, params, w, tables)

    def test_a_given_tokenizer(self):
        params = params_of()
        w, tables = weights_of(params, 4)
        save_checkpoint(self.folder / "bytes", params, w, tables)
        tokenizer = self.made(self.folder / "bytes")
        params["data"]["tokenizer"] = {"name": "tiktoken", "path": "tokenizer.model"}
        save_checkpoint(self.folder / "step", params, w, tables)
        result = convert(self.folder / "step", self.folder / "second")
        self.assertEqual(result.returncode, 1)
        self.assertIn('tokenizer: name: "tiktoken": --tokenizer must name its tokenizer.json', result.stderr)
        for given in (tokenizer, tokenizer / "tokenizer.json"):
            second = self.folder / f"given {given.suffix}"
            self.assertEqual(convert(self.folder / "step", second, "--tokenizer", given).returncode, 0)
            for name in ("tokenizer.json", "tokenizer_config.json"):
                self.assertEqual((second / name).read_bytes(), (tokenizer / name).read_bytes())
            stem("info", second)
        small = json.loads((tokenizer / "tokenizer.json").read_text())
        small["added_tokens"].pop()
        (self.folder / "small.json").write_text(json.dumps(small))
        result = convert(self.folder / "step", self.folder / "third", "--tokenizer", self.folder / "small.json")
        self.assertEqual(result.returncode, 0)
        self.assertIn("small.json: 257 tokens for 258 rows", result.stderr)
        small["added_tokens"][0]["id"] = 258
        (self.folder / "large.json").write_text(json.dumps(small))
        self.refused("large.json: expected ids below vocab_size = 258 of ", "--tokenizer", self.folder / "large.json",
                     checkpoint=self.folder / "step")

    def refused(self, said, *options, checkpoint=None):
        """One line on stderr with `said` in it, and no model directory, not even half of one."""
        out = self.folder / "refused"
        result = convert(checkpoint or self.folder / "step", out, *options)
        self.assertEqual((result.returncode, result.stdout, result.stderr.count("\n")), (1, "", 1), result.stderr)
        self.assertIn(said, result.stderr)
        self.assertEqual([p for p in self.folder.iterdir() if p.name.startswith("refused")], [])

    def broken(self, said, change, *options):
        """Refusal of a small checkpoint after `change` of (its folder, params, dense weights, shards by rank)."""
        for old in sorted(self.folder.rglob("*"), reverse=True):
            old.rmdir() if old.is_dir() else old.unlink()
        step, params = self.folder / "step", params_of()
        w, tables = weights_of(params, 5)
        state = {"model": {"lm_transformer." + name: t for name, t in w.items()}, "optim": {}}
        shards = [{f"stem_embeddings.{i}.weight": t[:, 32 * r:32 * r + 32].clone() for i, t in enumerate(tables)} for r in range(3)]
        change(params, state, shards)
        (step / "consolidated").mkdir(parents=True)
        (step / "stem_shards").mkdir()
        (step / "params.json").write_text(json.dumps(params))
        torch.save(state, step / "consolidated" / "consolidated.pth")
        for rank, shard in enumerate(shards):
            if shard is not None:
                torch.save(shard, step / "stem_shards" / f"stem_model_mp{rank}.pt")
        if said is None:
            self.assertEqual(convert(step, self.folder / "out").returncode, 0)
        else:
            self.refused(said, *options)

    def test_untouched_it_passes(self):
        self.broken(None, lambda params, state, shards: None)

    def test_missing_shards(self):
        def without(*ranks):
            def change(params, state, shards):
                for rank in ranks:
                    shards[rank] = None

            return change

        whole = "stem_shards: expected stem_model_mp0.pt to stem_model_mp2.pt (rows of 96 values, 32 of them in each), found "
        self.broken(whole + "2; missing: stem_model_mp1.pt\n", without(1))
        self.broken(whole + "2; missing: stem_model_mp2.pt\n", without(2))
        self.broken(whole + "1; missing: stem_model_mp0.pt, stem_model_mp1.pt\n", without(0, 1))
        self.broken(whole + "4; too many: stem_model_mp3.pt\n", lambda params, state, shards: shards.append(shards[0]))
        self.broken("stem_shards: expected stem_model_mp0.pt and so on, one file a rank, found none", without(0, 1, 2))
        # With more than ten, of which one in the middle is missing.
        params = params_of()
        w, tables = weights_of(params, 6)
        save_checkpoint(self.folder / "many", params, w, tables)
        (self.folder / "many" / "stem_shards" / "stem_model_mp10.pt").unlink()
        self.refused("stem_model_mp0.pt to stem_model_mp11.pt (rows of 96 values, 8 of them in each), found 11; missing: "
                     "stem_model_mp10.pt\n", checkpoint=self.folder / "many")

    def test_shapes(self):
        def reshaped(which, key, shape):
            def change(params, state, shards):
                {"model": state["model"], 0: shards[0], 1: shards[1]}[which][key] = torch.zeros(shape)

            return change

        for_two = "stem_embeddings.1.weight"
        self.broken(f"stem_model_mp1.pt: {for_two}: expected F32, BF16 or F16 [258, 32] (by params.json and stem_model_mp0.pt), "
                    "found F32 [258, 33]\n", reshaped(1, for_two, (258, 33)))
        self.broken(f"stem_model_mp1.pt: {for_two}: expected F32, BF16 or F16 [258, 32]", reshaped(1, for_two, (32, 258)))
        self.broken("stem_model_mp0.pt: stem_embeddings.0.weight: expected [258, a divisor of 96] (by params.json), found F32 [258, 31]",
                    reshaped(0, "stem_embeddings.0.weight", (258, 31)))
        # Split along the rows, as other embeddings are: the shapes tell.
        self.broken("stem_model_mp0.pt: stem_embeddings.0.weight: expected F32, BF16 or F16 [258, 96]",
                    reshaped(0, "stem_embeddings.0.weight", (86, 96)))
        name = "lm_transformer.layers.2.attention.wk.weight"
        self.broken(f"consolidated.pth: {name}: expected F32, BF16 or F16 [16, 32] (by params.json), found F32 [32, 32]\n",
                    reshaped("model", name, (32, 32)))

        def integers(params, state, shards):
            state["model"][name] = torch.zeros((16, 32), dtype=torch.int64)

        self.broken(f"consolidated.pth: {name}: expected F32, BF16 or F16 [16, 32] (by params.json), found torch.int64 [16, 32]", integers)

    def test_names(self):
        def put(which, key, value):
            def change(params, state, shards):
                {"model": state["model"], "top": state, 2: shards[2]}[which][key] = value

            return change

        def take(which, key):
            return lambda params, state, shards: {"model": state["model"], "top": state, 2: shards[2]}[which].pop(key)

        some = torch.zeros(2, 3)
        self.broken("consolidated.pth: lm_transformer.layers.1.feed_forward.w3.weight: expected no tensor of this name (by params.json), "
                    "found F32 [2, 3]\n", put("model", "lm_transformer.layers.1.feed_forward.w3.weight", some))
        self.broken("consolidated.pth: lm_transformer.layers.0.attention.q_norm.weight: expected no tensor",
                    put("model", "lm_transformer.layers.0.attention.q_norm.weight", some))
        self.broken("consolidated.pth: norm.weight: expected no tensor", put("model", "norm.weight", some))
        self.broken("consolidated.pth: lm_transformer.layers.0.feed_forward.w3.weight: expected this tensor, found none\n",
                    take("model", "lm_transformer.layers.0.feed_forward.w3.weight"))
        self.broken("consolidated.pth: ema: expected model and optim alone, found F32 [2, 3]", put("top", "ema", some))
        self.broken("consolidated.pth: model: expected tensors by name, found nothing", take("top", "model"))
        self.broken("stem_model_mp2.pt: stem_embeddings.2.weight: expected no tensor", put(2, "stem_embeddings.2.weight", some))
        self.broken("stem_model_mp2.pt: stem_embeddings.0.weight: expected this tensor, found none", take(2, "stem_embeddings.0.weight"))

    def test_params(self):
        def model(**changes):
            return lambda params, state, shards: params["model"].update(changes)

        self.broken("params.json: model: rope_scaling: expected only keys of the reference's model, found 8", model(rope_scaling=8))
        self.broken("params.json: model: sliding_window: expected null, found 64", model(sliding_window=64))
        self.broken("params.json: model: norm_eps: expected a number above 0, found \"small\"", model(norm_eps="small"))
        self.broken("params.json: model: rope_theta: expected a number above 0, found no such key",
                    lambda params, state, shards: params["model"].pop("rope_theta"))
        self.broken("params.json: model: stem_layers: expected distinct layers below n_layers = 4, at least one, or null, found [1, 4]",
                    model(stem_layers=[1, 4]))
        self.broken("params.json: model: stem_embedding_dim: expected the feed-forward width 96", model(stem_embedding_dim=128))
        self.broken("params.json: model: n_kv_heads: expected a divisor of n_heads = 4, found 3", model(n_kv_heads=3))
        self.broken("params.json: model: expected an object, found null", lambda params, state, shards: params.pop("model"))
        self.broken("params.json: data: add_bos: expected true or false, found no such key",
                    lambda params, state, shards: params["data"].pop("add_bos"))

        def untied(params, state, shards):
            params["model"]["weight_tying"] = True
            state["model"]["lm_transformer.output.tied_module.weight"] = state["model"].pop("lm_transformer.output.weight")

        self.broken("output.tied_module.weight: expected the values of lm_transformer.tok_embeddings.weight (weight_tying), found others",
                    untied)

    def test_files(self):
        step = self.folder / "step"
        self.broken(None, lambda params, state, shards: None)
        (self.folder / "out" / "stem.json").unlink()
        result = convert(step, self.folder / "out")
        self.assertEqual(result.returncode, 1)
        self.assertIn("out: expected a new or empty directory, found other files", result.stderr)
        marker = self.folder / "ran"

        class Code:
            def __reduce__(self):
                return os.mkdir, (str(marker),)

        torch.save({"model": Code()}, step / "consolidated" / "consolidated.pth")
        self.refused("consolidated.pth: expected a file of torch.save that holds tensors alone, found ")
        self.assertFalse(marker.exists())
        (step / "consolidated" / "consolidated.pth").write_bytes(b"PK\3\4 cut")
        self.refused("consolidated.pth: expected a file of torch.save that holds tensors alone, found ")
        (step / "consolidated" / "consolidated.pth").unlink()
        self.refused("consolidated.pth: expected the dense weights in one file, which torch makes")
        (step / "stem_shards" / "stem_model_mp01.pt").write_bytes(b"")
        (step / "consolidated" / "stem_shards").mkdir()
        self.refused("expected one folder of shards, found two: choose with --shards")
        (step / "params.json").unlink()
        self.refused("params.json: expected this file, found none", "--shards", step / "stem_shards")
        self.refused("nowhere: expected the folder of a checkpoint, found nothing", checkpoint=self.folder / "nowhere")

    def test_nothing_is_left_of_a_write_that_failed(self):
        self.broken(None, lambda params, state, shards: None)

        def full(tables, dtype):
            raise OSError(28, "No space left on device", "stem_table.safetensors")

        with unittest.mock.patch.object(tool, "records", full):
            self.refused("stem_table.safetensors: No space left on device")

    def test_odd_names_of_shards(self):
        self.broken(None, lambda params, state, shards: None)
        (self.folder / "step" / "stem_shards" / "stem_model_mp01.pt").write_bytes(b"")
        self.refused("stem_model_mp01.pt: expected a name like stem_model_mp0.pt, found stem_model_mp01.pt")


def read_tensors_of_export(path):
    """tokens.I as a list and logits.I [N, V] of stem export --logits."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    kinds = {"I32": torch.int32, "I64": torch.int64, "F32": torch.float32}
    found = {}
    for name, t in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, end = t["data_offsets"]
            tensor = torch.frombuffer(bytearray(data[start + first:start + end]), dtype=kinds[t["dtype"]]).view(t["shape"])
            found[name] = tensor.tolist() if name.startswith("tokens") else tensor
    return found


def main():
    global STEM
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stem", required=True, type=Path, help="the program")
    arguments, rest = parser.parse_known_args()
    STEM = arguments.stem.resolve()
    torch.set_num_threads(1)
    unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
