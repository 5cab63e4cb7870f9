#!/usr/bin/env python3
"""Proves that the runner of tests/cli notices each kind of wrong output."""
import os
import subprocess
import sys
import tempfile
from pathlib import Path

RUNNER = Path(__file__).resolve().parent / "cli_test.py"
# A stand-in for stem: prints a known text on both streams, exits with its first argument.
PROGRAM = '#!/bin/sh\nprintf "one\\ntwo\\n"\necho "bad thing" >&2\nexit "${1-0}"\n'
JSON = "$ echo '{\"a\": [{\"b\": 2.5}], \"s\": \"text\"}'\n"
CASES = [  # case text, expected exit code of the runner
    ("$ stem\n", 0), ("$ stem 3\n", 1), ("$ stem 3\nexit 3\n", 0), ("$ stem\nexit 1\n", 1),
    ("$ stem\nout= one\nout= two\nout# 2\nerr# 1\n", 0), ("$ stem\nout= on\n", 1), ("$ stem\nout# 3\n", 1),
    ("$ stem\nout= two\nout= one\n", 1), ("$ stem\nout~ ^o\nerr~ thing$\n", 0), ("$ stem\nerr~ one\n", 1),
    ("$ stem\nout! three\n", 0), ("$ stem\nout! tw\n", 1), ("$ sleep 5\ntimeout 1\n", 1),
    (JSON + 'json a.0.b > 2\njson s == "text"\njson s ~ ^t\n', 0), (JSON + "json a.0.b > 3\n", 1),
    (JSON + "json a.1.b > 3\n", 1), (JSON + "json s < 3\n", 1), (JSON + 'json s != "text"\n', 1), ("$ stem\njson a == 1\n", 1),
    ("$ stem | cat\n", 0), ("$ stem 1 | cat\n", 1), ("$ touch x\n$ test -e $TMP/x\n", 0), ("$ false\n$ true\n", 1),
    ("requires NOT_SET_ANYWHERE\n$ stem\n", 77), ("requires SOURCE\n$ stem\n", 0),
    ("", 1), ("out= one\n", 1), ("$ stem\nout one\n", 1), ("$ stem\nexit x\n", 1), ("$ stem\nout~ (\n", 1),
]


def main():
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        program, case = Path(folder) / "stem", Path(folder) / "x.case"
        program.write_text(PROGRAM)
        program.chmod(0o755)
        environment = {name: value for name, value in os.environ.items() if name != "NOT_SET_ANYWHERE"}
        for text, expected in CASES:
            case.write_text(text)
            result = subprocess.run([sys.executable, RUNNER, "--stem", program, "--work", folder, case], env=environment,
                                    capture_output=True, text=True, check=False)
            if result.returncode != expected:
                wrong += 1
                print(f"{text!r}: expected exit code {expected}, found {result.returncode}\n{result.stdout}{result.stderr}")
    print(f"{len(CASES) - wrong} of {len(CASES)} cases behave")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
