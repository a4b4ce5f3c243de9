# SPDX-License-Identifier: GPL-2.0
"""Allocations and memory notifiers that fail in a guest because they are told to."""

import contextlib
import functools
import re
from collections import Counter
from collections.abc import Iterator

from .errors import TestSkip, expect
from .guest import Guest
from .kernel import Kernel

DEBUGFS = "/sys/kernel/debug"

# The kernel's two allocators, as debugfs calls their faults.
PAGES = "fail_page_alloc"
ALLOCATORS = ("failslab", PAGES)

NOTIFIER = f"{DEBUGFS}/notifier-error-inject/memory/actions"
MODULES = "/modules/notifier-error-inject.ko /modules/memory-notifier-error-inject.ko"

# Priorities of memory notifiers: before all others, and after.
FIRST, LAST = 1000, -1000

# As good as without end, and counted down.
TIMES = 1_000_000_000

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


# With KASAN the kernel does not get over an allocation for its own memory of added
# memory that fails: free_vm_area(), called later, finds that the area is gone already.
SPARED = "kasan_mem_notifier"


@functools.cache
def _spared(guest: Guest) -> tuple[int, int]:
    """Where that function begins and ends."""
    symbols = guest.sh(f"grep -A1 ' {SPARED}$' /proc/kallsyms").splitlines()
    start, end = (int(line.split()[0], 16) for line in symbols)
    return start, end


def _set_up(guest: Guest, percent: int, *allocators: str) -> None:
    """Has so many of the allocations made on the driver's behalf fail."""
    start, end = _code(guest)
    spared, spared_end = _spared(guest)
    settings = {
        "require-start": hex(start),
        "require-end": hex(end),
        "reject-start": hex(spared),
        "reject-end": hex(spared_end),
        "stacktrace-depth": DEPTH,
        "verbose": 0,
        "interval": 1,
        "times": TIMES,
        "ignore-gfp-wait": "N",
        "probability": percent,
    }
    for allocator in allocators:
        more = {"min-order": 0, "ignore-gfp-highmem": "N"} if allocator == PAGES else {}
        script = "".join(f"echo {value} >{name}\n" for name, value in (settings | more).items())
        guest.sh(f"cd {DEBUGFS}/{allocator} || exit\nset -e\n{script}")


@contextlib.contextmanager
def failing(guest: Guest, percent: int, *allocators: str) -> Iterator[Counter[str]]:
    """In the block, so many of the allocations made on the driver's behalf fail. How many did
    is known after it."""
    failed: Counter[str] = Counter()
    _set_up(guest, percent, *allocators)
    try:
        yield failed
    finally:
        for allocator in allocators:
            guest.write(f"{DEBUGFS}/{allocator}/probability", "0")
            failed[allocator] = TIMES - int(guest.read(f"{DEBUGFS}/{allocator}/times"))


def let_single_ones_fail(guest: Guest) -> None:
    """Has fail-nth of a thread count the allocations made on the driver's behalf."""
    _set_up(guest, 0, *ALLOCATORS)


def fail_nth(guest: Guest, pid: str, number: int) -> None:
    """Has the `number`th such allocation of a thread fail from now on; 0: none."""
    guest.write(f"/proc/{pid}/fail-nth", str(number))


def has_failed(guest: Guest, pid: str) -> bool:
    """Whether that allocation has been made."""
    return int(guest.read(f"/proc/{pid}/fail-nth")) == 0
