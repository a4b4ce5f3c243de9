#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What others see of the driver is what they know from the C driver."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.iomem import parse_iomem
from vmtest.kernel import Kernel, module_bytes
from vmtest.ktap import main, test
from vmtest.paths import MODULE
from vmtest.qemu import MemDevice
from vmtest.units import MIB

DRIVER = "/sys/bus/virtio/drivers/virtio_mem"


def modinfo(module: Path, field: str) -> list[str]:
    command = ["modinfo", "-F", field, str(module)]
    return sorted(subprocess.check_output(command, text=True).splitlines())


@test()
def modinfo_like_the_c_driver() -> None:
    only_ours("nothing to compare it with")
    with tempfile.TemporaryDirectory() as directory:
        theirs = Path(directory) / "virtio_mem.ko"
        theirs.write_bytes(module_bytes(Kernel.under_test().c_driver))
        for field in ("alias", "name", "vermagic"):
            expect_equal(modinfo(MODULE, field), modinfo(theirs, field), field)
        ours = dict(line.split(":", 1) for line in modinfo(MODULE, "parm"))
        for line in modinfo(theirs, "parm"):
            name, text = line.split(":", 1)
            expect(name in ours, f"parameter {name} is missing")
            expect_equal(ours[name].rsplit("(")[-1], text.rsplit("(")[-1], f"type of {name}")
        expect("online_type" in ours, "parameter online_type is missing")
        expect_equal(modinfo(MODULE, "license"), ["GPL"], "license")


@test()
def loads_by_modalias() -> None:
    """As udev loads it: by the alias that the device shows."""
    with Guest(load=False) as guest:
        guest.sh(
            'dir=/lib/modules/$(uname -r)/updates; mkdir -p "$dir" && '
            f'cp {guest.module} "$dir" && depmod'
        )
        loaded = guest.sh(
            "for alias in /sys/bus/virtio/devices/*/modalias; do"
            ' modprobe -q "$(cat "$alias")"; done; cut -d" " -f1 /proc/modules'
        )
        expect("virtio_mem" in loaded.split(), f"loaded: {loaded.split()}")
        guest.resize(130 * MIB)


@test()
def kernel_log() -> None:
    with Guest(MemDevice(requested=130 * MIB)) as guest:
        guest.wait_plugged(130 * MIB)
        device = guest.device()
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        start, size = device["memaddr"], device["max-size"]

        def said(text: str) -> bool:
            return (
                re.search(rf"virtio_mem {name}: {text}$", guest.dmesg(), re.MULTILINE) is not None
            )

        for line in (
            f"start address: {start:#x}",
            f"region size: {size:#x}",
            "device block size: 0x200000",
            "nid: 0",
            "memory block size: 0x8000000",
            "subblock size: 0x200000",
            "plugged size: 0x0",
            f"requested size: {130 * MIB:#x}",
        ):
            expect(said(line), f"dmesg lacks '{line}'")
        guest.resize(258 * MIB)
        wanted = f"requested size: {258 * MIB:#x}"
        expect(said(wanted), f"dmesg lacks '{wanted}' after a resize")
        if guest.driver == "rust":
            shows_its_version(guest)


def shows_its_version(guest: Guest) -> None:
    """The same everywhere: modinfo, the first line in the log, sysfs, metrics and JSON."""
    (version,) = modinfo(MODULE, "version")
    expect(re.fullmatch(r"\d+\.\d+\.\d+(\+g[0-9a-f]{7,40}(-dirty)?)?", version) is not None, version)
    lines = [line for line in guest.dmesg().splitlines() if "virtio_mem" in line]
    ours = next(line for line in lines if "taint" not in line and "signature" not in line)
    expect(ours.endswith(f"virtio_mem: version {version}"), f"the first line is {ours!r}")
    expect_equal(guest.read("/sys/module/virtio_mem/version").strip(), version, "version in sysfs")
    agent = "/bin/virtio-mem-agent"
    status = json.loads(guest.sh(f"{agent} status --json"))
    expect_equal(status["devices"][0]["driver_version"], version, "version in the status")
    expect(f'version="{version}"' in guest.sh(f"{agent} metrics"), "metrics lack the version")


@test()
def iomem() -> None:
    """What kexec-tools and crash tools look for."""
    with Guest() as guest:
        guest.resize(300 * MIB)
        guest.expect_hotplugged(300 * MIB)
        device = guest.device()
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        start, end = device["memaddr"], device["memaddr"] + device["max-size"] - 1
        resources = [
            resource
            for resource in parse_iomem(guest.read("/proc/iomem"))
            if start <= resource.start and resource.end <= end
        ]
        parent, *children = resources
        expect_equal((parent.start, parent.end, parent.name), (start, end, name), "region")
        expect(children != [], "nothing in the region")
        for child in children:
            expect_equal(child.name, "System RAM (virtio_mem)", "name of added memory")
            expect_equal(child.depth, parent.depth + 1, "depth of added memory")
        expect_equal(sum(child.size for child in children), 384 * MIB, "size of added memory")


@test()
def parameters_in_sysfs() -> None:
    with Guest() as guest:
        directory = "/sys/module/virtio_mem/parameters"
        listing = guest.sh(f"cd {directory} && grep . * && stat -c '%n %a' *").splitlines()
        for line in (
            "unplug_online:Y",
            "reclaim:Y",
            "emptying:auto",
            "force_bbm:N",
            "bbm_block_size:0",
            "unplug_online 644",
            "reclaim 644",
            "emptying 644",
            "force_bbm 444",
            "bbm_block_size 444",
        ):
            expect(line in listing, f"{directory} lacks '{line}': {listing}")


@test()
def unplug_online_off() -> None:
    """Then only offline memory may be unplugged."""
    with Guest(parameters="unplug_online=0") as guest:
        guest.resize(300 * MIB)
        guest.expect_hotplugged(300 * MIB)
        guest.request(0)
        expect_equal(guest.settle(quiet=3), 300 * MIB, "plugged, all of it online")
        guest.write("/sys/module/virtio_mem/parameters/unplug_online", "1")
        guest.resize(2 * MIB)
        guest.expect_hotplugged(2 * MIB)


if __name__ == "__main__":
    main()
