#!/usr/bin/env python3
"""Loads what `stem export` writes with transformers and compares it with the program's own numbers.

Of each model directory: the ids of three prompts as the exported tokenizer gives them, the logits at every position, the same
token by token through the cache and in a batch padded on the left, 40 greedy tokens of generate(), and that every parameter
gets a gradient. With --goldens also the models of tests/golden/model (tools/make_model_goldens.py): logits and every gradient
against an independent forward pass. Prints one line a model with the largest differences, relative to the largest logit or
gradient; --json the same as one object. Exit code 1 where one is above the limit.

    pip install torch transformers safetensors numpy
    python tools/check_export.py --stem build/stem out/atlas
    python tools/check_export.py --stem build/stem --goldens
"""
import argparse
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
PROMPTS = ["The capital of France is", "Once upon a time, there was a little", "the th"]
LIMIT = 1e-4  # of logits and gradients, relative; both sides compute in f32
NEW_TOKENS = 40
UUID = bytes(range(16))  # of models made here
PLAIN = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def run(arguments, **options):
    """The program, from the source folder, where it finds the modeling file."""
    return subprocess.run([str(a) for a in arguments], cwd=SOURCE, capture_output=True, text=True, timeout=900, check=False,
                          **options)


def checked(arguments):
    result = run(arguments)
    if result.returncode:
        raise SystemExit(f"{' '.join(map(str, arguments))}: exit code {result.returncode}: {result.stderr.strip()}")
    return result.stdout


def load(directory):
    from transformers import AutoModelForCausalLM

    config = json.loads((directory / "config.json").read_text())
    plain = config["model_type"] in PLAIN
    if plain and (config["architectures"] != [PLAIN[config["model_type"]]] or (directory / "modeling_stem.py").exists()):
        raise SystemExit(f"{directory}: a plain {config['model_type']} with code of its own")
    model, info = AutoModelForCausalLM.from_pretrained(directory, dtype="float32", trust_remote_code=not plain,
                                                       output_loading_info=True)
    wrong = {key: names for key, names in info.items() if names}
    if wrong:
        raise SystemExit(f"{directory}: from_pretrained reports {wrong}")
    return model.eval(), config["model_type"]


def distance(a, b):
    return ((a.double() - b.double()).abs().max() / b.double().abs().max().clamp_min(1e-30)).item()


def through_cache(model, ids):
    """The logits of one sequence, token by token."""
    import torch

    cache, parts = None, []
    for i in range(ids.shape[1]):
        out = model(ids[:, i:i + 1], past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        parts.append(out.logits)
    return torch.cat(parts, 1)


def greedy_fault(model, ids, wanted, end):
    """Text where generate() leaves the program's tokens although the two likeliest are not equally likely."""
    import torch

    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=NEW_TOKENS,
                          pad_token_id=0)[0, ids.shape[1]:].tolist()
    if end in made:
        made = made[:made.index(end)]
    if len(wanted) < NEW_TOKENS:
        made = made[:len(wanted)] if made[:len(wanted)] == wanted else made  # the program stops at a full context
    if made == wanted:
        return None
    at = next((i for i, (a, b) in enumerate(zip(made, wanted)) if a != b), min(len(made), len(wanted)))
    logits = model(torch.tensor([ids[0].tolist() + wanted[:at]])).logits[0, -1]
    best = logits.topk(2).values
    return None if (best[0] - best[1]) < 1e-3 else f"greedy token {at}: generate() {made[at:at + 1]}, stem {wanted[at:at + 1]}"


def check_model(stem, folder, source, prompts, patches):
    """Exports one model directory and returns its differences; "faults" are texts."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    out, file = folder / "exported", folder / "logits.safetensors"
    arguments = [stem, "export", source, out, "--logits", file]
    for prompt in prompts:
        arguments += ["--prompt", prompt]
    in_force = [word for patch in patches for word in ("--patch", patch.resolve())]
    checked(arguments + in_force)
    model, model_type = load(out)
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=model_type == "stem")  # it looks at the model's config
    reference = load_file(file)
    result = {"model_type": model_type, "logits": 0.0, "cache": 0.0, "padded": 0.0, "faults": []}
    with torch.no_grad():
        for i, prompt in enumerate(prompts):
            ids, logits = reference[f"tokens.{i}"].long()[None], reference[f"logits.{i}"]
            found = tokenizer(prompt).input_ids
            if found != ids[0].tolist():
                result["faults"].append(f"{prompt!r}: exported tokenizer {found}, stem {ids[0].tolist()}")
            result["logits"] = max(result["logits"], distance(model(ids).logits[0], logits))
            result["cache"] = max(result["cache"], distance(through_cache(model, ids)[0], logits))
            pads = 3
            padded = torch.cat([torch.zeros(1, pads, dtype=torch.long), ids], 1)
            mask = torch.cat([torch.zeros(1, pads, dtype=torch.long), torch.ones_like(ids)], 1)
            positions = (mask.cumsum(-1) - 1).clamp_min(0)
            both = model(padded, attention_mask=mask, position_ids=positions).logits[0, pads:]
            result["padded"] = max(result["padded"], distance(both, logits))
            generated = json.loads(checked([stem, "generate", source, "-p", prompt, "--max-tokens", NEW_TOKENS, "--json"] +
                                           in_force))
            if generated["prompt_ids"] == ids[0].tolist():
                fault = greedy_fault(model, ids, generated["completion_ids"], generated["end_of_text_id"])
                result["faults"] += [f"{prompt!r}: {fault}"] if fault else []
    ids = reference["tokens.0"].long()[None]
    model(ids, labels=ids).loss.backward()
    result["faults"] += [f"{name}: no gradient" for name, p in model.named_parameters()
                         if p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any()]
    return result


def golden_directory(path, folder, with_table):
    """A model directory made of a golden file: weights, table, a tokenizer of single bytes, a manifest."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(path, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        config = json.loads(stored.metadata()["config"])
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file({name: t for name, t in tensors.items() if name.startswith(("model.", "lm_head."))}, folder / "model.safetensors",
              {"format": "pt"})
    if "stem.table" in tensors and with_table:
        save_file({"stem.table": tensors["stem.table"]}, folder / "stem_table.safetensors")
    vocabulary = {chr(65 + i): i for i in range(config["vocab_size"] - 5)}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": []}}))
    digest = {p.name: {"sha256": hashlib.sha256(p.read_bytes()).hexdigest(), "bytes": p.stat().st_size}
              for p in sorted(folder.iterdir())}
    (folder / "stem.json").write_text(json.dumps({
        "format": "stem-model/1", "uuid": str(uuid.UUID(bytes=UUID)), "model_version": 1, "created": "2026-01-01T00:00:00Z",
        "tokenizer_sha256": digest["tokenizer.json"]["sha256"], "files": digest}))
    return config, tensors


def table_as_patch(config, table, source, folder):
    """A patch (docs/formats/patch.md) that gives a model without stored rows the rows of a whole table."""
    import torch
    from safetensors.torch import save_file

    vocab, _, width = table.shape
    address = [(layer, token) for layer in config["stem_layers"] for token in range(vocab)]
    leaf = [hashlib.sha256(b"\0stem-row-v1" + UUID + struct.pack("<IIB", layer, token, 0) + bytes(4 * width)).digest()
            for layer, token in address]
    folder.mkdir()
    save_file({"rows": table.transpose(0, 1).reshape(-1, width).contiguous(),
               "layer": torch.tensor([a[0] for a in address], dtype=torch.int32),
               "token": torch.tensor([a[1] for a in address], dtype=torch.int32),
               "trigger_offsets": torch.zeros(len(address) + 1, dtype=torch.int32),
               "trigger_ids": torch.zeros(0, dtype=torch.int32),
               "base_leaf": torch.tensor([list(digest) for digest in leaf], dtype=torch.uint8)}, folder / "patch.safetensors")
    rows = hashlib.sha256((folder / "patch.safetensors").read_bytes()).digest()
    (folder / "patch.json").write_text(json.dumps({
        "format": "stem-patch/1", "id": hashlib.sha256(b"stem-patch-v1" + UUID + b"\0" + rows).hexdigest(), "mode": "set",
        "base_uuid": str(uuid.UUID(bytes=UUID)), "dtype": "f32", "method": "check", "sequence": 1,
        "tokenizer_sha256": json.loads((source / "stem.json").read_text())["tokenizer_sha256"],
        "created": "2026-01-01T00:00:00Z", "request": {}, "parameters": {}, "scores": {}}))
    return folder


def check_golden(stem, folder, path, as_patch=False):
    import torch

    source, out = folder / "model", folder / "exported"
    config, golden = golden_directory(path, source, not as_patch)
    result = {"model_type": "refused", "logits": 0.0, "gradients": 0.0, "faults": []}
    if config["ffn_variant"] in ("hash_moe", "moe"):
        refused = run([stem, "export", source, out])
        if refused.returncode != 2 or f"found {config['ffn_variant']}" not in refused.stderr or out.exists():
            result["faults"].append(f"expected a refusal that names it, found {refused.stderr!r}")
        return result
    baked = ["--patch", table_as_patch(config, golden["stem.table"], source, folder / "all.stempatch")] if as_patch else []
    checked([stem, "export", source, out] + baked)
    model, result["model_type"] = load(out)
    tokens, targets = golden["tokens"].long(), golden["targets"].long()
    loss = 0
    for first, length in golden["segments"].tolist():
        rows = slice(first, first + length)
        logits = model(tokens[None, rows]).logits[0]
        result["logits"] = max(result["logits"], distance(logits.detach(), golden["logits"][rows]))
        loss = loss + torch.nn.functional.cross_entropy(logits, targets[rows], ignore_index=-1, reduction="sum")
    (loss / (targets >= 0).sum()).backward()
    for name, p in model.named_parameters():
        layer = int(name.split(".")[2]) if name.endswith("mlp.table.weight") else None
        wanted = golden[f"grad.{name}"] if layer is None else \
            golden["grad.stem.table"][:, config["stem_layers"].index(layer)]
        result["gradients"] = max(result["gradients"], distance(p.grad, wanted))
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path, help="model directories")
    parser.add_argument("--stem", required=True, type=Path, help="the program")
    parser.add_argument("--goldens", action="store_true", help="also the models of tests/golden/model")
    parser.add_argument("--patch", action="append", type=Path, default=[], help="put in force and baked in; may be repeated")
    parser.add_argument("--prompt", action="append", help="in place of the three; may be repeated")
    parser.add_argument("--json", action="store_true", help="one object, by model")
    arguments = parser.parse_args()
    stem = arguments.stem.resolve()
    results = {}
    with tempfile.TemporaryDirectory(prefix="stem_export_") as folder:
        os.environ.update(HF_HOME=folder, HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", OMP_WAIT_POLICY="passive",
                          HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
        import torch

        torch.set_num_threads(1)

        def add(name, check, *given):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                result = results[name] = check(stem, Path(place), *given)
            result["faults"] += [f"{key}: expected at most {LIMIT:.0e}, found {value:.1e}" for key, value in result.items()
                                 if isinstance(value, float) and not value <= LIMIT]
            if not arguments.json:
                figures = ", ".join(f"{key} {value:.1e}" for key, value in result.items() if isinstance(value, float))
                print(f"{name}: {result['model_type']}: {figures}", flush=True)
                print("".join(f"  {fault}\n" for fault in result["faults"]), end="", flush=True)

        for model in arguments.models:
            add(str(model), check_model, model.resolve(), arguments.prompt or PROMPTS, arguments.patch)
        for path in sorted((SOURCE / "tests/golden/model").glob("*.safetensors")) if arguments.goldens else []:
            add(path.stem, check_golden, path)
            if path.stem.startswith("stem_additive"):
                add(f"{path.stem}, its rows from a patch", check_golden, path, True)
    if arguments.json:
        print(json.dumps(results, indent=2))
    return 1 if not results or any(r["faults"] for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
