# SPDX-License-Identifier: GPL-2.0
"""What a guest's sysfs says about its memory."""

import re
from dataclasses import dataclass, replace

SYSFS = "/sys/devices/system/memory"

# One process for all blocks: a process for each attribute takes seconds.
LIST_BLOCKS = (
    f"cat {SYSFS}/block_size_bytes && cd {SYSFS} && "
    "{ ls -d memory*/node* ; grep . memory*/state memory*/valid_zones ; } 2>/dev/null ; true"
)


@dataclass(frozen=True)
class MemoryBlock:
    """A memory block device."""

    number: int
    size: int
    state: str = ""
    zones: str = ""
    node: int | None = None

    @property
    def start(self) -> int:
        return self.number * self.size

    @property
    def sysfs(self) -> str:
        return f"{SYSFS}/memory{self.number}"


def parse_blocks(output: str) -> list[MemoryBlock]:
    """Parses the output of LIST_BLOCKS."""
    first, *lines = output.splitlines()
    size = int(first, 16)
    blocks: dict[int, MemoryBlock] = {}
    for line in lines:
        match = re.fullmatch(r"memory(\d+)/(node(\d+)|state:(.*)|valid_zones:(.*))", line)
        if not match:
            continue
        number = int(match[1])
        block = blocks.setdefault(number, MemoryBlock(number, size))
        if match[3] is not None:
            blocks[number] = replace(block, node=int(match[3]))
        elif match[4] is not None:
            blocks[number] = replace(block, state=match[4])
        else:
            blocks[number] = replace(block, zones=match[5])
    return sorted(blocks.values(), key=lambda block: block.number)
