#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What `virtio-mem-agent doctor` finds in guests in which something is wrong."""

import json

from vmtest.errors import TestSkip, expect, expect_equal
from vmtest.guest import Guest, only_ours
from vmtest.kernel import Kernel
from vmtest.ktap import main, test
from vmtest.qemu import MemDevice
from vmtest.units import GIB, MIB

BUS = "/sys/bus/virtio"
POLICY = "/sys/devices/system/memory/auto_online_blocks"
SIG_ENFORCE = "/sys/module/module/parameters/sig_enforce"
RULES = "/usr/lib/udev/rules.d"

SEVERITIES = ("note", "warning", "error")
EXIT = {"note": 0, "warning": 4, "error": 5}


def doctor(guest: Guest, *options: str) -> dict[str, dict[str, str | None]]:
    """What it finds, by id; the exit status says how bad the worst is."""
    result = guest.run("virtio-mem-agent", "doctor", "--json", *options)
    findings = json.loads(result.stdout)["findings"]
    worst = max((SEVERITIES.index(finding["severity"]) for finding in findings), default=0)
    expect_equal(result.rc, EXIT[SEVERITIES[worst]], f"exit status with {findings}")
    return {finding["id"]: finding for finding in findings}


def check(guest: Guest, *wanted: str, unwanted: tuple[str, ...] = ()) -> None:
    """Some findings are there, others are not."""
    found = doctor(guest)
    for name in wanted:
        expect(name in found, f"{name} is not among {sorted(found)}")
    for name in unwanted:
        expect(name not in found, f"{name}: {found.get(name)}")


def names(guest: Guest) -> list[str]:
    """The devices that have a driver."""
    return guest.sh(f"cd {BUS}/drivers/virtio_mem && echo virtio*").split()


@test()
def healthy() -> None:
    """There is nothing worse than notes, and no policy matters."""
    only_ours("it is a finding of its own")
    with Guest() as guest:
        for policy in ("online", "offline"):
            guest.write(POLICY, policy)
            guest.resize(386 * MIB)
            guest.expect_hotplugged(386 * MIB)
            found = doctor(guest)
            bad = [finding for finding in found.values() if finding["severity"] != "note"]
            expect_equal(bad, [], "findings")
            guest.resize(0)
            guest.wait_blocks(0)
        signed = Kernel.under_test().has("CONFIG_MODULE_SIG")
        unsigned = ("module-unsigned",) if signed else ()
        check(guest, "hibernation-refused", *unsigned, unwanted=("init-on-alloc",))
        # What the kernel says of itself comes before any file.
        if not Kernel.under_test().has("CONFIG_IKCONFIG_PROC"):
            guest.sh(
                "mkdir /boot && echo CONFIG_INIT_ON_ALLOC_DEFAULT_ON=y > /boot/config-$(uname -r)"
            )
            check(guest, "init-on-alloc", unwanted=("not-checked",))
        text = guest.sh("virtio-mem-agent doctor")
        expect(text.startswith("NOTE ("), f"it prints {text}")
        guest.sh("virtio-mem-agent doctor --save /saved")
        expect_equal(sorted(doctor(guest, "--root", "/saved")), sorted(doctor(guest)), "of the record")
        status = [guest.sh(f"virtio-mem-agent -J {root}") for root in ("", "--root /saved")]
        expect_equal(status[1], status[0], "status of the record")
        result = guest.run("virtio-mem-agent", "doctor", "--device", "virtio99")
        expect_equal(result.rc, 3, "exit status for a device that is not there")


@test()
def not_brought_online() -> None:
    with Guest(driver="c", policy="offline") as guest:
        guest.request(256 * MIB)
        guest.wait_blocks(2)
        check(guest, "c-driver", "policy-offline", "memory-offline")
        guest.write(POLICY, "online")
        check(guest, "policy-not-movable", unwanted=("policy-offline",))
        guest.write(POLICY, "online_movable")
        check(guest, unwanted=("policy-offline", "policy-not-movable"))
        guest.write(POLICY, "offline")
        rule = r'SUBSYSTEM==\"memory\", ACTION==\"add\", ATTR{state}=\"online\"'
        guest.sh(f'mkdir -p {RULES} && echo "{rule}" > {RULES}/40-x.rules')
        check(guest, "udev-rule-not-movable", unwanted=("policy-offline", "udev-rule-idle"))
        for block in guest.blocks():
            path = f"/sys/devices/system/memory/memory{block.number}/state"
            guest.write(path, "online_movable")
        check(guest, unwanted=("memory-offline",))


@test()
def left_to_a_policy() -> None:
    """The same with our module, if it is told to."""
    only_ours("it has no online_type")
    with Guest(policy="offline", parameters="online_type=policy") as guest:
        check(guest, "policy-offline", unwanted=("c-driver",))
    with Guest(policy="offline") as guest:
        rule = r'SUBSYSTEM==\"memory\", ATTR{state}=\"online\"'
        guest.sh(f'mkdir -p {RULES} && echo "{rule}" > {RULES}/40-x.rules')
        check(guest, "udev-rule-idle", unwanted=("policy-offline", "udev-rule-not-movable"))


@test()
def little_memory() -> None:
    with Guest(MemDevice(size=64 * GIB), memory=512 * MIB) as guest:
        check(guest, "metadata-short", unwanted=("movable-ratio", "movable-ratio-high"))
        base = guest.mem_total()
        for ratio, name, other in (
            (3.5, "movable-ratio-high", "movable-ratio"),
            (4.5, "movable-ratio", "movable-ratio-high"),
        ):
            size = int(base * ratio) // (128 * MIB) * 128 * MIB
            guest.resize(size)
            guest.expect_hotplugged(size)
            check(guest, name, unwanted=(other,))


@test()
def region_ends() -> None:
    devices = (
        MemDevice(size=GIB + 6 * MIB, address=5 * GIB + 64 * MIB),
        MemDevice("vm1", size=GIB, address=8 * GIB),
    )
    with Guest(*devices) as guest:
        found = doctor(guest)["region-unaligned"]
        message = str(found["message"])
        expect("64 MiB at its beginning and 70 MiB at its end" in message, message)
        other = next(name for name in names(guest) if name != found["device"])
        result = guest.run("virtio-mem-agent", "doctor", "--json", "--device", other)
        expect("region-unaligned" not in result.stdout, f"{other}: {result.stdout}")


@test()
def region_of_no_use() -> None:
    """Our driver refuses such a device, the C driver does not."""
    device = MemDevice(size=128 * MIB, address=5 * GIB + 2 * MIB)
    with Guest(device) as guest:
        check(guest, "no-driver" if guest.driver == "rust" else "region-unusable")


@test()
def balloon() -> None:
    device = ("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on")
    with Guest(extra=device) as guest:
        check(guest, unwanted=("balloon-beside",))
        guest.sh("insmod /modules/virtio_balloon.ko")
        check(guest, "balloon-beside", unwanted=("balloon-inflated",))
        expect("no harm" in str(doctor(guest)["balloon-beside"]["message"]), "reporting is on")
        guest.qemu.qmp("balloon", value=GIB)
        guest.wait_until(lambda: "balloon-inflated" in doctor(guest), 30, "it is not seen")
        guest.qemu.qmp("balloon", value=guest.machine.memory)
        guest.wait_until(lambda: "balloon-beside" in doctor(guest), 30, "it is not empty")


@test()
def no_driver() -> None:
    with Guest(load=False, cmdline="init_on_alloc=1") as guest:
        found = doctor(guest)
        expect("not loaded" in str(found["no-driver"]["message"]), f"{found['no-driver']}")
        expect("init-on-alloc" in found, f"found {sorted(found)}")
        guest.insmod()
        check(guest, unwanted=("no-driver",))
        name = names(guest)[0]
        guest.write(f"{BUS}/drivers/virtio_mem/unbind", name)
        found = doctor(guest)
        expect("not bound" in str(found["no-driver"]["message"]), f"{found['no-driver']}")
        expect_equal(found["no-driver"]["device"], name, "device")
        guest.write(f"{BUS}/drivers/virtio_mem/bind", name)
        check(guest, unwanted=("no-driver",))


@test()
def signatures() -> None:
    only_ours("it is signed")
    if not Kernel.under_test().has("CONFIG_MODULE_SIG"):
        raise TestSkip("this kernel knows no signatures of modules")
    with Guest() as guest:
        check(guest, "module-unsigned", unwanted=("signature-required",))
        guest.write(SIG_ENFORCE, "1")
        check(guest, "signature-required", unwanted=("module-unsigned",))
    with Guest(load=False, cmdline="lockdown=integrity") as guest:
        guest.sh("mount -t securityfs none /sys/kernel/security")
        found = doctor(guest)
        message = str(found["signature-required"]["message"])
        expect("lockdown is integrity" in message, message)


@test()
def no_sleep() -> None:
    """QEMU always offers to keep memory: a device that does not has to be made up."""
    with Guest() as guest:
        check(guest, "hibernation-refused", unwanted=("suspend-refused",))
        features = f"{BUS}/devices/{names(guest)[0]}/features"
        guest.sh(
            f"sed 's/^\\(..\\)1/\\10/' {features} > /tmp/features"
            f" && mount --bind /tmp/features {features}"
        )
        check(guest, "suspend-refused")


@test()
def crash_kernel() -> None:
    with Guest(crash=True) as guest:
        check(guest, "kdump-not-loaded", "kdump-initrd")
        guest.load_crash_kernel()
        guest.sh("mkdir /etc/initramfs-tools && echo virtio_mem > /etc/initramfs-tools/modules")
        check(guest, unwanted=("kdump-not-loaded", "kdump-initrd"))


@test(limit=150)
def driver_waits() -> None:
    """It says why."""
    only_ours("it does not say what it does")
    with Guest(memory=GIB) as guest:
        guest.resize(GIB)
        guest.expect_hotplugged(GIB)
        with guest.load(1280):
            guest.request(0)
            guest.wait_waiting("memory-in-use")
            found = doctor(guest)
            expect("driver-waiting" in found, f"found {sorted(found)}")
            message = str(found["driver-waiting"]["message"])
            expect("cannot be migrated" in message and "0 B requested" in message, message)
        guest.wait_plugged(0)
        check(guest, unwanted=("driver-waiting",))


if __name__ == "__main__":
    main()
