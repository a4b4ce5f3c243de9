#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Big blocks: several of Linux' memory blocks that come and go together."""

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, driver_under_test, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB


def big_block_of(guest: Guest) -> int:
    """The size of the big blocks that the driver says it works with."""
    log = guest.dmesg()
    expect("big block size: 0x" in log, "the log has no 'big block size'")
    expect("subblock size: 0x" not in log, "the log has both sizes")
    return int(log.split("big block size: ")[1].split()[0], 16)


def follow(block: int, *sizes: int) -> None:
    """Resizes a device of `block` MiB to `sizes`, in MiB."""
    with Guest(MemDevice(size=4 * GIB, block_size=block * MIB)) as guest:
        expect_equal(big_block_of(guest), block * MIB, "big block size")
        for size in sizes:
            guest.resize(size * MIB)
            guest.expect_hotplugged(size * MIB)
            guest.wait_blocks(size // 128)


@test()
def block_of_256_mib() -> None:
    follow(256, 256, 1792, 512, 0)


@test()
def block_of_512_mib() -> None:
    follow(512, 512, 2048, 1024, 0)


@test()
def block_of_1_gib() -> None:
    follow(1024, 1024, 4096, 2048, 0)


@test()
def in_steps_of_big_blocks() -> None:
    """A request between two multiples gets the smaller one."""
    parameters = f"force_bbm=1 bbm_block_size={512 * MIB}"
    with Guest(MemDevice(size=4 * GIB), parameters=parameters) as guest:
        expect_equal(big_block_of(guest), 512 * MIB, "big block size")
        for size in (2, 510, 514, 1536, 2046, 4096, 2560, 1538, 1024, 514, 510, 0):
            floor = size // 512 * 512 * MIB
            # The C driver gives back what is too much in whole blocks only.
            if guest.driver == "c" and size * MIB < guest.plugged() and floor != size * MIB:
                continue
            guest.request(size * MIB)
            guest.wait_plugged(floor)
            expect_equal(guest.settle(), floor, f"plugged for {size} MiB")
            guest.expect_hotplugged(floor)


@test()
def parameters_are_checked() -> None:
    """A size that makes no sense is told and not used."""
    with Guest(MemDevice(size=2 * GIB), load=False) as guest:
        for size, warning in (
            (384 * MIB, "bbm_block_size is not a power of 2"),
            (64 * MIB, "bbm_block_size is too small"),
            (256 * MIB, ""),
        ):
            guest.sh("dmesg -c >/dev/null")
            guest.insmod(f"force_bbm=1 bbm_block_size={size}")
            log = guest.dmesg()
            block = 128 * MIB if warning else size
            expect(warning in log, f"the log has no '{warning}'")
            expect_equal("bbm_block_size is" in log, bool(warning), "a warning")
            expect_equal(big_block_of(guest), block, f"big blocks for bbm_block_size={size}")
            guest.resize(3 * block)
            guest.expect_hotplugged(3 * block)
            guest.resize(0)
            guest.wait_blocks(0)
            guest.rmmod()


@test(limit=240)
def memory_in_use_stays() -> None:
    c_driver = driver_under_test() == "c"
    device = MemDevice(size=4 * GIB, block_size=512 * MIB)
    # The C driver tries to move what there is no room for.
    with Guest(device, memory=GIB, failed_migrations=c_driver) as guest:
        guest.resize(2 * GIB)
        guest.expect_hotplugged(2 * GIB)
        with guest.load(1792, "--watch") as load:
            guest.request(0)
            if c_driver:
                partly = guest.settle(quiet=5)
            else:
                partly = guest.wait_waiting("memory-in-use")
            expect(0 < partly <= 2 * GIB, f"{partly // MIB} MiB are plugged under a load")
            expect_equal(partly % (512 * MIB), 0, "parts of blocks")
            guest.expect_hotplugged(partly)
            load.check()
        # The C driver looks again after 50 s.
        seconds = guest.wait_plugged(0, timeout=120 if c_driver else 20)
        print(f"{partly // MIB} MiB were in use; {seconds:.1f} s after they were freed")
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)


@test()
def not_as_large_pages() -> None:
    """What the kernel maps as 1 GiB cannot be removed in smaller parts later."""
    only_ours("it adds a GiB at a time")
    with Guest(MemDevice(size=4 * GIB, block_size=GIB, address=8 * GIB)) as guest:
        before = guest.meminfo("DirectMap1G")
        guest.resize(2 * GIB)
        guest.expect_hotplugged(2 * GIB)
        expect_equal(guest.meminfo("DirectMap1G"), before, "DirectMap1G")
        with guest.load(2560, "--sparse"):
            guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=150)
def memory_blocks_offlined_by_hand() -> None:
    """Parts of a big block, offline, online again, and offline while it goes."""
    with Guest(MemDevice(size=4 * GIB, block_size=512 * MIB)) as guest:
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)
        blocks = guest.wait_blocks(8)
        for block in (blocks[0], blocks[7]):
            guest.write(f"{block.sysfs}/state", "offline")
            guest.expect_hotplugged(896 * MIB)
            guest.write(f"{block.sysfs}/state", "online_movable")
            guest.expect_hotplugged(GIB)
        for block in (blocks[2], blocks[5]):
            guest.write(f"{block.sysfs}/state", "offline")
        guest.expect_hotplugged(768 * MIB)
        guest.resize(512 * MIB)
        # The administrator's block stays as it is in what remains.
        guest.expect_hotplugged(384 * MIB)
        guest.resize(0)
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)


if __name__ == "__main__":
    main()
