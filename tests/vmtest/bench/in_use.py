# SPDX-License-Identifier: GPL-2.0
"""A guest in use: what a shrink takes, and what the guest is left with."""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from ..disk import Disk, dirty, load_disks, mount, read_file, use_swap, write_files
from ..errors import TestFailure
from ..guest import Guest
from ..hugetlb import Pool
from ..nodes import LoadOnNode, node_memory
from ..qemu import MemDevice
from ..units import GIB, MIB
from . import measure
from .case import Row, Values, case
from .cases import guest_for

# All of them have that much plugged of the device, besides twice as much that they boot with.
PLUGGED = 4 * GIB
BOOT_MEMORY = 2 * GIB


@contextmanager
def with_files(driver: str, name: str, *, swap: bool = False, **options: object) -> Iterator[Guest]:
    """A guest with a file system, all of the device plugged."""
    with ExitStack() as stack:
        disk = stack.enter_context(Disk(16 * GIB))
        guest = guest_for(
            driver,
            MemDevice(size=PLUGGED),
            name=name,
            memory=BOOT_MEMORY,
            extra=disk.arguments(),
            failed_migrations=True,
            failed_allocations=True,
            **options,
        )
        stack.enter_context(guest)
        load_disks(guest)
        if not swap:
            mount(guest)
        measure.plug(guest, PLUGGED)
        measure.settle_down()
        yield guest


def cached(guest: Guest) -> float:
    """MiB of page cache."""
    return measure.meminfo(guest)["Cached"] / MIB


CACHE_FULL = Row("page cache fills the guest, 4 GiB to 0", ratio=0.15)


@case(quick=False)
def cache_full(driver: str) -> Values:
    with with_files(driver, "cache-full") as guest:
        read_file(guest, "/tmp/disk/large", 5 * GIB)
        return {CACHE_FULL: measure.resize(guest, 0)}


CACHE_FITS = Row("2.5 GiB of page cache, 4 to 1 GiB", ratio=0.6)
CACHE_LOST = Row("page cache lost by that, which the guest had room for", "MiB", ratio=1.0)


@case(quick=False)
def cache_fits(driver: str) -> Values:
    with with_files(driver, "cache-fits") as guest:
        read_file(guest, "/tmp/disk/large", 2560 * MIB)
        before = cached(guest)
        seconds = measure.resize(guest, GIB)
        return {CACHE_FITS: seconds, CACHE_LOST: max(0.0, before - cached(guest))}


SMALL_FILES = Row("2,400 small files, 3 GiB of a large one, 4 to 0.5 GiB", ratio=0.5)


@case(quick=False)
def small_files(driver: str) -> Values:
    with with_files(driver, "small-files") as guest:
        write_files(guest, "/tmp/disk", 2400, 200 << 10)
        read_file(guest, "/tmp/disk/large", 3 * GIB)
        return {SMALL_FILES: measure.resize(guest, 512 * MIB)}


DIRTY = Row("1 GiB of dirty page cache, 4 GiB to 0", ratio=1.0)


@case(quick=False)
def dirty_cache(driver: str) -> Values:
    with with_files(driver, "dirty") as guest:
        dirty(guest, "/tmp/disk/dirty", GIB)
        sum_ = "md5sum /tmp/disk/dirty"
        before = guest.sh(sum_, 120)
        seconds = measure.resize(guest, 0)
        guest.sh("sync; echo 3 >/proc/sys/vm/drop_caches", 300)
        if guest.sh(sum_, 300) != before:
            raise TestFailure("the file's content has changed")
        return {DIRTY: seconds}


def anonymous(
    driver: str, name: str, row: Row, mib: int, size: int, *options: str
) -> tuple[Values, dict[str, int]]:
    """What a shrink to `size` takes beside a process that uses so many MiB; what /proc/meminfo says
    after it, too."""
    device = MemDevice(size=PLUGGED)
    with guest_for(
        driver, device, name=name, memory=BOOT_MEMORY, failed_migrations=True
    ) as guest:
        measure.plug(guest, PLUGGED)
        measure.settle_down()
        with guest.load(mib, *options):
            seconds = measure.resize(guest, size)
            return {row: seconds}, measure.meminfo(guest)


ANON = Row("2.5 GiB anonymous in use, 4 to 2 GiB", ratio=0.43)
MORE_ANON = Row("3.4 GiB anonymous in use, 4 to 2.5 GiB", ratio=0.6)
HUGE = Row("2.5 GiB of transparent huge pages, 4 to 2 GiB", ratio=0.5)
NOT_HUGE = Row("of these no longer huge", "MiB", ratio=1.0)


@case(quick=False)
def anon(driver: str) -> Values:
    return anonymous(driver, "anon", ANON, 2560, 2 * GIB)[0]


@case(quick=False)
def more_anon(driver: str) -> Values:
    return anonymous(driver, "more-anon", MORE_ANON, 3480, 2560 * MIB)[0]


@case(quick=False)
def huge_pages(driver: str) -> Values:
    values, after = anonymous(driver, "huge", HUGE, 2560, 2 * GIB, "--huge")
    return {**values, NOT_HUGE: 2560 - after["AnonHugePages"] / MIB}


TMPFS = Row("2 GiB in a tmpfs, 4 to 1.5 GiB", ratio=0.45)


@case(quick=False)
def tmpfs(driver: str) -> Values:
    device = MemDevice(size=PLUGGED)
    with guest_for(
        driver, device, name="tmpfs", memory=BOOT_MEMORY, failed_migrations=True
    ) as guest:
        measure.plug(guest, PLUGGED)
        guest.sh("mkdir /tmp/shm && mount -t tmpfs -o size=3G none /tmp/shm")
        guest.sh("dd if=/dev/zero of=/tmp/shm/file bs=1M count=2048 2>/dev/null", 120)
        measure.settle_down()
        return {TMPFS: measure.resize(guest, 1536 * MIB)}


SWAP_WINDOW = 150.0
SWAPPED = Row("3.5 GiB anonymous, swap, 4 GiB to 0: plugged after 150 s", "MiB", over=64)


@case(quick=False)
def swap(driver: str) -> Values:
    with with_files(driver, "swap", swap=True) as guest:
        use_swap(guest, "/dev/vda")
        with guest.load(3584, "--modest"):
            kills = guest.vmstat("oom_kill")
            start = time.monotonic()
            guest.request(0)
            while time.monotonic() - start < SWAP_WINDOW and guest.plugged():
                time.sleep(0.5)
            left = guest.plugged() / MIB
            if guest.vmstat("oom_kill") != kills:
                raise TestFailure("a process was killed for want of memory")
        return {SWAPPED: left}


POOL = Row("500 free pages in a hugetlb pool, 2 GiB to 256 MiB", ratio=0.5)
POOL_LOST = Row("pages that the pool lost by that", "pages", limit=0)


@case(quick=False)
def free_pool(driver: str) -> Values:
    device = MemDevice(size=2 * GIB)
    with guest_for(driver, device, name="pool", memory=BOOT_MEMORY) as guest:
        measure.plug(guest, 2 * GIB)
        pool = Pool(guest)
        # From memory that is plugged: a page of the pool can be migrated.
        pool.resize(500)
        seconds = measure.resize(guest, 256 * MIB)
        return {POOL: seconds, POOL_LOST: 500 - pool.total()}


NODE = Row("a process in a cpuset of node 0, room there, node 0's 1 GiB to 0", ratio=1.0)
MOVED = Row("of its pages on another node after it", "%", limit=1.0)
NODE_FULL = Row("the same with node 1 nearly full", ratio=1.0)
NODE_LINES = Row("lines in the log of that", "lines", ratio=1.0)


def in_cpuset(driver: str, name: str, spare: int | None) -> tuple[float, float, int]:
    """A process of 600 MiB that may use node 0 only, while the device of that node goes, with no more
    than `spare` bytes free on the other one: the seconds, the share of its pages that is elsewhere
    then, in %, and how many lines the kernel has logged."""
    devices = (MemDevice(size=GIB, node=0), MemDevice("vm1", size=GIB, node=1))
    with guest_for(
        driver,
        *devices,
        name=name,
        memory=4 * GIB,
        nodes=2,
        failed_migrations=True,
        failed_allocations=True,
    ) as guest:
        guest.request(GIB)
        guest.wait_plugged(GIB)
        measure.settle_down()
        with ExitStack() as stack:
            if spare is not None:
                free = node_memory(guest, 1, "MemFree")
                mib = (free - spare) // (2 * MIB) * 2
                stack.enter_context(LoadOnNode(guest, 1, mib, "fill"))
            load = stack.enter_context(LoadOnNode(guest, 0, 600, "own"))
            lines = guest.dmesg().count("\n")
            seconds = measure.resize(guest, 0)
            return seconds, load.elsewhere(0), guest.dmesg().count("\n") - lines


@case(quick=False)
def node_with_room(driver: str) -> Values:
    seconds, elsewhere, _ = in_cpuset(driver, "node", None)
    return {NODE: seconds, MOVED: elsewhere}


@case(quick=False)
def other_node_full(driver: str) -> Values:
    seconds, _, lines = in_cpuset(driver, "node-full", 100 * MIB)
    return {NODE_FULL: seconds, NODE_LINES: lines}


HOT = Row("page fault on a hot file, 4 to 1 GiB, p99.9", "us", ratio=1.0)
REFAULTS = Row("pages of files read again because of that", "pages", ratio=1.1)
HOT_MIB = 256
# After which either driver is done.
HOT_WINDOW = 60.0


@case(quick=False)
def hot_files(driver: str) -> Values:
    with with_files(driver, "hot") as guest:
        hot = "/tmp/disk/hot"
        read_file(guest, hot, (HOT_MIB + 2) * MIB)
        faults = measure.Faults(guest, HOT_MIB, hot)
        # What is read once, beside it.
        read_file(guest, "/tmp/disk/large", 5 * GIB)
        faults.report()
        before = guest.vmstat("workingset_refault_file")
        taken = measure.resize(guest, GIB)
        time.sleep(max(0.0, HOT_WINDOW - taken))
        delay = faults.report()["p999_ns"]
        refaults = guest.vmstat("workingset_refault_file") - before
        faults.quit()
        return {HOT: delay / 1000, REFAULTS: refaults}


CRASH_PLUG = Row("plug 64 GiB with a crash kernel loaded, against without", "times", limit=1.2)


@case(quick=False, rounds=1, their_rounds=0)
def crash_kernel(driver: str) -> Values:
    taken = []
    for loaded in (False, True):
        device = MemDevice(size=64 * GIB)
        with guest_for(driver, device, name="crash-plug", memory=4 * GIB, crash=True) as guest:
            if loaded:
                guest.load_crash_kernel()
            measure.touch(guest)
            taken.append(measure.plug(guest, 64 * GIB))
    return {CRASH_PLUG: taken[1] / taken[0]}
