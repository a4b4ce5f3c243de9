# SPDX-License-Identifier: GPL-2.0
"""/proc/iomem."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Resource:
    """A range of addresses with a name, inside `depth` others."""

    depth: int
    start: int
    end: int
    name: str

    @property
    def size(self) -> int:
        return self.end - self.start + 1


def parse_iomem(text: str) -> list[Resource]:
    """Parses /proc/iomem, in its order: a resource stands before what it holds."""
    resources = []
    for line in text.splitlines():
        match = re.fullmatch(r"( *)([0-9a-f]+)-([0-9a-f]+) : (.*)", line)
        if match:
            depth = len(match[1]) // 2
            resources.append(Resource(depth, int(match[2], 16), int(match[3], 16), match[4]))
    return resources
