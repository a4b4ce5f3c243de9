# SPDX-License-Identifier: GPL-2.0
"""Memory in use inside a guest, whose content is checked."""

import json
from types import TracebackType
from typing import Any, Self

from .commands import Commands, Program
from .errors import TestFailure, expect_equal

# Filling or checking a GiB takes a few seconds without hardware support.
PATIENCE = 90.0


class Load:
    """`vmem-guest load` in a guest; leaving the context checks all and ends it."""

    def __init__(self, guest: Commands, mib: int, *options: str, seed: int = 1) -> None:
        argv = ["vmem-guest", "load", "--mib", str(mib), "--seed", str(seed), *options]
        self.program: Program = guest.start(argv)
        self._event("ready")

    def command(self, command: str) -> dict[str, Any]:
        """Sends a command, waits until it is done, and fails on a changed page."""
        self.program.input(command + "\n")
        return self._event(command.split()[0])

    def check(self) -> int:
        """Checks every page; returns how many."""
        return int(self.command("check")["pages"])

    def quit(self) -> None:
        """Checks every page a last time and frees all."""
        self.command("quit")
        expect_equal(self.program.wait(PATIENCE).rc, 0, "exit status of the load")

    def _event(self, event: str) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.program.line(PATIENCE))
        if "corrupted" in message and "event" not in message:
            raise TestFailure(f"page content has changed: {message}")
        expect_equal(message["event"], event, "answer of the load")
        expect_equal(message["corrupted"], 0, "changed pages")
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
