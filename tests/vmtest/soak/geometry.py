# SPDX-License-Identifier: GPL-2.0
"""The guests in which it is done: their devices, nodes, and how memory is onlined."""

import random
from dataclasses import dataclass

from ..guest import Guest
from ..qemu import MemDevice
from ..units import GIB, MIB, mib

# The most to ask for in all, so that the guest has memory for what it has to know of
# its memory.
MOST = 2560 * MIB

# Two emulated processors do the work of ten, beside other guests on the same machine.
# A guest that does not come back from sleep has to say how far it has come.
CMDLINE = "rcupdate.rcu_cpu_stall_timeout=60 no_console_suspend"


@dataclass(frozen=True)
class Geometry:
    """What a guest is made of."""

    name: str
    devices: tuple[MemDevice, ...]
    nodes: int = 1
    parameters: str = ""
    # The guest's own policy; ours is to bring memory online as movable.
    policy: str | None = None

    def most(self, device: MemDevice) -> int:
        """The largest size to ask a device for."""
        size = min(device.size, MOST // len(self.devices))
        return size // device.block_size * device.block_size

    @property
    def movable(self) -> bool:
        """Whether nothing that is plugged can be of use to the kernel itself."""
        return self.policy in (None, "online_movable")

    def boot(self) -> Guest:
        return Guest(
            *self.devices,
            nodes=self.nodes,
            policy=self.policy,
            parameters=self.parameters,
            cmdline=CMDLINE,
            failed_migrations=True,
            expendable=True,
            raced_compaction=True,
            sleeps=True,
        )

    def __str__(self) -> str:
        devices = ", ".join(
            f"{device.name} {mib(device.size)} in blocks of {mib(device.block_size)}"
            f" on node {device.node}"
            for device in self.devices
        )
        return f"{self.name}: {devices}; {self.parameters or 'no parameters'}"


def device(number: int, block: int, node: int = 0, size: int = 3 * GIB) -> MemDevice:
    return MemDevice(f"vm{number}", size=size, node=node, block_size=block * MIB)


GEOMETRIES = (
    Geometry("two devices on two nodes", (device(0, 2), device(1, 4, 1)), nodes=2),
    Geometry(
        "big blocks beside small ones", (device(0, 2), device(1, 256), device(2, 8, size=GIB))
    ),
    Geometry(
        "memory left to the guest's policy, movable",
        (device(0, 2), device(1, 64)),
        parameters="online_type=policy",
        policy="online_movable",
    ),
    Geometry("big blocks by force", (device(0, 2), device(1, 128)), parameters="force_bbm=1"),
    Geometry(
        "memory left to the guest's policy, for the kernel too",
        (device(0, 2, size=2 * GIB), device(1, 4, 1, size=2 * GIB)),
        nodes=2,
        parameters="online_type=policy",
        policy="online",
    ),
)


def geometries(dice: random.Random) -> list[Geometry]:
    """All of them, in an order of its own."""
    order = list(GEOMETRIES)
    dice.shuffle(order)
    return order
