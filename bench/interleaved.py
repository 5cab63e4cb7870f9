"""Runs programs that print one JSON line in turn, round after round, and takes medians of figures and of paired ratios."""
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INSTALL = "pip install torch numpy"


def shared(path):
    """A file of the shared folder (STEM_SHARED, else ../shared)."""
    return Path(os.environ.get("STEM_SHARED", ROOT.parent / "shared")) / path


def program(build, name):
    path = Path(build) / name
    if not path.exists():
        sys.exit(f"{Path(sys.argv[0]).name}: {path} is missing: cmake --build {build} --target {name}")
    return str(path)


def torch_peer(path):
    try:
        import torch  # noqa: F401
    except ImportError:
        sys.exit(f"{Path(sys.argv[0]).name}: PyTorch is missing: {INSTALL}")
    path = Path(path) if path else shared("peers/torch_stem.py")
    if not path.exists():
        sys.exit(f"{Path(sys.argv[0]).name}: {path} is missing: name the PyTorch trainer with --peer FILE")
    return [sys.executable, str(path)]


def one_line(command):
    """The JSON of the last line that `command` prints."""
    environment = {"OMP_WAIT_POLICY": "passive", **os.environ}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def rounds(commands, count):
    """{name: [figures of each round]}; every round runs every command once, in order."""
    results = {name: [] for name in commands}
    for i in range(count):
        for name, command in commands.items():
            results[name].append(one_line(command))
            print(f"round {i + 1}/{count} {name}: {json.dumps(results[name][-1])}", file=sys.stderr)
    return results


def median(results, name, key):
    return statistics.median(r[key] for r in results[name])


def ratio(results, above, below, key):
    """Median over the rounds of above/below within one round."""
    return round(statistics.median(a[key] / b[key] for a, b in zip(results[above], results[below])), 3)
