# SPDX-License-Identifier: GPL-2.0
"""Memory in use inside a guest, whose content is checked."""

from typing import Any

from .commands import Commands
from .dialogue import Dialogue
from .errors import TestFailure, expect_equal


class Load(Dialogue):
    """`vmem-guest load` in a guest; leaving the context checks all and ends it. Any answer
    fails on a changed page."""

    # Filling or checking a GiB takes a few seconds without hardware support.
    PATIENCE = 90.0

    def __init__(self, guest: Commands, mib: int, *options: str, seed: int = 1) -> None:
        argv = ["load", "--mib", str(mib), "--seed", str(seed), *options]
        super().__init__(guest, "vmem-guest", *argv)

    def check(self) -> int:
        """Checks every page; returns how many."""
        return int(self.command("check")["pages"])

    def quit(self) -> None:
        """Checks every page a last time and frees all."""
        self.command("quit")
        self.end()

    def heed(self, message: dict[str, Any]) -> None:
        if "corrupted" in message and "event" not in message:
            raise TestFailure(f"page content has changed: {message}")
        expect_equal(message["corrupted"], 0, "changed pages")
