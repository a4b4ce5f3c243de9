# SPDX-License-Identifier: GPL-2.0
"""The memory of a guest: what it has, and how the host has it changed."""

import time
from typing import Any

from .channel import Call
from .commands import Commands
from .errors import TestFailure, TooLate
from .kernel import SLOWNESS, slowness
from .load import Load
from .memory import LIST_BLOCKS, MemoryBlock, parse_blocks
from .paths import STOCK
from .qemu import Qemu
from .units import KIB, mib


# A line for each device with our driver.
STATES = """
for dir in /sys/bus/virtio/drivers/virtio_mem/virtio*/virtio_mem; do
	cd $dir && echo $(cat state reason requested_size plugged_size)
done 2>/dev/null
true
"""


class Resizing(Commands):
    """A guest's memory, seen from inside and from the host."""

    qemu: Qemu

    # Memory that the guest has without its memory devices, in bytes.
    base_memory: int

    # Seen from inside

    # Memory

    def mem_total(self) -> int:
        """MemTotal in bytes."""
        return self.meminfo("MemTotal")

    def meminfo(self, key: str) -> int:
        for line in self.read("/proc/meminfo").splitlines():
            name, _, rest = line.partition(":")
            if name == key:
                return int(rest.split()[0]) * KIB
        raise TestFailure(f"/proc/meminfo has no {key}")

    def vmstat(self, name: str) -> int:
        """What the guest's kernel has counted since it was started."""
        for line in self.read("/proc/vmstat").splitlines():
            counter, value = line.split()
            if counter == name:
                return int(value)
        raise TestFailure(f"/proc/vmstat has no {name}")

    def hotplugged(self) -> int:
        """How much MemTotal is above what it was before the driver was loaded."""
        return self.mem_total() - self.base_memory

    def expect_hotplugged(self, size: int, timeout: float = 20) -> None:
        """Waits until MemTotal has grown by exactly `size` since the driver came."""
        call = self.await_mem_total(self.base_memory + size, timeout)
        message = call.result(timeout + 30)
        if "error" in message:
            got = self.hotplugged()
            # Whatever the machine does, it had the time: this is a wrong value.
            raise TestFailure(f"MemTotal has grown by {mib(got)}, expected {mib(size)}")

    def await_mem_total(self, size: int, timeout: float) -> Call:
        """Has the guest watch for a MemTotal of `size`; does not wait."""
        fields = {"key": "MemTotal", "min": size // KIB, "max": size // KIB}
        limit = timeout * SLOWNESS
        return self.channel.send("await_meminfo", "waiting for MemTotal", timeout=limit, **fields)

    def blocks(self, device: str | None = None) -> list[MemoryBlock]:
        """The memory blocks in the region of one device, or of all."""
        regions = [
            range(data["memaddr"], data["memaddr"] + data["max-size"])
            for data in self.memory_devices()
            if device in (None, data["id"])
        ]
        return [
            block
            for block in parse_blocks(self.sh(LIST_BLOCKS))
            if any(block.start in region for region in regions)
        ]

    def wait_blocks(self, count: int, device: str | None = None) -> list[MemoryBlock]:
        """Waits until a device has `count` memory blocks, and returns them.

        The device may have the memory before Linux has, and the other way round.
        """
        blocks: list[MemoryBlock] = []

        def there() -> bool:
            blocks[:] = self.blocks(device)
            return len(blocks) == count

        self.wait_until(there, 20, lambda: f"{len(blocks)} memory blocks, expected {count}")
        return blocks

    def load(self, mib_: int, *options: str, seed: int = 1) -> Load:
        """Puts memory to use."""
        return Load(self, mib_, *options, seed=seed)

    # The device, seen from the host

    def memory_devices(self) -> list[dict[str, Any]]:
        return [entry["data"] for entry in self.qemu.qmp("query-memory-devices")]

    def device(self, name: str = "vm0") -> dict[str, Any]:
        for data in self.memory_devices():
            if data["id"] == name:
                return data
        raise TestFailure(f"QEMU has no memory device {name}")

    def plugged(self, name: str = "vm0") -> int:
        """What the guest has taken."""
        return int(self.device(name)["size"])

    def requested(self, name: str = "vm0") -> int:
        """What the guest should have."""
        return int(self.device(name)["requested-size"])

    def request(self, size: int, name: str = "vm0") -> None:
        """Asks the guest to have `size`; does not wait."""
        path = f"/machine/peripheral/{name}"
        self.qemu.qmp("qom-set", path=path, property="requested-size", value=size)

    def wait_plugged(self, size: int, name: str = "vm0", timeout: float = 60) -> float:
        """Waits until the guest has exactly `size`; returns the seconds it took.

        Fails when nothing has changed for `timeout` seconds: how long a change takes
        in all depends on the machine.
        """
        timeout *= SLOWNESS
        start = since = time.monotonic()
        last = self.plugged(name)
        while last != size:
            time.sleep(0.02)
            now, got = time.monotonic(), self.plugged(name)
            if got != last:
                last, since = got, now
            elif now - since > timeout:
                text = f"{name}: plugged {mib(last)}, expected {mib(size)}"
                raise TooLate(f"unchanged for {timeout:g} s: {text}")
        return time.monotonic() - start

    def resize(self, size: int, name: str = "vm0", timeout: float = 60) -> float:
        """Asks for `size` and waits for it; returns the seconds it took."""
        self.request(size, name)
        return self.wait_plugged(size, name, timeout)

    def settle(self, name: str = "vm0", quiet: float = 1.5, timeout: float = 60) -> int:
        """Waits until the plugged size has not changed for a while; returns it."""
        # On the stock kernel as it is: it is not a limit.
        quiet *= SLOWNESS / slowness(STOCK)
        last, since = self.plugged(name), time.monotonic()
        deadline = since + timeout * SLOWNESS
        while time.monotonic() - since < quiet:
            if time.monotonic() > deadline:
                raise TooLate(f"{name}: plugged size does not settle")
            time.sleep(0.05)
            now = self.plugged(name)
            if now != last:
                last, since = now, time.monotonic()
        return last

    def wait_waiting(self, reason: str, timeout: float = 120) -> int:
        """Waits until our driver has tried all it can for what is requested now, and says why
        it goes no further; returns the plugged size. How long that takes depends on the machine."""
        seen: list[str] = []
        plugged: list[int] = []

        def waits() -> bool:
            requested = [str(data["requested-size"]) for data in self.memory_devices()]
            seen[:] = self.sh(STATES).splitlines()
            fields = [line.split() for line in seen]
            plugged[:] = [
                int(f[3]) for f in fields if f[:2] == ["waiting", reason] and f[2] in requested
            ]
            return bool(plugged)

        self.wait_until(waits, timeout, lambda: f"it does not wait for {reason}: {seen}", poll=0.2)
        return plugged[0]
