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
import signal
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
KILLS = 50  # in all


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
        for number, changes in enumerate(({}, {"train__table_optimizer": "exact", "train__table_decay": 0.1})):
            with self.subTest(**changes):
                self.kill_and_resume(number, changes, KILLS // 2)

    def kill_and_resume(self, number, changes, kills):
        """Kills a run at random moments, saving included, and resumes it; each time that it gets to its end, its
        model must be that of an uninterrupted run."""
        rng, killed, finished = random.Random(time.time_ns()), 0, 0
        whole, model = self.folder / f"uninterrupted-{number}", self.folder / f"killed-{number}"
        self.expect(stem(*train_arguments(self.data, whole, **changes)))
        while killed < kills or not finished:
            latest = self.checkpoints(model) / "latest"
            arguments = train_arguments(self.data, model, **changes)
            if latest.exists():
                arguments = rng.choice((["resume", model, "--quiet"], [*arguments, "--resume"]))
            run = subprocess.Popen([STEM, *map(str, arguments)], env=environment(), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True)
            try:
                run.wait(rng.uniform(0.02, 0.02 + self.seconds / 2) if killed < kills else None)
            except subprocess.TimeoutExpired:
                run.kill()
                killed += 1
            error = run.communicate()[1]
            self.assertIn(run.returncode, (0, -9), f"after {killed} kills: {error}")
            if killed % 10 == 1 and latest.exists():  # whatever was half written, `latest` is whole
                self.expect(stem("info", latest))
            if run.returncode != 0:
                continue
            finished += 1
            for name in (*WEIGHTS, "config.json", "tokenizer.json"):
                self.assertEqual((model / name).read_bytes(), (whole / name).read_bytes(), name)
            metrics = (Path(f"{model}.run") / "metrics.jsonl").read_text().splitlines()
            self.assertEqual([json.loads(line)["step"] for line in metrics], list(range(1, SETTINGS["train.steps"] + 1)))
            left = [entry.name for entry in self.checkpoints(model).iterdir() if ".partial-" in entry.name]
            self.assertEqual(left, [], "what killed runs left behind")
            shutil.rmtree(model)
            shutil.rmtree(f"{model}.run")

    def test_a_signal_saves_and_says_how_to_go_on(self):
        changes = {"train__steps": 400, "train__checkpoint_every": 0}
        whole = self.folder / "long"
        self.expect(stem(*train_arguments(self.data, whole, **changes)))
        for kind, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            model = self.folder / f"signal-{code}"
            run = subprocess.Popen([STEM, *map(str, train_arguments(self.data, model, **changes))], env=environment(),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            metrics = Path(f"{model}.run") / "metrics.jsonl"
            while run.poll() is None and not (metrics.exists() and metrics.stat().st_size):
                time.sleep(0.001)
            run.send_signal(kind)
            error = run.communicate(timeout=60)[1]
            self.assertEqual(run.returncode, code, error)
            self.assertRegex(error, rf"^stem: stopped by {kind.name} after step \d+ of 400; to go on: stem resume {model}\n$")
            self.assertFalse(model.exists())
            self.expect(stem("resume", f"{model}.run", "--quiet"))  # the run's folder will do as well
            for name in WEIGHTS:
                self.assertEqual((model / name).read_bytes(), (whole / name).read_bytes(), name)
        run = subprocess.Popen([STEM, *map(str, train_arguments(self.data, self.folder / "twice", **changes))],
                               env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        metrics = Path(f"{self.folder / 'twice'}.run") / "metrics.jsonl"
        while run.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.001)
        run.send_signal(signal.SIGTERM)
        run.send_signal(signal.SIGTERM)  # may come before or after the first was acted upon
        run.communicate(timeout=60)
        self.assertIn(run.returncode, (143, -signal.SIGTERM))

    def test_resume_goes_on_with_the_runs_own_settings_and_data(self):
        model = self.stopped("resumed")
        self.expect(stem("resume", model, "--set", "train.lr=0.5"), 1, "run.train.lr: expected 0.5 (this run's), found 0.003")
        self.expect(stem("resume", model, "--set", "train.table_optimizer=exact"), 1, "run.train.table_optimizer: expected")
        self.expect(stem("resume", self.folder / "nothing"), 1, "nothing: expected a training run")
        self.expect(stem("resume", model, "--on-spike", "sometimes"), 2, "train.on_spike: expected continue, stop, skip or rollback")
        # Another text of the same tokenizer is not the run's text.
        text = self.folder / "second.jsonl"
        text.write_text("".join(json.dumps({"text": f"the cat sat on a mat {'then ' * i}"}) + "\n" for i in range(90)))
        other = self.folder / "second-data"
        self.expect(stem("data", "text", text, "-o", other, "--tokenizer", self.data / "tokenizer.json"))
        self.expect(stem("resume", model, "--data", other), 1, "a resumed run keeps its training text")
        moved = Path(shutil.copytree(self.data, self.folder / "moved"))
        self.expect(stem("resume", model, "--data", moved, "--quiet", "--set", "train.eval_every=1", "--on-spike", "skip"))
        self.expect_same_weights(model)

    def test_spikes_are_skipped_rolled_back_and_resumed(self):
        """A text whose second half is another language: its first batches are spikes."""
        rng = random.Random(5)
        text = self.folder / "spiky.jsonl"
        plain = [" ".join(["the cat sat on the mat"] * 8) for _ in range(60)]
        noise = ["".join(rng.choices("qxzjkvw0123456789#@%&", k=160)) for _ in range(3)]
        text.write_text("".join(json.dumps({"text": t}) + "\n" for t in (*plain, *noise)))
        data = self.folder / "spiky-data"
        self.expect(stem("data", "text", text, "-o", data, "--tokenizer", self.data / "tokenizer.json"))
        changes = {"train__steps": 60, "train__checkpoint_every": 4, "train__lr": 0.01, "train__table_lr": 0.01}
        rows = {}
        for choice in ("continue", "skip", "rollback"):
            model = self.folder / f"spike-{choice}"
            result = stem(*train_arguments(data, model, "--on-spike", choice, **changes))
            self.assertEqual(result.returncode, 0, result.stderr)
            rows[choice] = [json.loads(line) for line in (Path(f"{model}.run") / "metrics.jsonl").read_text().splitlines()]
            spikes = [row for row in rows[choice] if "spike" in row]
            self.assertGreater(len(spikes), 0, choice)
            self.assertEqual([row["step"] for row in rows[choice]], list(range(1, 61)))
            for row in spikes:
                self.assertEqual(row["spike"]["action"], choice)
                self.assertGreater(row["loss"], row["spike"]["limit"])
                self.assertIn(f"step {row['step']}: the loss ", result.stderr)
                self.assertEqual(row.get("updated", True), choice == "continue")
        first = next(row["step"] for row in rows["rollback"] if "spike" in row)
        # Resumed from before its rollback, a run rolls back again and ends with the same bits.
        whole = self.folder / "spike-rollback"
        model = self.folder / "spike-again"
        arguments = train_arguments(data, model, "--on-spike", "rollback", train__keep_checkpoints=100, **changes)
        self.assertEqual(stem(*arguments).returncode, 0)
        shutil.rmtree(model)
        before = (first - 1) // 4 * 4
        for path in self.checkpoints(model).glob("step-*"):
            if int(path.name[5:]) > before:
                shutil.rmtree(path)
        (self.checkpoints(model) / "latest").unlink()
        (self.checkpoints(model) / "latest").symlink_to(f"step-{before:08}")
        result = stem("resume", model, "--quiet")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in WEIGHTS:
            self.assertEqual((model / name).read_bytes(), (whole / name).read_bytes(), name)
        # stop saves the state before the step, from where skipping goes on.
        model = self.folder / "spike-stop"
        self.expect(stem(*train_arguments(data, model, "--on-spike", "stop", **changes)), 1, "stem resume")
        result = stem("resume", model, "--quiet", "--on-spike", "skip")
        self.assertEqual(result.returncode, 0, result.stderr)
        for name in WEIGHTS:
            self.assertEqual((model / name).read_bytes(), (self.folder / "spike-skip" / name).read_bytes(), name)

    def test_damaged_and_empty_texts_are_named(self):
        data = Path(shutil.copytree(self.data, self.folder / "damaged-data"))
        model = self.folder / "never"
        whole = (data / "held_out.tokens").read_bytes()
        (data / "held_out.tokens").write_bytes(whole[:-4])
        self.expect(stem(*train_arguments(data, model)), 1, "held_out.tokens")
        header = int.from_bytes(whole[:8], "little")
        described = json.loads(whole[8:8 + header])
        (data / "held_out.tokens").write_bytes(whole[:-4] + whole[-8:-4])  # another id of the vocabulary
        self.expect(stem(*train_arguments(data, model)), 1, "held_out.tokens: content_sha256: expected")
        del described["__metadata__"]["content_sha256"]
        described["documents"] = {"dtype": "I64", "shape": [2], "data_offsets": [0, 16]}
        described["tokens"] = {"dtype": "I32", "shape": [1], "data_offsets": [16, 20]}
        text = json.dumps(described).encode()
        text += b" " * (-len(text) % 8)
        (data / "held_out.tokens").write_bytes(len(text).to_bytes(8, "little") + text + bytes(8) + (1).to_bytes(8, "little") + bytes(4))
        self.expect(stem(*train_arguments(data, model)), 1, "held_out.tokens: expected at least one target token, found none")
        self.assertFalse(Path(f"{model}.run").exists())

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
        text = self.folder / "letters.jsonl"
        rng = random.Random(3)
        text.write_text("".join(json.dumps({"text": "".join(rng.choices("abcdefgh ", k=60))}) + "\n" for _ in range(300)))
        self.expect(stem("data", "text", text, "-o", self.folder / "letters", "--vocab", 400))
        model = self.model("foreign")
        shutil.copy(self.folder / "letters" / "tokenizer.json", model)
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
