#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Measures this module and the C driver of the same kernel side by side.

Each round of a case boots a fresh guest for each of the two, in turn. The C driver is
given the policy online_movable, the only one with which it gets all memory back; ours
the stock policy. What is printed is also in out/bench, as Markdown, JSON and a plot.

ROUNDS says how many rounds (5), CASES is a regular expression for the cases to run, and
QUICK=1 has fewer and smaller ones in one round, which takes some minutes.
"""

import os
import sys
import time

from vmtest.accel import describe_accelerator
from vmtest.bench.case import DRIVERS, QUICK
from vmtest.bench.cases import chosen
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
    results = Results()
    begun = time.monotonic()
    try:
        for case in cases:
            for number in range(1, (case.rounds or rounds) + 1):
                for driver in case.drivers:
                    start = time.monotonic()
                    results.add(driver, case.measure(driver))
                    print(
                        f"{case.name}, round {number}, {DRIVERS[driver]}: "
                        f"{time.monotonic() - start:.0f} s",
                        file=sys.stderr,
                        flush=True,
                    )
    except TestFailure as failure:
        print(f"error: {case.name}, {DRIVERS[driver]}: {failure}", file=sys.stderr)
        return 1
    about = {
        "kernel": Kernel.under_test().release,
        "accelerator": describe_accelerator(),
        "rounds": rounds,
        "minutes": round((time.monotonic() - begun) / 60),
    }
    line = "Linux {kernel}, {accelerator}, 2 CPUs, {rounds} rounds".format(**about)
    text = f"{line}\n\n{results.table()}\n"
    directory = OUT / "bench"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "bench.md").write_text(text)
    (directory / "bench.json").write_text(results.json(about))
    results.plot(directory / "bench.svg", line)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
