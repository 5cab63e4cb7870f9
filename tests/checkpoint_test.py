#!/usr/bin/env python3
"""What becomes of a model and its checkpoints when a run is killed, the disk is full, or bytes are damaged.

    checkpoint_test.py --stem build/stem

Trains a tiny model several times (seconds in all). Exit code 0: as expected, 1: not.
"""
import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

STEM = None
SETTINGS = {
    "model.hidden_size": 32, "model.layers": 2, "model.heads": 2, "model.ffn": 64, "model.max_positions": 64,
    "train.sequence": 64, "train.tokens_per_step": 128, "train.steps": 24, "train.checkpoint_every": 2,
    "train.precision": "f32", "train.eval_every": 0,
}
WEIGHTS = ("model.safetensors", "stem_table.safetensors", "token_stats.safetensors")
KILLS = 5


def environment():
    return dict(os.environ, OMP_NUM_THREADS="1", LC_ALL="C.UTF-8")  # one thread: other tests run beside this one


def stem(*arguments, file_limit=None):
    limit = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))) if file_limit else None
    return subprocess.run([STEM, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False,
                          env=environment(), preexec_fn=limit)


def train_arguments(data, model, *more, **changes):
    settings = dict(SETTINGS, **{key.replace("__", "."): value for key, value in changes.items()})
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    return ["train", data, "-o", model, "--quiet", *sets, *more]


class CheckpointTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = Path(tempfile.mkdtemp(prefix="stem_checkpoint_"))
        text = cls.folder / "text.jsonl"
        words = "the a cat dog sat ran on under mat tree and then slept".split()
        rng = random.Random(1)
        text.write_text("".join(json.dumps({"text": " ".join(rng.choices(words, k=12)) + "."}) + "\n" for _ in range(120)))
        cls.data = cls.folder / "data"
        cls.expect(cls, stem("data", "text", text, "-o", cls.data, "--vocab", 290))
        cls.whole = cls.folder / "whole"
        start = time.monotonic()
        cls.expect(cls, stem(*train_arguments(cls.data, cls.whole)))
        cls.seconds = time.monotonic() - start

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.folder, ignore_errors=True)

    def expect(self, result, code=0, message=None):
        """Checks exit code and, for a failure, that stderr is one line that holds `message`."""
        if result.returncode != code:
            raise AssertionError(f"expected exit code {code}, found {result.returncode}: {result.stderr}")
        if code:
            lines = result.stderr.splitlines()
            if len(lines) != 1 or not lines[0].startswith("stem: ") or (message or "") not in lines[0]:
                raise AssertionError(f"expected one line with {message!r}, found {result.stderr!r}")
        return result

    def expect_same_weights(self, model):
        for name in WEIGHTS:
            self.assertEqual((model / name).read_bytes(), (self.whole / name).read_bytes(), name)

    def checkpoints(self, model):
        return Path(f"{model}.run") / "checkpoints"

    def model(self, name):
        """A copy of the trained model, to be damaged."""
        return Path(shutil.copytree(self.whole, self.folder / name))

    def test_killed_runs_resume_to_the_same_bits(self):
        rng, killed = random.Random(time.time_ns()), 0
        model = self.folder / "killed"
        for attempt in range(KILLS):
            resume = ["--resume"] if (self.checkpoints(model) / "latest").exists() else []
            run = subprocess.Popen([STEM, *map(str, train_arguments(self.data, model, *resume))], env=environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                run.wait(rng.uniform(0.02, 0.02 + self.seconds / 2))
            except subprocess.TimeoutExpired:
                run.kill()
                killed += 1
            error = run.communicate()[1]
            self.assertIn(run.returncode, (0, -9), f"attempt {attempt}: {error}")
            if (self.checkpoints(model) / "latest").exists():  # whatever was half written, `latest` is whole
                self.expect(stem("info", self.checkpoints(model) / "latest"))
        self.assertGreater(killed, 0)
        resume = ["--resume"] if (self.checkpoints(model) / "latest").exists() else []
        self.expect(stem(*train_arguments(self.data, model, *resume)))
        self.expect_same_weights(model)
        steps = [json.loads(line)["step"] for line in (Path(f"{model}.run") / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual(steps, list(range(1, SETTINGS["train.steps"] + 1)))
        left = [entry.name for entry in self.checkpoints(model).iterdir() if ".partial-" in entry.name]
        self.assertEqual(left, [], "what killed runs left behind")

    def stopped(self, name):
        """A run that was stopped after step 22 of 24."""
        model = self.folder / name
        self.expect(stem(*train_arguments(self.data, model)))
        shutil.rmtree(model)
        folder = self.checkpoints(model)
        (folder / "latest").unlink()
        (folder / "latest").symlink_to("step-00000022")
        shutil.rmtree(folder / "step-00000024")
        return model

    def test_a_torn_line_of_metrics_is_dropped(self):
        model = self.stopped("torn")
        metrics = Path(f"{model}.run") / "metrics.jsonl"
        metrics.write_bytes(metrics.read_bytes()[:-40])
        self.expect(stem(*train_arguments(self.data, model, "--resume")))
        self.expect_same_weights(model)
        self.assertEqual(len(metrics.read_text().splitlines()), SETTINGS["train.steps"])

    def test_resuming_needs_a_checkpoint_the_same_options_and_tokenizer(self):
        self.expect(stem(*train_arguments(self.data, self.folder / "none", "--resume")), 1,
                    "none.run/checkpoints/latest: expected a checkpoint to resume from, found none")
        model = self.stopped("options")
        self.expect(stem(*train_arguments(self.data, model, "--resume", train__lr=0.5)), 1,
                    "train_state.json: run.train.lr: expected 0.5 (this run's), found 0.003")
        self.expect(stem(*train_arguments(self.data, model, "--resume", model__ffn=96)), 1,
                    "config.json: intermediate_size: expected 96 (these settings), found 64")
        self.expect(stem(*train_arguments(self.data, model, "--resume", model__variant="stem_gate")), 1,
                    "config.json: ffn_variant: expected \"stem_gate\"")
        other = self.folder / "other-data"
        text = self.folder / "other.jsonl"
        text.write_text("".join(json.dumps({"text": f"zebra {i} quagga and okapi zebra"}) + "\n" for i in range(90)))
        self.expect(stem("data", "text", text, "-o", other, "--vocab", 290))
        self.expect(stem(*train_arguments(other, model, "--resume")), 1, "(the checkpoint's)")
        mixed = Path(shutil.copytree(self.data, self.folder / "mixed"))
        shutil.copy(other / "train.tokens", mixed)
        self.expect(stem(*train_arguments(mixed, self.folder / "m")), 1, "train.tokens: tokenizer_sha256: expected")

    def test_the_measured_precision_is_kept(self):
        model = self.stopped("auto")
        self.expect(stem(*train_arguments(self.data, model, "--resume", train__precision="auto")))
        self.expect_same_weights(model)

    def test_a_full_disk_costs_nothing_that_was_saved(self):
        model = self.stopped("full")
        before = sorted(entry.name for entry in self.checkpoints(model).iterdir())
        largest = max(entry.stat().st_size for entry in self.whole.iterdir())
        # The weights fit, the table or the optimizer's state does not.
        self.expect(stem(*train_arguments(self.data, model, "--resume"), file_limit=largest // 2), 1, "File too large")
        self.assertEqual(before, sorted(entry.name for entry in self.checkpoints(model).iterdir()))
        self.assertFalse(model.exists())
        self.expect(stem("info", self.checkpoints(model) / "latest"))
        self.expect(stem(*train_arguments(self.data, model, "--resume")))
        self.expect_same_weights(model)

    def test_a_really_full_disk(self):
        disk = self.folder / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", disk], capture_output=True, check=False)
        if mounted.returncode:
            self.skipTest("a file system of 1 MB needs the right to mount")
        try:
            model = disk / "m"
            result = stem(*train_arguments(self.data, model, train__keep_checkpoints=100))
            self.expect(result, 1, "No space left on device")
            self.expect(stem("info", self.checkpoints(model) / "latest"))
            self.assertEqual([e.name for e in self.checkpoints(model).iterdir() if ".partial-" in e.name], [])
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_every_flipped_byte_is_found(self):
        model, rng = self.model("flipped"), random.Random(7)
        names = sorted(path.name for path in model.iterdir())
        self.assertEqual(set(names), {"config.json", "stem.json", "tokenizer.json", *WEIGHTS})
        for name in names:
            path = model / name
            whole = path.read_bytes()
            for at in {0, len(whole) // 2, len(whole) - 2, *(rng.randrange(len(whole) - 1) for _ in range(3))}:
                damaged = bytearray(whole)
                damaged[at] ^= 1 << rng.randrange(8)
                path.write_bytes(damaged)
                result = stem("generate", model, "-p", "the", "--max-tokens", 1)
                if name == "stem.json" and result.returncode == 0:
                    # Its own bytes are covered by a signature only; what loads must still be the same manifest format.
                    self.assertEqual(json.loads(damaged)["format"], "stem-model/1")
                    continue
                self.expect(result, 1, name if name != "stem.json" else "")
            path.write_bytes(whole)
        self.expect(stem("generate", model, "-p", "the", "--max-tokens", 1))

    def test_truncated_missing_and_extra_files_are_named(self):
        model = self.model("cut")
        for path in sorted(model.iterdir()):
            whole = path.read_bytes()
            for length in (0, len(whole) // 2, len(whole) - 2):
                path.write_bytes(whole[:length])
                self.expect(stem("info", model), 1, path.name)
            path.unlink()
            self.expect(stem("info", model), 1, path.name)
            path.write_bytes(whole)
        (model / "pytorch_model.bin").write_bytes(b"x")
        self.expect(stem("info", model), 1, "pytorch_model.bin")

    def test_a_damaged_checkpoint_is_refused(self):
        model = self.stopped("damaged")
        latest = (self.checkpoints(model) / "latest").resolve()
        for name in ("optimizer.safetensors", "train_state.json", "stem_table.safetensors"):
            whole = (latest / name).read_bytes()
            damaged = bytearray(whole)
            damaged[len(whole) // 2] ^= 4
            (latest / name).write_bytes(damaged)
            self.expect(stem(*train_arguments(self.data, model, "--resume")), 1, name)
            (latest / name).write_bytes(whole[:-10])
            self.expect(stem(*train_arguments(self.data, model, "--resume")), 1, name)
            (latest / name).write_bytes(whole)
        self.expect(stem(*train_arguments(self.data, model, "--resume")))
        self.expect_same_weights(model)

    def test_another_models_files_do_not_fit(self):
        """With a manifest that vouches for the mixture, the shapes themselves must disagree."""
        other = self.folder / "wider"
        self.expect(stem(*train_arguments(self.data, other, model__ffn=96, train__steps=1, train__checkpoint_every=0)))
        for name, message in (("model.safetensors", "(hidden_size, intermediate_size of config.json)"),
                              ("stem_table.safetensors", "stem.table: expected F32 or BF16")):
            model = self.model(f"mixed-{name}")
            shutil.copy(other / name, model / name)
            vouch(model)
            self.expect(stem("info", model), 1, message)
            self.expect(stem("generate", model, "-p", "the"), 1, message)

    def test_tokenizer_and_model_that_do_not_belong_together(self):
        text = self.folder / "long.jsonl"
        rng = random.Random(3)
        text.write_text("".join(json.dumps({"text": "".join(rng.choices("abcdefgh ", k=60))}) + "\n" for _ in range(300)))
        self.expect(stem("data", "text", text, "-o", self.folder / "long", "--vocab", 400))
        model = self.model("foreign")
        shutil.copy(self.folder / "long" / "tokenizer.json", model)
        self.expect(stem("generate", model, "-p", "the"), 1, "tokenizer.json: expected")
        vouch(model)
        self.expect(stem("generate", model, "-p", "the"), 1, "tokenizer and model do not belong together")


def vouch(model):
    """Rewrites the digests of a manifest, as anybody can who may write the directory."""
    path = model / "stem.json"
    manifest = json.loads(path.read_text())
    for name, entry in manifest["files"].items():
        content = (model / name).read_bytes()
        entry["sha256"], entry["bytes"] = hashlib.sha256(content).hexdigest(), len(content)
    manifest["tokenizer_sha256"] = manifest["files"]["tokenizer.json"]["sha256"]
    path.write_text(json.dumps(manifest))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stem", required=True, type=Path, help="the program")
    known, rest = parser.parse_known_args()
    STEM = str(known.stem.resolve())
    unittest.main(argv=[sys.argv[0], *rest])
