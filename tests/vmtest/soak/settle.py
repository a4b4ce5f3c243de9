# SPDX-License-Identifier: GPL-2.0
"""After the storm: every device gets what is asked for, and all numbers agree."""

import json
import random
import time

from ..errors import TestFailure, expect, expect_equal
from ..memory import MemoryBlock
from ..qemu import MemDevice
from ..units import mib
from .driver import Shown, shown
from .memory import bring_online
from .site import Site, patience

# Seconds without any progress.
PATIENCE = 60.0

# For how long a driver has to say that it cannot go on before it is believed.
QUIET = 5.0

# All that can answer a request.
GARBLED = ("garbled", "error")


def granularity(values: Shown) -> int:
    """How much the driver plugs at least."""
    return int(values.get("sub_block_size") or values["big_block_size"])


def settle(site: Site, dice: random.Random) -> None:
    """Asks for something that can be had, and waits until it is there."""
    sizes = {}
    for device in site.geometry.devices:
        most = site.geometry.most(device)
        sizes[device.name] = dice.choice((0, dice.randrange(0, most + 1, device.block_size), most))
    for name, size in sizes.items():
        site.guest.request(size, name)
    asked = ", ".join(f"{name} {mib(size)}" for name, size in sizes.items())
    site.report.note(f"asked for {asked}")
    begun = time.monotonic()
    converge(site, sizes)
    site.report.settled(time.monotonic() - begun, asked)
    site.report.note(f"settled after {time.monotonic() - begun:.1f} s")


def converge(site: Site, sizes: dict[str, int]) -> None:
    """Waits until each device is settled; fails when nothing changes any more."""
    since = time.monotonic()
    last: object = None
    while True:
        found = shown(site.guest)
        values = {name: found.get(name, {}) for name in sizes}
        offline = [block for block in site.guest.blocks() if block.state != "online"]
        if not offline and all(
            is_settled(site, values[name], sizes[name], time.monotonic() - since) for name in sizes
        ):
            return
        # A block that was just added may yet be brought online by whoever does that.
        if offline and time.monotonic() - since > QUIET:
            bring_online(site.guest, offline)
        progress = [
            (name, v.get("plugged_size"), v.get("added_size"), v.get("plugged_offline_size"))
            for name, v in values.items()
        ]
        if progress != last:
            since, last = time.monotonic(), progress
            for name, v in values.items():
                state = f"{v.get('state')} ({v.get('reason')}, {v.get('last_error')})"
                site.report.note(f"{name}: {state}, plugged {mib(int(v.get('plugged_size', 0)))}")
        elif time.monotonic() - since > patience(PATIENCE):
            states = {
                name: {key: v.get(key) for key in ("state", "reason", "plugged_size", "last_error")}
                for name, v in values.items()
            }
            raise TestFailure(
                f"nothing has changed for {patience(PATIENCE):g} s: asked for {sizes}, {states}, "
                f"offline: {[block.number for block in offline]}"
            )
        time.sleep(0.2)


def is_settled(site: Site, values: Shown, size: int, quiet: float) -> bool:
    """Whether a device has what it can have of what was asked for."""
    if not values or int(values["requested_size"]) != size:
        return False
    if values["state"] == "settled":
        return True
    # What the kernel itself uses cannot be moved.
    return (
        not site.geometry.movable
        and quiet > patience(QUIET)
        and values["state"] == "waiting"
        and values["reason"] == "memory-in-use"
        and int(values["plugged_size"]) > size
    )


def check(site: Site) -> None:
    """That all who know about the memory know the same."""
    guest = site.guest
    found = shown(guest)
    expect_equal(sorted(found), sorted(d.name for d in site.geometry.devices), "devices bound")
    for device in site.geometry.devices:
        check_device(site, device, found[device.name])
    total = sum(int(values["plugged_size"]) for values in found.values())
    # The memory that the kernel has had from the beginning is left alone by all.
    guest.expect_hotplugged(total, patience(20))
    check_agent(site)
    check_blocks(site)
    guest.expect_clean_log()


def check_device(site: Site, device: MemDevice, values: Shown) -> None:
    size = {key: int(value) for key, value in values.items() if key.endswith("_size")}
    name = device.name
    expect_equal(size["plugged_size"], site.guest.plugged(name), f"{name}: plugged_size")
    expect_equal(size["requested_size"], site.guest.requested(name), f"{name}: requested_size")
    if values["state"] == "settled":
        want = size["requested_size"] // granularity(values) * granularity(values)
        expect_equal(size["plugged_size"], want, f"{name}: plugged for the request")
    online = size["plugged_movable_size"] + size["plugged_kernel_size"]
    expect_equal(online, size["plugged_size"], f"{name}: plugged and online")
    if site.geometry.movable:
        expect_equal(size["plugged_kernel_size"], 0, f"{name}: plugged in a kernel zone")
    expect_equal(size["plugged_offline_size"], 0, f"{name}: plugged and offline")
    expect_equal(size["plugged_not_added_size"], 0, f"{name}: plugged and not added")
    for key, value in values.items():
        if key.startswith("requests_") and key.endswith(GARBLED):
            expect_equal(int(value), 0, f"{name}: {key}")


def check_agent(site: Site) -> None:
    """That the agent says what the driver says."""
    different: list[str] = []

    def agrees() -> bool:
        result = site.guest.run("virtio-mem-agent", "status", "--json", timeout=patience(60))
        expect_equal(result.rc, 0, f"exit status of the agent ({result.stderr})")
        said = {entry["device"]: entry for entry in json.loads(result.stdout)["devices"]}
        different[:] = [
            f"{values['device']}: {key} is {values[key]}, the agent says {entry.get(key)}"
            for values in shown(site.guest).values()
            for entry in [said.get(values["device"], {})]
            for key in ("requested_size", "plugged_size", "added_size", "state", "start_address")
            if str(entry.get(key)) != values[key]
        ]
        return not different

    # A memory block of which nothing is plugged any more may go just then.
    site.guest.wait_until(agrees, 20, lambda: "; ".join(different), poll=1)


def check_blocks(site: Site) -> None:
    """That Linux has the memory blocks that the driver says it has added."""
    for device in site.geometry.devices:
        blocks: list[MemoryBlock] = []
        sizes: list[int] = []

        def agrees(name: str = device.name) -> bool:
            blocks[:] = site.guest.blocks(name)
            added = int(shown(site.guest)[name]["added_size"])
            sizes[:] = [sum(block.size for block in blocks), added]
            return sizes[0] == added

        # As there.
        what = f"{device.name}: memory blocks, and added_size: "
        site.guest.wait_until(agrees, 20, lambda: f"{what}{sizes}", poll=1)
        for block in blocks:
            expect_equal(block.state, "online", f"memory{block.number}")
            expect_equal(block.node, device.node, f"node of memory{block.number}")
            if site.geometry.movable:
                expect_equal(block.zones, "Movable", f"zone of memory{block.number}")
        # A block is there for what is plugged in it, and goes with the last of that.
        plugged = site.guest.plugged(device.name)
        expect(sizes[0] >= plugged, f"{device.name}: {mib(sizes[0])} added, {mib(plugged)} plugged")
