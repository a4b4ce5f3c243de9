#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""A few minutes of random walks (FUZZ_MINUTES: 3 on the stock kernel, 1 on others), and walks that have failed once.

The walks are the same ones each time: `make fuzz` looks for others.
"""

import os

from vmtest.guest import only_ours
from vmtest.ktap import main, test
from vmtest.paths import FLAVOUR
from vmtest.walk import walk

# The seed of the first walk, if SEED does not tell.
FIRST = 1

MINUTES = float(os.environ.get("FUZZ_MINUTES") or (3 if FLAVOUR == "stock" else 1))

# Seeds of episodes that have failed: Documentation/found-and-fixed.md.
FAILED = (7003, 95)


@test(limit=120 + 180 * len(FAILED))
def walks_that_failed_once() -> None:
    only_ours("it has no state to tell")
    for seed in FAILED:
        walk(seed, 0)


@test(limit=60 * MINUTES + 420)
def random_walk() -> None:
    only_ours("it has no state to tell")
    seed = int(os.environ.get("SEED") or FIRST)
    print(f"from seed {seed} on; SEED={seed} repeats it")
    print(walk(seed, 60 * MINUTES))


if __name__ == "__main__":
    main()
