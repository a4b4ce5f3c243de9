#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Several devices side by side, each with the node it names."""

import re

from vmtest.errors import expect_equal
from vmtest.guest import Guest
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, KIB, MIB


def node_total(guest: Guest, node: int) -> int:
    text = guest.read(f"/sys/devices/system/node/node{node}/meminfo")
    match = re.search(r"MemTotal:\s+(\d+) kB", text)
    assert match is not None, text
    return int(match[1]) * KIB


@test()
def two_devices_on_two_nodes() -> None:
    devices = [MemDevice(f"vm{node}", size=4 * GIB, node=node) for node in range(2)]
    with Guest(*devices, nodes=2) as guest:
        before = [node_total(guest, node) for node in range(2)]
        for sizes in ((300, 514), (642, 130), (2, 770), (0, 0)):
            # Both at a time, so that one's work runs into the other's.
            for node, size in enumerate(sizes):
                guest.request(size * MIB, f"vm{node}")
            for node, size in enumerate(sizes):
                guest.wait_plugged(size * MIB, f"vm{node}")
            guest.expect_hotplugged(sum(sizes) * MIB)
            for node, size in enumerate(sizes):
                blocks = guest.wait_blocks(-(-size // 128), f"vm{node}")
                expect_equal({block.node for block in blocks} - {node}, set(), "foreign nodes")
                grown = node_total(guest, node) - before[node]
                expect_equal(grown, size * MIB, f"growth of node {node}")


@test()
def two_devices_on_one_node() -> None:
    devices = [MemDevice(f"vm{number}", size=2 * GIB) for number in range(2)]
    with Guest(*devices) as guest:
        guest.request(300 * MIB, "vm0")
        guest.request(514 * MIB, "vm1")
        guest.wait_plugged(300 * MIB, "vm0")
        guest.wait_plugged(514 * MIB, "vm1")
        guest.expect_hotplugged(814 * MIB)
        # One goes, the other stays as it is.
        guest.resize(0, "vm0")
        guest.expect_hotplugged(514 * MIB)
        expect_equal(guest.plugged("vm1"), 514 * MIB, "vm1")
        guest.wait_blocks(0, "vm0")


if __name__ == "__main__":
    main()
