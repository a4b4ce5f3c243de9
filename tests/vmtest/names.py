# SPDX-License-Identifier: GPL-2.0
"""A user of a guest who gives network interfaces the names of memory blocks."""

from .dialogue import Dialogue
from .memory import SYSFS
from .resizing import Resizing

# So many memory blocks of each device, from the first, lend their names.
COUNT = 12


def block_names(guest: Resizing) -> list[str]:
    """The names that the first memory blocks of each device have, or will have."""
    size = int(guest.read(f"{SYSFS}/block_size_bytes"), 16)
    return [
        f"memory{data['memaddr'] // size + number}"
        for data in guest.memory_devices()
        for number in range(min(COUNT, data["max-size"] // size))
    ]


class Names(Dialogue):
    """`vmem-guest names` in a guest; leaving the context ends it."""

    def __init__(self, guest: Resizing, *options: str) -> None:
        """With `--every MS` each name is taken back and given again after so many milliseconds."""
        super().__init__(guest, "vmem-guest", "names", *options, *block_names(guest))

    def renamed(self) -> int:
        """How often an interface has been renamed."""
        return int(self.command("report")["renamed"])
