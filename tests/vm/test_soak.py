#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Everything at once, at random, with every page checked: some minutes of `make soak`.

SOAK_MINUTES says how many (5 on the stock kernel, 2 on others), SEED which choices are made: the same ones each time,
if it does not tell. `make soak` makes others.
"""

import os

from vmtest.ktap import main, test
from vmtest.paths import FLAVOUR
from vmtest.soak.run import soak_for

MINUTES = float(os.environ.get("SOAK_MINUTES") or (5 if FLAVOUR == "stock" else 2))

FIRST = 1

# For the round that has begun when time is up.
MARGIN = 15 * 60


@test(limit=MINUTES * 60 + MARGIN)
def some_minutes() -> None:
    seed = int(os.environ.get("SEED") or FIRST)
    print(f"SEED={seed}")
    report = soak_for(MINUTES * 60, seed)
    print(report.text())


if __name__ == "__main__":
    main()
