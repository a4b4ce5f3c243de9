# SPDX-License-Identifier: GPL-2.0
"""Allocations and memory notifiers that fail in a guest because they are told to."""

import contextlib
import re
from collections.abc import Iterator

from .errors import TestSkip, expect
from .guest import Guest
from .kernel import Kernel

DEBUGFS = "/sys/kernel/debug"

# The kernel's two allocators, as debugfs calls their faults.
ALLOCATORS = ("failslab", "fail_page_alloc")

NOTIFIER = f"{DEBUGFS}/notifier-error-inject/memory/actions"
MODULES = "/modules/notifier-error-inject.ko /modules/memory-notifier-error-inject.ko"

# Priorities of memory notifiers: before all others, and after.
FIRST, LAST = 1000, -1000

FOREVER = -1

# How deep below a function of the driver an allocation may be.
DEPTH = 32


def need_faults() -> None:
    """Skips a test where the kernel cannot make allocations fail."""
    if not Kernel.under_test().has("CONFIG_FAULT_INJECTION_STACKTRACE_FILTER"):
        raise TestSkip("this kernel does not let allocations fail")


def insmod_injection(guest: Guest, priority: int) -> None:
    """Loads what lets memory notifiers fail; those of lower priority are not called."""
    if guest.run("ls", *MODULES.split()).rc != 0:
        raise TestSkip("this kernel cannot inject errors into memory notifiers")
    one, other = MODULES.split()
    guest.sh(f"insmod {one} && insmod {other} priority={priority}")


def injected(guest: Guest, action: str) -> int:
    """How often notifiers have failed so far."""
    return len(re.findall(rf"Injecting error \(-\d+\) to {action}", guest.dmesg()))


@contextlib.contextmanager
def refusing(guest: Guest, action: str, error: int) -> Iterator[None]:
    """In the block, memory notifiers fail; it must have happened at its end."""
    before = injected(guest, action)
    guest.write(f"{NOTIFIER}/{action}/error", str(error))
    yield
    guest.write(f"{NOTIFIER}/{action}/error", "0")
    expect(injected(guest, action) > before, f"nobody was refused {action}")


def _code(guest: Guest) -> tuple[int, int]:
    """Where the driver's functions begin, the first and the last."""
    symbols = guest.sh("grep ' [tT] .*\\[virtio_mem\\]$' /proc/kallsyms")
    addresses = [int(line.split()[0], 16) for line in symbols.splitlines()]
    # Where the last one ends is not told. Nothing of others is on the same page.
    return min(addresses), max(addresses) | 0xFFF


@contextlib.contextmanager
def failing(guest: Guest, percent: int, *allocators: str) -> Iterator[None]:
    """In the block, so many of the allocations made on the driver's behalf fail."""
    start, end = _code(guest)
    for allocator in allocators:
        settings = {
            "require-start": hex(start),
            "require-end": hex(end),
            "stacktrace-depth": DEPTH,
            "verbose": 0,
            "interval": 1,
            "times": FOREVER,
            "ignore-gfp-wait": "N",
            "probability": percent,
        }
        if allocator == "fail_page_alloc":
            settings |= {"min-order": 0, "ignore-gfp-highmem": "N"}
        for name, value in settings.items():
            guest.write(f"{DEBUGFS}/{allocator}/{name}", str(value))
    try:
        yield
    finally:
        for allocator in allocators:
            guest.write(f"{DEBUGFS}/{allocator}/probability", "0")


def fail_nth(guest: Guest, pid: str, number: int) -> None:
    """Has the `number`th allocation of a thread fail from now on; 0: none."""
    guest.write(f"/proc/{pid}/fail-nth", str(number))


def has_failed(guest: Guest, pid: str) -> bool:
    """Whether that allocation has been made."""
    return int(guest.read(f"/proc/{pid}/fail-nth")) == 0
