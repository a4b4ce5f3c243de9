# SPDX-License-Identifier: GPL-2.0
"""Processor time spent in a guest's kernel threads."""

from collections.abc import Iterator

from .errors import expect_equal
from .guest import Guest

# USER_HZ is part of the ABI of x86.
TICKS_PER_SECOND = 100

KTHREADD = "2"


def kernel_threads(guest: Guest) -> Iterator[tuple[str, list[str]]]:
    """The number of each kernel thread, and what /proc/PID/stat has after its name."""
    # A process may end between the shell's look at the directory and cat's.
    for line in guest.sh("cat /proc/[0-9]*/stat 2>/dev/null; true").splitlines():
        # The name before the last parenthesis may hold anything.
        fields = line.rpartition(")")[2].split()
        if len(fields) > 12 and fields[1] == KTHREADD:
            yield line.split()[0], fields


def driver_thread(guest: Guest) -> str:
    """The number of this module's only thread, in a guest with one device."""
    named = guest.sh("cd /proc && grep -lx virtio_mem [0-9]*/comm 2>/dev/null; true").split()
    expect_equal(len(named), 1, "threads of the driver")
    return named[0].split("/")[0]


def runs(guest: Guest, thread: str) -> int:
    """How many times a thread has run: has had a processor, and given it up."""
    lines = (line.split() for line in guest.read(f"/proc/{thread}/status").splitlines())
    times = [int(words[1]) for words in lines if words and "ctxt_switches" in words[0]]
    expect_equal(len(times), 2, "counts of a thread's runs")
    return sum(times)


def thread_nanoseconds(guest: Guest, thread: str) -> int:
    """For how long a thread has run."""
    return int(guest.read(f"/proc/{thread}/schedstat").split()[0])


def kernel_thread_seconds(guest: Guest) -> float:
    """What all kernel threads together have used since the guest was started.

    All of them, as it is the driver's own affair in which one it works, and as
    the work it causes may be done in others.
    """
    ticks = sum(int(fields[11]) + int(fields[12]) for _, fields in kernel_threads(guest))
    return ticks / TICKS_PER_SECOND
