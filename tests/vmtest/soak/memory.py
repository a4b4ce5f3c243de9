# SPDX-License-Identifier: GPL-2.0
"""What is done to the memory of the guest: by its host, its administrator, its kernel."""

import time

from ..guest import Guest
from ..memory import MemoryBlock
from ..qemu import MemDevice
from ..units import mib
from .activity import Activity, attempt
from .site import Site

INJECTION = "/modules/notifier-error-inject.ko /modules/memory-notifier-error-inject.ko"
ACTIONS = "/sys/kernel/debug/notifier-error-inject/memory/actions"

# Asked before the driver is, which then hears of an event's end alone.
FIRST = 1000

ENOMEM, EBUSY = -12, -16


class Resize(Activity):
    """The host asks for some size or other, now and then for several in a row."""

    name = "resize"
    pause = (0.3, 4.0)

    def size(self, device: MemDevice) -> int:
        most = self.site.geometry.most(device)
        size = self.dice.choice(
            (
                0,
                self.dice.randrange(0, most + 1, device.block_size),
                self.dice.randrange(0, most + 1, device.block_size),
                self.dice.randrange(0, most // 4 + 1, device.block_size),
                most,
            )
        )
        return size // device.block_size * device.block_size

    def run(self) -> str:
        device = self.dice.choice(self.site.geometry.devices)
        times = self.dice.choice((1, 1, 1, 2, 5))
        said = []
        for _ in range(times):
            size = self.size(device)
            self.guest.request(size, device.name)
            said.append(mib(size))
            if times > 1:
                time.sleep(self.dice.uniform(0, 0.3))
        return f"{device.name} to {', '.join(said)}"


class Administrator(Activity):
    """Somebody takes memory blocks offline, and brings them online."""

    name = "on/offline"
    pause = (0.3, 2.0)

    def run(self) -> str:
        blocks = self.guest.blocks()
        self.effective = False
        said = []
        # Now, and when it is done.
        self.site.meddled += 1
        for block in self.dice.sample(blocks, min(len(blocks), self.dice.randint(1, 3))):
            state = "offline" if block.state == "online" else "online_movable"
            # It may go while we think about it, be in use, or be refused. What takes
            # long is interrupted, as by Ctrl-C.
            result = attempt(self.guest, f"echo {state} > {block.sysfs}/state", 10)
            self.effective |= result.rc == 0
            said.append(f"memory{block.number} {state} ({result.rc}, {result.seconds:.1f} s)")
        self.site.meddled += 1
        return "; ".join(said) or "no blocks"

    def calm_down(self) -> None:
        bring_online(self.guest, self.guest.blocks())


def bring_online(guest: Guest, blocks: list[MemoryBlock]) -> None:
    for block in blocks:
        if block.state != "online":
            state = f"{block.sysfs}/state"
            attempt(guest, f"echo online_movable > {state} || echo online > {state}")


class Refusal(Activity):
    """Other users of memory notifiers object to what the driver does."""

    name = "notifier errors"
    pause = (4.0, 15.0)

    @classmethod
    def applies(cls, site: Site) -> bool:
        if site.guest.run("ls", *INJECTION.split()).rc != 0:
            return False
        if site.guest.run("ls", ACTIONS).rc != 0:
            one, other = INJECTION.split()
            site.guest.sh(f"insmod {one} && insmod {other} priority={FIRST}")
        return True

    def said(self) -> int:
        return self.guest.console.read_text(errors="replace").count("Injecting error (-")

    def run(self) -> str:
        action = self.dice.choice(("MEM_GOING_ONLINE", "MEM_GOING_OFFLINE"))
        error = self.dice.choice((ENOMEM, EBUSY))
        seconds = self.dice.uniform(0.3, 3)
        before = self.said()
        self.guest.write(f"{ACTIONS}/{action}/error", str(error))
        time.sleep(seconds)
        self.guest.write(f"{ACTIONS}/{action}/error", "0")
        count = self.said() - before
        self.effective = count > 0
        self.site.report.fault("injected errors", count)
        return f"{action} fails with {error} for {seconds:.1f} s, {count} times"


class Processors(Activity):
    """A CPU goes and comes back."""

    name = "CPU hotplug"
    pause = (2.0, 10.0)

    def switch(self, number: int, on: bool) -> int:
        path = f"/sys/devices/system/cpu/cpu{number}/online"
        return self.guest.try_write(path, str(int(on)))

    def run(self) -> str:
        number = self.dice.randrange(1, self.guest.machine.cpus)
        seconds = self.dice.uniform(0.1, 3)
        off = self.switch(number, False)
        time.sleep(seconds)
        on = self.switch(number, True)
        self.effective = off == 0 and on == 0
        return f"cpu{number} off ({off}) for {seconds:.1f} s ({on})"


class Kernel(Activity):
    """The guest's kernel is asked to move its memory about."""

    name = "kernel"
    pause = (1.0, 6.0)

    COMMANDS = (
        "echo 1 > /proc/sys/vm/compact_memory",
        "echo 3 > /proc/sys/vm/drop_caches",
        "echo always > /sys/kernel/mm/transparent_hugepage/enabled",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        "echo 1 > /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
        "echo 10000 > /sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs",
        "echo 1 > /sys/kernel/debug/split_huge_pages",
        "dd if=/dev/zero of=/tmp/soak bs=1M count=48 2>/dev/null && rm /tmp/soak",
    )

    def run(self) -> str:
        command = self.dice.choice(self.COMMANDS)
        result = attempt(self.guest, command)
        self.effective = result.rc == 0
        return f"{command} ({result.rc})"
