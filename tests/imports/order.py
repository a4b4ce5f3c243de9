# SPDX-License-Identifier: GPL-2.0
"""The order of files that the document gives, and what does not keep to it."""

import re
from collections import defaultdict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .modules import Crates, Edge

DOCUMENT = "Documentation/architecture.md"

# The crates, and the files that they begin with.
ROOTS = {
    "virtio_mem": "rust/virtio_mem_main.rs",
    "virtio_mem_core": "rust/core/lib.rs",
    "virtio_mem_agent": "userspace-agent/src/lib.rs",
    "virtio_mem_agent_main": "userspace-agent/src/main.rs",
}

# Tests may use whatever they test, and what a build leaves in the tree is no source.
OUTSIDE = ("rust/core/tests/", "rust/deps/", "rust/linux/bindings_raw.rs")

# In the place of the names of crates: all are allowed.
ANY = "any crate"

QUOTED = re.compile(r"`([^`]+)`")


@dataclass
class Room:
    """A folder, and which other folders and crates its files may use."""

    uses: set[str]
    any_crate: bool


@dataclass
class Order:
    """What the tables of the document say."""

    # The files from top to bottom, each with its line in the document.
    files: dict[str, int] = field(default_factory=dict)
    rooms: dict[str, Room] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str) -> "Order":
        """Reads the rows of tables whose first cell is a file or a folder."""
        order = cls()
        for number, line in enumerate(text.splitlines(), 1):
            cells = line.strip().strip("|").split("|") if line.startswith("|") else [""]
            first = QUOTED.fullmatch(cells[0].strip())
            if first is None:
                continue
            if first[1].endswith(".rs"):
                order.files.setdefault(first[1], number)
            elif first[1].endswith("/"):
                uses = set(QUOTED.findall(cells[-1]))
                order.rooms[first[1]] = Room(uses, ANY in cells[-1])
        return order

    def room_of(self, file: str) -> str:
        """The innermost room that a file is in, or nothing."""
        return max((room for room in self.rooms if file.startswith(room)), key=len, default="")

    def crates(self) -> set[str]:
        """All crates from elsewhere that some room may use."""
        return {name for room in self.rooms.values() for name in room.uses if "/" not in name}


@dataclass
class Check:
    """Compares a source tree with its document."""

    top: Path

    def __post_init__(self) -> None:
        self.order = Order.of((self.top / DOCUMENT).read_text())
        self.crates = Crates(self.top, ROOTS, self.order.crates())
        self.edges = list(self.crates.edges())

    def problems(self) -> Iterator[str]:
        """All that is wrong, each with the file and the line."""
        yield from self._listing()
        for edge in self.edges:
            yield from self._against_rooms(edge)
            yield from self._against_order(edge)
        yield from self._circles()

    def _listing(self) -> Iterator[str]:
        """Files that the document lacks, has at a wrong place, or has although they are none."""
        for file, line in self.order.files.items():
            if file not in self.crates.sources:
                yield f"{DOCUMENT}:{line}: {file}: no file of a crate"
        rooms = {self.order.room_of(file) for file in self.order.files}
        paths = {path for room in rooms for path in (self.top / room).rglob("*.rs")}
        for path in sorted(paths):
            file = str(path.relative_to(self.top))
            if file.startswith(OUTSIDE):
                continue
            if file not in self.crates.sources:
                yield f"{file}:1: belongs to no crate"
            elif file not in self.order.files:
                yield f"{file}:1: not in {DOCUMENT}"
        listed = list(self.order.files)
        for at, file in enumerate(listed):
            whole = [one for one in listed[:at] if self._is_part(file, one)]
            for between in listed[listed.index(whole[-1]) + 1 : at] if whole else []:
                if not self._is_part(between, whole[-1]):
                    yield (
                        f"{DOCUMENT}:{self.order.files[between]}: {between}: "
                        f"between {whole[-1]} and its part {file}"
                    )

    def _is_part(self, user: str, used: str) -> bool:
        """Whether the one is a part of the other; files that are none of a crate are not."""
        modules = self.crates.modules
        return user in modules and used in modules and self.crates.is_part(user, used)

    def _against_rooms(self, edge: Edge) -> Iterator[str]:
        """A use of what the room of a file may not use."""
        room = self.order.room_of(edge.user)
        if not room:
            return
        rule = self.order.rooms[room]
        used = edge.used
        if used in self.crates.modules:
            used = self.order.room_of(edge.used)
            if used == room:
                return
        elif rule.any_crate:
            return
        if used not in rule.uses:
            yield f"{edge.user}:{edge.line}: uses {edge.path}: {room} may not use {used}"

    def _against_order(self, edge: Edge) -> Iterator[str]:
        """A use of a file that stands above."""
        files = self.order.files
        if edge.user not in files or edge.used not in files:
            return
        if self._is_part(edge.user, edge.used):
            return
        if files[edge.used] < files[edge.user]:
            yield (
                f"{edge.user}:{edge.line}: uses {edge.path}: "
                f"{edge.used} stands above it in {DOCUMENT}"
            )

    def _circles(self) -> Iterator[str]:
        """Circles among files, of each group that uses itself the shortest one."""
        uses: dict[str, dict[str, Edge]] = defaultdict(dict)
        for edge in self.edges:
            if edge.used in self.crates.modules and not self._is_part(edge.user, edge.used):
                uses[edge.user].setdefault(edge.used, edge)
        # From the top, so that the last step of each is the one that goes up.
        places = self.order.files
        users = sorted(uses, key=lambda user: (user not in places, places.get(user, 0), user))
        circles = [circle for user in users if (circle := shortest_way(uses, user, user))]
        reported: set[str] = set()
        for circle in sorted(circles, key=len):
            files = {edge.user for edge in circle}
            if files & reported:
                continue
            reported |= files
            steps = [f"    {edge.user}:{edge.line}: {edge.path}" for edge in circle]
            names = [edge.user for edge in circle] + [circle[0].user]
            yield "\n".join(["a circle: " + " -> ".join(names), *steps])


def shortest_way(uses: dict[str, dict[str, Edge]], start: str, end: str) -> list[Edge]:
    """The fewest uses that lead from a file to another, or back to itself."""
    ways: dict[str, list[Edge]] = {}
    queue: deque[tuple[str, list[Edge]]] = deque([(start, [])])
    while queue:
        file, way = queue.popleft()
        for used, edge in uses.get(file, {}).items():
            if used == end:
                return [*way, edge]
            if used not in ways:
                ways[used] = [*way, edge]
                queue.append((used, ways[used]))
    return []
