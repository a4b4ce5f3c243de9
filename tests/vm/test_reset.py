#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Resetting the device below its driver, which is to go on where it was.

A device's reset changes nothing of what is plugged. It is the way out of a request
that is never answered, and of a virtqueue that Linux has given up, and leaves the
memory in use as it is.
"""

import time

from vmtest.errors import expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.testdevice import DeviceGuest
from vmtest.units import GIB, MIB

# Only a PCI Express function can be reset for itself.
EXPRESS = ("-device", "pcie-root-port,id=port0")
ON_EXPRESS = MemDevice(bus="port0")

MEMORY = "/sys/devices/system/memory"
DRIVER = "/sys/bus/virtio/drivers/virtio_mem"

# Of the PCI device that the virtio device is on.
RESET = f"echo 1 >$(readlink -f {DRIVER}/virtio*)/../reset"

REGION = 640 * MIB


@test(limit=240)
def of_its_pci_function() -> None:
    """By the admin, again and again, while the guest grows and shrinks."""
    only_ours("the C driver is not told, and waits for its answer for ever")
    with Guest(ON_EXPRESS, extra=EXPRESS) as guest:
        guest.resize(386 * MIB)
        with guest.load(768, "--watch") as load:
            for size in (2050, 514, 1282, 514):
                guest.request(size * MIB)
                for _ in range(3):
                    guest.sh(RESET)
                guest.wait_plugged(size * MIB)
                guest.expect_hotplugged(size * MIB)
            expect_equal(load.check(), 768 * MIB // 4096, "pages of the load")
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=240)
def while_a_step_takes_long() -> None:
    """The function is reset in any case, also when the driver is not ready for it."""
    only_ours("the C driver knows no reset")
    with Guest(ON_EXPRESS, memory=GIB, extra=EXPRESS) as guest:
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)
        with guest.load(256, "--pin", "--watch") as load:
            # One of them has pages that cannot be moved: that goes on until it is killed, and
            # whoever adds memory waits for it.
            guest.sh(
                f"(exec sh -c 'for file in {MEMORY}/memory3[0-9]/state; do echo offline >$file; done'"
                " 2>/dev/null) & echo $! >/tmp/pid"
            )
            stuck = "page dumped because: migration failure"
            guest.wait_until(lambda: stuck in guest.dmesg(), 60, "all of them went offline")
            guest.request(GIB + 258 * MIB)
            # It waits for the lock that the block which goes offline has, and shows nothing of that.
            time.sleep(2)
            guest.sh(RESET, timeout=60)
            expect("reset: a step takes long" in guest.dmesg(), "the driver was ready")
            guest.sh("kill -9 $(cat /tmp/pid)")
            guest.wait_plugged(GIB + 258 * MIB)
            load.check()
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=300)
def of_one_that_went_wrong() -> None:
    """Answers that never come, come twice, or belong to nobody."""
    only_ours("the C driver knows no reset")
    with DeviceGuest(f"region_size={REGION}") as guest:
        guest.settle_at(128 * MIB)
        for words in ("never", "hold", "twice", "stray"):
            for kind, size in (("plug", 384), ("unplug", 64)):
                struck = guest.status()["faults"]
                guest.fault(f"kind={kind} {words} times=1")
                guest.request(size * MIB)
                guest.wait_until(lambda: guest.status()["faults"] > struck, 30, "no fault")
                if words == "never":
                    guest.wait_state("stalled", "no-answer")
                guest.control("honest", "reset")
                guest.converge(size * MIB)
        guest.expect_obedient()


@test(limit=240)
def while_the_driver_comes_and_goes() -> None:
    """A reset between unbinding and binding, and both in the middle of others."""
    only_ours("the C driver knows no reset")
    with Guest(ON_EXPRESS, extra=EXPRESS) as guest:
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        guest.sh(
            f"device=$(readlink -f {DRIVER}/{name})/..\n"
            "(for i in 1 2 3 4 5 6 7 8; do echo 1 >$device/reset; done) &\n"
            f"for i in 1 2 3 4 5 6; do echo {name} >{DRIVER}/unbind; echo {name} >{DRIVER}/bind; done\n"
            "wait",
            timeout=120,
        )
        # One that hit the middle of a bind may have left it without a driver, or with one that waits.
        guest.sh(f"cd {DRIVER}; [ ! -e {name} ] || echo {name} >unbind; echo {name} >bind")
        guest.resize(386 * MIB)
        guest.expect_hotplugged(386 * MIB)
        guest.resize(0)
        guest.expect_hotplugged(0)


@test(limit=240)
def while_the_module_goes() -> None:
    """Who waits to tell the driver of a reset must not find that its code is gone."""
    only_ours("the C driver knows no reset")
    with Guest(ON_EXPRESS, extra=EXPRESS) as guest:
        name = guest.sh(f"basename {DRIVER}/virtio*").strip()
        guest.resize(386 * MIB)
        guest.sh(
            f"device=$(readlink -f {DRIVER}/{name})/..\n"
            "(for i in 1 2 3 4 5 6 7 8 9 10; do echo 1 >$device/reset; done) &\n"
            f"for i in 1 2 3 4 5; do rmmod virtio_mem; insmod {guest.module}; done\n"
            "wait",
            timeout=120,
        )
        # As above.
        guest.sh(f"cd {DRIVER}; [ ! -e {name} ] || echo {name} >unbind; echo {name} >bind")
        guest.resize(514 * MIB)
        guest.expect_hotplugged(514 * MIB)


if __name__ == "__main__":
    main()
