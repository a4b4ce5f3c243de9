# SPDX-License-Identifier: GPL-2.0
"""A user of a guest who gives network interfaces the names of memory blocks."""

import json
from types import TracebackType
from typing import Any, Self

from .commands import Program
from .errors import expect_equal
from .memory import SYSFS
from .resizing import Resizing

# So many memory blocks of each device, from the first, lend their names.
COUNT = 12

PATIENCE = 60.0


def block_names(guest: Resizing) -> list[str]:
    """The names that the first memory blocks of each device have, or will have."""
    size = int(guest.read(f"{SYSFS}/block_size_bytes"), 16)
    return [
        f"memory{data['memaddr'] // size + number}"
        for data in guest.memory_devices()
        for number in range(min(COUNT, data["max-size"] // size))
    ]


class Names:
    """`vmem-guest names` in a guest; leaving the context ends it."""

    def __init__(self, guest: Resizing, *options: str) -> None:
        """With `--loop` the names are given and taken back all the time."""
        argv = ["vmem-guest", "names", *options, *block_names(guest)]
        self.program: Program = guest.start(argv)
        self._event("ready")

    def renamed(self) -> int:
        """How often an interface has been renamed."""
        self.program.input("report\n")
        return int(self._event("report")["renamed"])

    def quit(self) -> None:
        self.program.input("quit\n")
        expect_equal(self.program.wait(PATIENCE).rc, 0, "exit status of who gives names")

    def _event(self, event: str) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.program.line(PATIENCE))
        expect_equal(message["event"], event, "answer of who gives names")
        return message

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            self.quit()
