#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Soaks guests: everything at once, at random, with every page checked.

MINUTES says for how long (30), SEED repeats the choices of another run.
"""

import os
import random
import sys
import traceback

from vmtest.accel import describe_accelerator
from vmtest.errors import TestFailure
from vmtest.guest import Guest
from vmtest.ktap import end_on_sigterm
from vmtest.paths import LOGS
from vmtest.soak.run import kernel, soak_for


def main() -> int:
    end_on_sigterm()
    minutes = float(os.environ.get("MINUTES") or 30)
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"Soaking {kernel()}, with {describe_accelerator()}")
    print(f"for {minutes:g} minutes, SEED={seed}", flush=True)
    Guest.log_name = "soak"
    for log in LOGS.glob(f"{Guest.log_name}.*"):
        log.unlink()
    try:
        report = soak_for(minutes * 60, seed)
    except Exception as failure:
        print(f"\nFAILED: {failure}")
        if not isinstance(failure, TestFailure):
            traceback.print_tb(failure.__traceback__, file=sys.stdout)
        for note in getattr(failure, "__notes__", []):
            print(note)
        for log in sorted(LOGS.glob(f"{Guest.log_name}.*")):
            print(f"log: {log}")
        return 1
    print(f"\n{report.text()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
