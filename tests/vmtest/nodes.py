# SPDX-License-Identifier: GPL-2.0
"""Nodes of a guest, and memory that may be on one of them only."""

import re

from .commands import Commands
from .dialogue import Dialogue
from .errors import TestFailure
from .load import Load
from .units import KIB

CGROUPS = "/tmp/cgroup"


def node_memory(guest: Commands, node: int, field: str = "MemTotal") -> int:
    """What the kernel says of a node's memory, in bytes."""
    text = guest.read(f"/sys/devices/system/node/node{node}/meminfo")
    match = re.search(rf"{field}:\s+(\d+) kB", text)
    if match is None:
        raise TestFailure(f"no {field} in {text}")
    return int(match[1]) * KIB


class LoadOnNode(Load):
    """`vmem-guest load` in a cpuset that has one node's memory."""

    def __init__(self, guest: Commands, node: int, mib: int, name: str) -> None:
        self._guest = guest
        self._group = f"{CGROUPS}/{name}"
        guest.sh(
            f"mkdir -p {CGROUPS}; grep -q {CGROUPS} /proc/mounts || mount -t cgroup2 none {CGROUPS};"
            f" echo +cpuset >{CGROUPS}/cgroup.subtree_control;"
            f" mkdir {self._group} && echo {node} >{self._group}/cpuset.mems"
        )
        script = f"echo $$ >{self._group}/cgroup.procs && exec vmem-guest load --mib {mib}"
        Dialogue.__init__(self, guest, "sh", "-c", script)

    def elsewhere(self, node: int) -> float:
        """The share of its pages that is not on `node`, in %."""
        pages = {}
        text = self._guest.sh(f"cat /proc/$(cat {self._group}/cgroup.procs)/numa_maps", 60)
        for number, count in re.findall(r" N(\d+)=(\d+)", text):
            pages[int(number)] = pages.get(int(number), 0) + int(count)
        return 100 - 100 * pages.get(node, 0) / sum(pages.values())
