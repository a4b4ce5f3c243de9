# SPDX-License-Identifier: GPL-2.0
"""Something that goes on in a guest while other things do."""

import random
import threading

from ..commands import Program, Result
from ..errors import TestFailure
from ..guest import Guest
from .site import Site, patience


class Activity:
    """A thread of its own that does one kind of thing again and again.

    Each has its own dice: however the threads run, it makes the same choices in the
    same order.
    """

    name = "nothing"
    # The shortest and longest time between two operations, in seconds.
    pause = (0.5, 2.0)
    # Whether nothing else may be asked of the guest meanwhile.
    alone = False

    def __init__(self, site: Site, seed: str) -> None:
        self.site = site
        self.guest: Guest = site.guest
        self.dice = random.Random(f"{seed} {self.name}")
        self.failure: BaseException | None = None
        # Whether something has come of the last operation: `run` says if not.
        self.effective = True
        self._thread = threading.Thread(target=self._loop, name=self.name, daemon=True)

    @classmethod
    def applies(cls, site: Site) -> bool:
        """Whether it makes sense in this guest."""
        return True

    def run(self) -> str:
        """Does one thing; returns a description of it."""
        raise NotImplementedError

    def calm_down(self) -> None:
        """Takes back whatever would keep the guest from settling."""

    def start(self) -> None:
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Waits for the thread, which was told to stop; raises what it has run into."""
        self._thread.join(seconds)
        if self.failure is not None:
            raise self.failure
        if self._thread.is_alive():
            raise TestFailure(f"{self.name}: hangs for {seconds:g} s")

    def _loop(self) -> None:
        # The first of the longest pauses must not be what takes the time of a short soak.
        early = self.dice.random()
        try:
            while True:
                self.site.pause(early * self.dice.uniform(*self.pause))
                early = 1.0
                if self.site.calm.is_set():
                    return
                gate = self.site.gate
                with gate.alone() if self.alone else gate.shared():
                    if self.site.calm.is_set():
                        return
                    self.effective = True
                    what = self.run()
                self.site.report.operation(self.name, what, self.effective)
        except BaseException as failure:
            failure.add_note(f"in the activity {self.name}")
            self.failure = failure
            self.site.calm.set()


def attempt(guest: Guest, script: str, seconds: float = 60) -> Result:
    """Runs a shell command that may fail, and is killed when it takes too long."""
    call = guest.channel.send(
        "run", script, argv=["sh", "-c", script], timeout=patience(seconds), stdin=None
    )
    message = call.result(patience(seconds) + 60)
    if "error" in message:
        raise TestFailure(f"{script}: {message['error']}")
    texts = message.get("stdout", ""), message.get("stderr", "")
    return Result(message.get("rc"), *texts, message.get("ms", 0) / 1000)


def ended(program: Program, seconds: float) -> Result:
    """Waits for the end of a program on the kernel under test."""
    return program.wait(patience(seconds))
