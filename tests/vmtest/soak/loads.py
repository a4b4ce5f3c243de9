# SPDX-License-Identifier: GPL-2.0
"""Memory in use, whose content is checked, in several processes."""

import json
from typing import Any

from ..commands import Program
from ..errors import TestFailure, expect_equal
from ..guest import Guest
from ..load import Load
from .activity import Activity, ended
from .report import Report
from .site import Site, patience

# In MiB: what stays where it is, and what the others may use.
STEADY = 192
CHURN = 448
PRESSURE = 4096

SIGKILL = -9

KILLED = "Killed process"


class Churn:
    """`vmem-guest churn` in a guest."""

    def __init__(self, guest: Guest, mib: int, seed: int, *options: str) -> None:
        self.guest = guest
        argv = ["vmem-guest", "churn", "--mib", str(mib), "--seed", str(seed), *options]
        self.program: Program = guest.start(argv)
        self.pages = 0
        self._event("ready")

    def command(self, command: str) -> dict[str, Any]:
        """Sends a command and waits until it is done."""
        self.program.input(command + "\n")
        return self._event(command.split()[0])

    def new_pages(self, message: dict[str, Any]) -> int:
        """How many pages it has checked since this was asked last."""
        before, self.pages = self.pages, int(message["pages"])
        return self.pages - before

    def _event(self, event: str) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.program.line(patience(180)))
        expect_equal(message["corrupted"], 0, f"changed pages ({message})")
        expect_equal(message["event"], event, "answer of the load")
        return message


class Loads:
    """The processes of one guest, which live as long as it does."""

    def __init__(self, guest: Guest, report: Report, seed: int) -> None:
        self.guest = guest
        self.report = report
        self.seed = seed
        self.steady = Load(guest, STEADY, "--watch", "--modest", seed=seed)
        self.churn = Churn(guest, CHURN, seed + 1)
        self._again = 0
        self.pressure = self._press()

    def _press(self) -> Churn:
        """What may be killed when memory runs out, and leaves little to others."""
        self._again += 1
        options = ("--reserve", "224", "--expendable")
        churn = Churn(self.guest, PRESSURE, self.seed + 1 + self._again, *options)
        churn.command("limit 0")
        return churn

    def press(self, mib: int) -> bool:
        """How much the expendable one may use; false if it had to be started anew."""
        try:
            message = self.pressure.command(f"limit {mib}")
        except TestFailure:
            self._bury()
            return False
        self.report.checked(self.pressure.new_pages(message))
        return True

    def _bury(self) -> None:
        """The expendable load has gone, which it may by the kernel's hand alone."""
        result = ended(self.pressure.program, 30)
        expect_equal(result.rc, SIGKILL, f"exit status of a load ({result.stderr.strip()})")
        log = self.guest.console.read_text(errors="replace")
        if f"{KILLED} {self.pressure.program.pid} (vmem-guest)" not in log:
            raise TestFailure("the expendable load was killed, but not for want of memory")
        self.report.fault("loads killed for want of memory")
        self.pressure = self._press()

    def rest(self) -> None:
        """Leaves little of the memory in use, and none changing."""
        self.press(0)
        self.churn.command("rest")
        self.churn.command("limit 128")

    def go(self) -> None:
        self.churn.command(f"limit {CHURN}")
        self.churn.command("go")

    def check(self) -> None:
        """Checks every page of every load."""
        self.report.checked(self.steady.check())
        self.report.checked(self.churn.new_pages(self.churn.command("check")))

    def quit(self) -> None:
        for churn in (self.churn, self.pressure):
            self.report.checked(churn.new_pages(churn.command("quit")))
            expect_equal(ended(churn.program, 60).rc, 0, "exit status of a load")
        self.steady.quit()


class Pressure(Activity):
    """Nearly all memory is in use, and then it is not."""

    name = "pressure"
    pause = (2.0, 10.0)
    loads: Loads

    def run(self) -> str:
        mib = self.dice.choice((0, 256, 512, 1024, 4096))
        alive = self.loads.press(mib)
        return f"{mib} MiB" + ("" if alive else ", had been killed")


class Look(Activity):
    """All that is in use is checked, and a load comes and goes."""

    name = "load"
    pause = (3.0, 12.0)
    loads: Loads

    @classmethod
    def applies(cls, site: Site) -> bool:
        return True

    def run(self) -> str:
        self.loads.check()
        mib = self.dice.choice((32, 64, 128))
        options = ("--sparse",) if self.dice.random() < 0.5 else ()
        with self.guest.load(mib, *options, seed=self.dice.randrange(1 << 30)) as load:
            self.site.pause(self.dice.uniform(0, 5))
            self.site.report.checked(load.check())
        return f"{mib} MiB {' '.join(options)}".strip()
