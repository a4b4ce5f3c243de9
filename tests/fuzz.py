#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Walks at random through all that a device can do wrong; `make fuzz`."""

import os
import sys
import time

from vmtest.errors import TestFailure
from vmtest.guest import Guest
from vmtest.walk import walk


def main() -> int:
    seed = int(os.environ.get("SEED") or time.time())
    minutes = float(os.environ.get("MINUTES") or 60)
    Guest.log_name = "fuzz"
    print(f"{minutes:g} minutes from seed {seed} on; SEED={seed} repeats it", flush=True)
    try:
        print(walk(seed, minutes * 60))
    except TestFailure as failure:
        print(f"FAIL: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
