# SPDX-License-Identifier: GPL-2.0
"""Where things are."""

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
OUT = TOP / "out"
LOGS = OUT / "logs"
# What the tests make for themselves and use again.
WORK = OUT / "guest"

STOCK = "stock"
# The kernel to test on.
FLAVOUR = os.environ.get("FLAVOUR") or STOCK

MODULE = OUT / FLAVOUR / "virtio_mem.ko"
# The same with what a test needs to have it be wrong.
HOOKS = OUT / FLAVOUR / "virtio_mem_hooks.ko"
TEST_DEVICE = OUT / FLAVOUR / "virtio_mem_test.ko"
# Makes looking for leaks quick; only for kernels that look for them.
UNSCANNED = OUT / FLAVOUR / "vmem_unscanned.ko"
AGENT = OUT / "virtio-mem-agent"


def kernel_dir() -> Path:
    """The directory that scripts/kernel.sh or scripts/debug-kernel.sh prepares."""
    kernels = dict(word.split("=", 1) for word in os.environ.get("KERNELS", "").split())
    if FLAVOUR not in kernels:
        raise RuntimeError(f"no {FLAVOUR} kernel in KERNELS: start this through tests/enter")
    return Path(kernels[FLAVOUR])
