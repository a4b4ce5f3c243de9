# SPDX-License-Identifier: GPL-2.0
"""Finding memory that a guest's kernel has lost, where it looks for that."""

import time

from .commands import Commands
from .kernel import Kernel
from .paths import UNSCANNED

KMEMLEAK = "/sys/kernel/debug/kmemleak"

# Younger objects are not reported: who allocated them may not yet have noted where.
MIN_AGE = 5.0

# A look at all memory, without hardware support.
SCAN_LIMIT = 120.0


def look_for_leaks() -> bool:
    """Whether the kernel under test can tell what it has lost."""
    return Kernel.under_test().has("CONFIG_DEBUG_KMEMLEAK")


def leaks(guest: Commands) -> list[str]:
    """What nothing in the kernel points to any more, as the kernel describes it."""
    # A first look only notes what everything holds: what has changed since the look before
    # is not taken for lost, and new objects all have (kmemleak's update_checksum()).
    guest.sh(f"grep -q ^{UNSCANNED.stem} /proc/modules || insmod /modules/{UNSCANNED.name}")
    begun = time.monotonic()
    _scan(guest)
    time.sleep(max(0.0, begun + MIN_AGE + 1 - time.monotonic()))
    # What a processor held in its registers just then is found by another look.
    if not _scan(guest):
        return []
    text = _scan(guest)
    return [f"unreferenced object{entry}" for entry in text.split("unreferenced object")[1:]]


def _scan(guest: Commands) -> str:
    guest.write(KMEMLEAK, "scan", timeout=SCAN_LIMIT)
    return guest.read(KMEMLEAK)
