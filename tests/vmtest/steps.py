# SPDX-License-Identifier: GPL-2.0
"""What was built before the tests, and how long that took: scripts/lib.sh notes it."""

import os

from .paths import LOGS

# Shorter steps are not told of, in seconds.
SHORTEST = 3


def steps() -> list[str]:
    """Lines about the steps of the command that runs the tests."""
    begun = float(os.environ.get("BEGUN", "inf"))
    lines = []
    try:
        noted = (LOGS / "steps").read_text().splitlines()
    except FileNotFoundError:
        return []
    for line in noted:
        ended, seconds, title = line.split(maxsplit=2)
        if float(ended) >= begun and int(seconds) >= SHORTEST:
            lines.append(f"{title:<62}{int(seconds):4d} s")
    return lines
