#!/usr/bin/env python3
"""Adds up JUnit files of ctest: prints each failure with the end of its output, the reasons for skipping, and as the last
line "N passed, N failed, N skipped". The exit code is 1 when a test failed or none ran.

    tools/test_summary.py [--also PASSED FAILED SKIPPED] LABEL=FILE...
"""
import argparse
import collections
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

OUTPUT_LINES = 40
# Lines of GoogleTest that tell nothing about one failed test.
NOISE = ("Running main() from", "Note: Google Test filter", "[----------]", "[==========]", "[ RUN      ]", "[  PASSED  ]")
# What ctest writes for a test that chose to skip. Any other reason for not running (no executable, a fixture that failed)
# is a failure.
CHOSEN = ("SKIP_RETURN_CODE", "SKIP_REGULAR_EXPRESSION", "Disabled")


def outcome(case):
    """Returns passed, failed or skipped, and the reason that ctest gives."""
    failure, skipped = case.find("failure"), case.find("skipped")
    if failure is not None:
        return "failed", failure.get("message", "")
    if case.get("status") == "run":
        return "passed", ""
    reason = skipped.get("message", "") if skipped is not None else case.get("status", "")
    chosen = case.get("status") == "disabled" or reason.startswith(CHOSEN)
    return ("skipped" if chosen else "failed"), reason


def skip_reason(output):
    """GoogleTest prints the message of GTEST_SKIP on the line after 'file:line: Skipped'; other runners 'skipped: why'."""
    lines = output.splitlines()
    for number, line in enumerate(lines):
        if line.endswith(": Skipped") and number + 1 < len(lines):
            return lines[number + 1].strip()
        if line.startswith("skipped: "):
            return line[len("skipped: "):]
    return "no reason given"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--also", nargs=3, type=int, default=[0, 0, 0], metavar=("PASSED", "FAILED", "SKIPPED"),
                        help="checks outside ctest to count in")
    parser.add_argument("files", nargs="*", metavar="LABEL=FILE")
    arguments = parser.parse_args()
    counts = collections.Counter(zip(("passed", "failed", "skipped"), [0, 0, 0]))
    counts.update(dict(zip(("passed", "failed", "skipped"), arguments.also)))
    skips, slow = collections.Counter(), []
    for argument in arguments.files:
        label, _, path = argument.rpartition("=")
        try:
            cases = ElementTree.parse(Path(path)).getroot().findall("testcase")
        except (OSError, ElementTree.ParseError) as error:
            counts["failed"] += 1
            print(f"FAILED  {label}: no result, {error}")
            continue
        for case in cases:
            result, reason = outcome(case)
            counts[result] += 1
            output = case.findtext("system-out") or ""
            slow.append((float(case.get("time") or 0), f"{label}: {case.get('name')}"))
            if result == "failed":
                print(f"FAILED  {label}: {case.get('name')}  ({reason or f'after {slow[-1][0]:.1f} s'})")
                lines = [line for line in output.splitlines() if line and not line.startswith(NOISE)]
                print("".join(f"    {line}\n" for line in lines[-OUTPUT_LINES:]))
            elif result == "skipped":
                skips[skip_reason(output)] += 1
    for reason, number in skips.most_common():
        print(f"skipped {number}: {reason}")
    for seconds, name in sorted(slow, reverse=True)[:3]:
        if seconds >= 10:
            print(f"slowest: {seconds:.0f} s  {name}")
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")
    return 1 if counts["failed"] or not counts["passed"] else 0


if __name__ == "__main__":
    sys.exit(main())
