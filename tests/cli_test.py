#!/usr/bin/env python3
"""Runs one case file of tests/cli against the program (the format: tests/cli/README.md), or makes the model they share.

    cli_test.py --stem build/stem --work build/cli tests/cli/usage.case
    cli_test.py --stem build/stem --work build/cli --make-model

Exit code 0: as expected, 1: not, 77: skipped.
"""
import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# The quickstart's own program in a minute or two: fewer steps and scores, yet enough of them that
# tests/atlas_demo_test.py finds the demonstration's answers.
SOURCE = Path(__file__).resolve().parent.parent
MODEL_SETTINGS = {"train.steps": 900, "train.eval_every": 0, "atlas.score_templates": 1}
MODEL_ARGUMENTS = [part for key, value in MODEL_SETTINGS.items() for part in ("--set", f"{key}={value}")]
MODEL_TIMEOUT_S = 800
COMMAND_TIMEOUT_S = 60
SKIP = 77


class CaseError(Exception):
    """A case file that cannot be understood."""


class Step:
    def __init__(self, command, line):
        self.command, self.line = command, line
        self.exit_code, self.timeout_s, self.checks = 0, COMMAND_TIMEOUT_S, []


def parse(path):
    """Returns (required environment variables, [Step])."""
    requires, steps = [], []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = re.match(r"(?P<word>\$|[a-z]+)(?P<mark>[=~!#]?) ?(?P<rest>.*)$", line)
        word, mark, rest = (match["word"], match["mark"], match["rest"]) if match else ("", "", "")
        if word == "$" and not mark:
            steps.append(Step(rest, number))
        elif word == "requires" and not mark and not steps:
            requires.append(rest)
        elif not steps:
            raise CaseError(f"{path.name}:{number}: expected '$ command' before '{line}'")
        elif word == "exit" and not mark:
            steps[-1].exit_code = int(rest)
        elif word == "timeout" and not mark:
            steps[-1].timeout_s = int(rest)
        elif word in ("out", "err") and mark:
            steps[-1].checks.append((number, word, mark, rest))
        elif word == "json" and not mark and re.match(r"\S+ (==|!=|<=|>=|<|>|~) .", rest):
            steps[-1].checks.append((number, word, "", rest))
        else:
            raise CaseError(f"{path.name}:{number}: '{line}' is not a line of a case (see tests/cli/README.md)")
    if not steps:
        raise CaseError(f"{path.name}: no '$ command'")
    return requires, steps


def check_lines(text, checks):
    """Yields (line number in the case, fault) for the checks of one stream. Each = and ~ looks below the line that the one
    before it met."""
    lines, start = text.splitlines(), 0
    for number, mark, wanted in checks:
        if mark == "#":
            if len(lines) != int(wanted):
                yield number, f"expected {wanted} lines, found {len(lines)}"
        elif mark == "!":
            for line in lines:
                if re.search(wanted, line):
                    yield number, f"no line may match {wanted!r}, found {line!r}"
        else:
            meets = (lambda line: line == wanted) if mark == "=" else (lambda line: re.search(wanted, line))
            at = next((i for i in range(start, len(lines)) if meets(lines[i])), None)
            if at is None:
                yield number, f"no line {'equals' if mark == '=' else 'matches'} {wanted!r}" + \
                    (f" below line {start}" if start else "")
            else:
                start = at + 1


def check_json(text, rule):
    """rule: 'path.to.0.field OP value'; value is JSON, or a regular expression after ~. Returns a fault or None."""
    path, operator, wanted = rule.split(" ", 2)
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"stdout is not JSON: {error}"
    for key in path.split("."):
        try:
            value = value[int(key)] if isinstance(value, list) else value[key]
        except (KeyError, IndexError, ValueError, TypeError):
            return f"{path}: no {key!r} in {json.dumps(value)[:200]}"
    if operator == "~":
        good = re.search(wanted, value if isinstance(value, str) else json.dumps(value)) is not None
    else:
        other = json.loads(wanted)
        if operator in ("==", "!="):
            good = (value == other) == (operator == "==")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            return f"{path}: expected a number, found {json.dumps(value)}"
        else:
            good = {"<": value < other, ">": value > other, "<=": value <= other, ">=": value >= other}[operator]
    return None if good else f"{path}: expected {operator} {wanted}, found {json.dumps(value)[:200]}"


def run_step(step, environment, folder):
    """Returns the faults of one command, each with the line of the case that tells of it."""
    try:
        result = subprocess.run(["bash", "-o", "pipefail", "-c", step.command], cwd=folder, env=environment,
                                stdin=subprocess.DEVNULL, capture_output=True, timeout=step.timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return [f"{step.line}: no end after {step.timeout_s} s"]
    out, err = (stream.decode("utf-8", "backslashreplace") for stream in (result.stdout, result.stderr))
    faults = []
    if result.returncode != step.exit_code:
        faults.append(f"{step.line}: expected exit code {step.exit_code}, found {result.returncode}")
    for stream, text in (("out", out), ("err", err)):
        checks = [(number, mark, wanted) for number, word, mark, wanted in step.checks if word == stream]
        faults += [f"{number}: std{stream}: {fault}" for number, fault in check_lines(text, checks)]
    for number, word, _, rule in step.checks:
        fault = check_json(out, rule) if word == "json" else None
        if fault:
            faults.append(f"{number}: {fault}")
    if faults:
        for name, text in (("stdout", out), ("stderr", err)):
            faults.append(f"{name} of: {step.command}\n" + "".join(f"      {line}\n" for line in text.splitlines()[:60]))
    return faults


def run_case(path, environment):
    requires, steps = parse(path)
    for name in requires:
        if not environment.get(name) or not Path(environment[name]).exists():
            print(f"skipped: {name} is not set or names nothing")
            return SKIP
    with tempfile.TemporaryDirectory(prefix="stem_cli_") as folder:
        for step in steps:
            faults = run_step(step, dict(environment, TMP=folder), folder)
            if faults:  # later commands build on earlier ones
                print("".join(f"{path.name}:{fault}\n" for fault in faults))
                return 1
    print(f"{path.name}: {len(steps)} commands as expected")
    return 0


def make_model(stem, model):
    shutil.rmtree(model, ignore_errors=True)
    model.parent.mkdir(parents=True, exist_ok=True)
    with open(model.parent / "atlas.json", "wb") as figures:
        return subprocess.run([stem, "atlas", model, "--json", *MODEL_ARGUMENTS], stdout=figures, cwd=SOURCE,
                              timeout=MODEL_TIMEOUT_S, check=False).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stem", required=True, type=Path, help="the program")
    parser.add_argument("--work", required=True, type=Path, help="folder for the shared model")
    parser.add_argument("--make-model", action="store_true", help="make the shared model and stop")
    parser.add_argument("case", nargs="?", type=Path)
    arguments = parser.parse_args()
    stem, model = arguments.stem.resolve(), arguments.work.resolve() / "model"
    if arguments.make_model:
        return make_model(stem, model)
    if arguments.case is None:
        parser.error("a case file, or --make-model")
    environment = dict(os.environ, PATH=f"{stem.parent}:{os.environ['PATH']}", MODEL=str(model), SOURCE=str(SOURCE),
                       STEM_SHARED=os.environ.get("STEM_SHARED", str(SOURCE.parent / "shared")), LC_ALL="C.UTF-8")
    try:
        return run_case(arguments.case, environment)
    except (CaseError, OSError, ValueError, re.error) as error:
        print(f"error: {error}")
        return 1


if __name__ == "__main__":
    sys.exit(main())
