#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Guests in use: what a shrink leaves of page cache, pools of huge pages, nodes and swap."""

from collections.abc import Iterator
from contextlib import contextmanager

from vmtest.disk import Disk, dirty, load_disks, mount, read_file, use_swap
from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.hugetlb import Pool
from vmtest.ktap import main, test
from vmtest.nodes import LoadOnNode, node_memory
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

PARAMETERS = "/sys/module/virtio_mem/parameters"


@contextmanager
def guest_with_disk(parameters: str = "", **options: object) -> Iterator[Guest]:
    """A guest of 1 GiB with as much plugged, and a disk."""
    with (
        Disk(4 * GIB) as disk,
        Guest(
            MemDevice(size=GIB),
            memory=GIB,
            extra=disk.arguments(),
            parameters=parameters,
            **options,  # type: ignore[arg-type]
        ) as guest,
    ):
        load_disks(guest)
        guest.resize(GIB)
        yield guest


@test(limit=180)
def page_cache_without_room() -> None:
    """Page cache that fills the guest is dropped, not moved about."""
    with guest_with_disk() as guest:
        read_file(guest, f"{mount(guest)}/file", 2 * GIB)
        before = guest.vmstat("pgmigrate_success")
        guest.resize(0)
        moved = (guest.vmstat("pgmigrate_success") - before) * 4096
        expect(moved < 64 * MIB, f"{moved // MIB} MiB were moved")


@test(limit=180)
def page_cache_with_room() -> None:
    """Page cache for which the guest has room after the shrink is kept."""
    only_ours("it drops page cache")
    with guest_with_disk() as guest:
        read_file(guest, f"{mount(guest)}/file", 512 * MIB)
        before = guest.meminfo("Cached")
        guest.resize(0)
        lost = before - guest.meminfo("Cached")
        expect(lost < 32 * MIB, f"{lost // MIB} MiB of page cache were lost")


@test(limit=240)
def dirty_page_cache() -> None:
    """What was written to files and is nowhere else yet."""
    with guest_with_disk() as guest:
        file = f"{mount(guest)}/file"
        dirty(guest, file, 384 * MIB)
        before = guest.sh(f"md5sum {file}", 120)
        guest.resize(0)
        expect_equal(guest.sh(f"md5sum {file}", 120), before, "the file's checksum")
        guest.sh("sync; echo 3 >/proc/sys/vm/drop_caches", 120)
        expect_equal(guest.sh(f"md5sum {file}", 120), before, "the file's checksum on the disk")


@test(limit=240)
def pool_of_huge_pages() -> None:
    """A pool keeps its size: pages that are free, and pages that are used."""
    with Guest(MemDevice(size=GIB), memory=GIB) as guest:
        guest.resize(GIB)
        pool = Pool(guest)
        pool.resize(250)
        with guest.load(200, "--hugetlb"):
            expect_equal(pool.free(), 150, "free pages of the pool")
            guest.resize(128 * MIB)
            expect_equal(pool.total(), 250, "pages of the pool")
            expect_equal(pool.free(), 150, "free pages of the pool")
            expect_equal(pool.surplus(), 0, "pages beyond the pool")
        expect_equal(pool.free(), 250, "free pages of the pool")


@test(limit=240)
def process_in_a_cpuset() -> None:
    """A process that may use one node only stays there while there is room, and so it does where the
    other node is full."""
    devices = (MemDevice(size=GIB), MemDevice("vm1", size=GIB, node=1))
    with Guest(*devices, memory=2 * GIB, nodes=2) as guest:
        for spare in (None, 128 * MIB):
            guest.resize(GIB)
            lines = len(guest.dmesg().splitlines())
            with LoadOnNode(guest, 0, 300, f"own{spare}") as load:
                if spare is None:
                    guest.resize(0)
                else:
                    free = node_memory(guest, 1, "MemFree")
                    with LoadOnNode(guest, 1, (free - spare) // (2 * MIB) * 2, "fill"):
                        guest.resize(0)
                share = load.elsewhere(0)
                expect(share <= 1, f"{share:.1f} % of its pages have left the node")
            said = guest.dmesg().splitlines()[lines:]
            expect(len(said) < 20, f"the log has {len(said)} more lines")


@test(limit=300)
def swap_is_used() -> None:
    """A shrink below what is in use goes on while there is swap, and nothing is killed; where the driver
    is not to reclaim memory, it waits."""
    only_ours("the parameter")
    with guest_with_disk("reclaim=0", failed_migrations=True) as guest:
        use_swap(guest, "/dev/vda")
        with guest.load(1152, "--modest"):
            guest.request(0)
            guest.wait_waiting("memory-in-use")
            in_use = guest.plugged()
            expect(in_use > 256 * MIB, f"{in_use // MIB} MiB are left")
            guest.write(f"{PARAMETERS}/reclaim", "1")
            guest.sh("echo 1 >$(ls /sys/bus/virtio/drivers/virtio_mem/virtio*/virtio_mem/retry)")
            guest.wait_plugged(0)
            expect(guest.meminfo("SwapFree") < guest.meminfo("SwapTotal"), "nothing is swapped")
            expect_equal(guest.vmstat("oom_kill"), 0, "processes that were killed")


@test(limit=180)
def one_way_only() -> None:
    """With `emptying` one of the two ways is taken, whatever is best."""
    only_ours("the parameter")
    with guest_with_disk() as guest:
        file = f"{mount(guest)}/file"
        for word in ("offline", "contig"):
            guest.write(f"{PARAMETERS}/emptying", word)
            guest.resize(GIB)
            read_file(guest, file, 512 * MIB)
            before = guest.vmstat("pgmigrate_success")
            guest.resize(0)
            moved = (guest.vmstat("pgmigrate_success") - before) * 4096
            enough = moved > 256 * MIB if word == "offline" else moved < 64 * MIB
            expect(enough, f"{word}: {moved // MIB} MiB were moved")
            guest.sh("echo 3 >/proc/sys/vm/drop_caches")


if __name__ == "__main__":
    main()
