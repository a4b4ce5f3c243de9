#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Measures this module and the C driver of the same kernel side by side.

Each round of a case boots a fresh guest for each of the two, in turn, or for what takes
milliseconds side by side. The C driver is given the policy online_movable, the only one
with which it gets all memory back; ours the stock policy. What is printed is also in out/bench, as Markdown, JSON and a plot.

ROUNDS says how many rounds (5), CASES is a regular expression for the cases to run, and
QUICK=1 has fewer and smaller ones in one round, which takes some minutes.
"""

import os
import sys
import time

from vmtest.accel import accelerator, describe_accelerator
from vmtest.bench.case import DRIVERS, QUICK, THEIRS, Case, chosen
from vmtest.bench.report import Results
from vmtest.errors import TestFailure
from vmtest.kernel import Kernel
from vmtest.ktap import end_on_sigterm
from vmtest.paths import OUT


def main() -> int:
    end_on_sigterm()
    rounds = int(os.environ.get("ROUNDS") or (1 if QUICK else 5))
    pattern = os.environ.get("CASES") or ""
    cases = chosen(pattern)
    if not cases:
        names = ", ".join(case.name for case in chosen(""))
        print(f"error: CASES={pattern} is none of {names}", file=sys.stderr)
        return 2
    about: dict[str, str | int] = {
        "kernel": Kernel.under_test().release,
        "accelerator": describe_accelerator(),
        "rounds": rounds,
    }
    results = Results()
    failures = 0
    begun = time.monotonic()
    for case in cases:
        for number in range(1, (case.rounds or rounds) + 1):
            if not one_round(case, number, results):
                failures += 1
        # What has been measured is not lost when a later case is not to be had.
        text = save(results, {**about, "minutes": round((time.monotonic() - begun) / 60)})
    print(text)
    return 1 if failures else 0


def one_round(case: Case, number: int, results: Results) -> bool:
    """Measures a case with all its drivers; what only some of them give says nothing."""
    values = {}
    chosen = case.drivers
    if case.their_rounds is not None and number > case.their_rounds:
        chosen = tuple(driver for driver in chosen if driver != THEIRS)
    for drivers in [chosen] if case.together else [(driver,) for driver in chosen]:
        names = " and ".join(DRIVERS[driver] for driver in drivers)
        what = f"{case.name}, round {number}, {names}"
        start = time.monotonic()
        try:
            values |= case.measure(drivers)
        except TestFailure as failure:
            print(f"error: {what}: {failure}", file=sys.stderr, flush=True)
            return False
        print(f"{what}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    for driver, rows in values.items():
        results.add(driver, rows)
    return True


def save(results: Results, about: dict[str, str | int]) -> str:
    """Writes out/bench anew; returns the table."""
    line = "Linux {kernel}, {accelerator}, 2 CPUs, {rounds} rounds"
    text = f"{line.format(**about)}\n\n{results.table()}\n"
    directory = OUT / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.md").write_text(text)
    (directory / "bench.json").write_text(results.json(about))
    # Why it is not a faster one is of no interest to who has not run it.
    name = accelerator().upper()
    results.plot(directory / "bench.svg", line.format(**about | {"accelerator": name}))
    return text


if __name__ == "__main__":
    sys.exit(main())
