# SPDX-License-Identifier: GPL-2.0
"""A program in a guest that takes commands and answers each with a line of JSON."""

import json
from types import TracebackType
from typing import Any, Self

from .commands import Commands, Program
from .errors import expect_equal


class Dialogue:
    """Such a program; it says "ready" first. Leaving the context ends it."""

    # For an answer, and for its end, in seconds.
    PATIENCE = 60.0

    def __init__(self, guest: Commands, *argv: str) -> None:
        self.program: Program = guest.start(list(argv))
        self._event("ready")

    def command(self, command: str) -> dict[str, Any]:
        """Sends a command, waits until it is done, and returns the answer."""
        self.program.input(command + "\n")
        return self._event(command.split()[0])

    def end(self) -> None:
        """Waits for the end that it was told to come to."""
        expect_equal(self.program.wait(self.PATIENCE).rc, 0, f"exit status of {self.what}")

    @property
    def what(self) -> str:
        """What it is, for messages."""
        return type(self).__name__.lower()

    def quit(self) -> None:
        """Ends it."""
        self.program.input("quit\n")
        self.end()

    def heed(self, message: dict[str, Any]) -> None:
        """Looks at a message before it is taken for an answer."""

    def _event(self, event: str) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.program.line(self.PATIENCE))
        self.heed(message)
        expect_equal(message.get("event"), event, f"answer of {self.what}")
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
