# SPDX-License-Identifier: GPL-2.0
"""Where things are."""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
OUT = TOP / "out"
LOGS = OUT / "logs"
# What the tests make for themselves and use again.
WORK = OUT / "guest"

MODULE = OUT / "stock" / "virtio_mem.ko"
AGENT = OUT / "virtio-mem-agent"


def stock_kernel_dir() -> Path:
    """The directory that scripts/kernel.sh prepares."""
    value = os.environ.get("STOCK_KERNEL")
    if not value:
        raise RuntimeError("STOCK_KERNEL is not set: start this through tests/enter")
    return Path(value)
