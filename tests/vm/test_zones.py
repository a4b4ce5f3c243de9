#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Which zone the memory goes to, under each default policy of the guest."""

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, driver_under_test, only_ours
from vmtest.ktap import main, test
from vmtest.units import MIB

POLICY = "/sys/devices/system/memory/auto_online_blocks"

# Two whole memory blocks and one of which a part is plugged.
SIZE = 300 * MIB


def check_blocks(guest: Guest, state: str, zones: str | None) -> None:
    for block in guest.wait_blocks(3):
        expect_equal(block.state, state, f"state of memory{block.number}")
        if zones is not None:
            expect_equal(block.zones, zones, f"zone of memory{block.number}")


def movable_whatever_the_policy(policy: str) -> None:
    only_ours("it leaves the zone to the policy")
    with Guest(policy=policy) as guest:
        expect_equal(guest.read(POLICY).strip(), policy, "policy at boot")
        guest.resize(SIZE)
        guest.expect_hotplugged(SIZE)
        check_blocks(guest, "online", "Movable")
        # The policy is the administrator's, for all other memory.
        expect_equal(guest.read(POLICY).strip(), policy, "policy afterwards")
        guest.resize(0)
        guest.expect_hotplugged(0)
        guest.wait_blocks(0)


@test()
def movable_under_online() -> None:
    movable_whatever_the_policy("online")


@test()
def movable_under_online_kernel() -> None:
    movable_whatever_the_policy("online_kernel")


@test()
def movable_under_online_movable() -> None:
    movable_whatever_the_policy("online_movable")


@test()
def movable_under_offline() -> None:
    movable_whatever_the_policy("offline")


def left_to_the_policy(policy: str, state: str, zones: str | None) -> Guest:
    # The C driver knows no other way.
    ours = driver_under_test() == "rust"
    guest = Guest(policy=policy, parameters="online_type=policy" if ours else "")
    try:
        guest.resize(SIZE)
        guest.expect_hotplugged(SIZE if state == "online" else 0)
        check_blocks(guest, state, zones)
    except BaseException:
        guest.post_mortem()
        guest.close()
        raise
    return guest


@test()
def policy_online_kernel() -> None:
    with left_to_the_policy("online_kernel", "online", "Normal"):
        pass


@test()
def policy_online_movable() -> None:
    with left_to_the_policy("online_movable", "online", "Movable") as guest:
        guest.resize(0)
        guest.expect_hotplugged(0)


@test()
def policy_offline() -> None:
    """Nobody onlines the blocks; then somebody does, as a udev rule would."""
    with left_to_the_policy("offline", "offline", None) as guest:
        for block in guest.blocks():
            guest.write(f"{block.sysfs}/state", "online_movable")
        guest.expect_hotplugged(SIZE)
        check_blocks(guest, "online", "Movable")
        guest.resize(0)
        guest.expect_hotplugged(0)


@test()
def parameter() -> None:
    only_ours("no parameter online_type")
    with Guest(load=False) as guest:
        result = guest.run("insmod", guest.module, "online_type=nonsense")
        expect(result.rc != 0, "online_type=nonsense was accepted")
        for value in ("movable", "policy"):
            guest.insmod(f"online_type={value}")
            shown = guest.read("/sys/module/virtio_mem/parameters/online_type").strip()
            expect_equal(shown, value, "parameter online_type")
            guest.rmmod()


if __name__ == "__main__":
    main()
