# SPDX-License-Identifier: GPL-2.0
"""Rounds of chaos, each of which has to end in peace."""

import random
import time

from ..names import Names
from .activity import Activity
from .driver import Harvest
from .files import Files, HugePages, prepare
from .geometry import Geometry, geometries
from .loads import Loads, Look, Pressure
from .machine import Agent, Busy, Migrate, Reload, Sleep, Unbind
from .memory import Administrator, Kernel, Processors, Refusal, Resize
from .report import Report
from .settle import check, converge, settle
from .site import Site, patience

ACTIVITIES: tuple[type[Activity], ...] = (
    Resize,
    Pressure,
    Look,
    Kernel,
    Files,
    HugePages,
    Administrator,
    Refusal,
    Processors,
    Unbind,
    Reload,
    Busy,
    Agent,
    Sleep,
    Migrate,
)

# Seconds of chaos in a round, and rounds in a guest.
SHORTEST, LONGEST = 20.0, 45.0
ROUNDS = 3

# For an activity to end what it has begun.
LAST_WORDS = 400.0


class Soak:
    """All of it."""

    def __init__(self, report: Report, seconds: float) -> None:
        self.report = report
        self.deadline = time.monotonic() + seconds
        self.dice = random.Random(report.seed)

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def run(self) -> None:
        """Soaks one guest after the other until the time has come."""
        while True:
            for geometry in geometries(self.dice):
                self.soak(geometry)
                if self.left() <= 0:
                    return

    def soak(self, geometry: Geometry) -> None:
        """A guest from its boot to its end."""
        self.report.phase = "booting"
        self.report.note(str(geometry))
        print(f"{self.report.seconds():6.0f} s  a guest with {geometry}", flush=True)
        # All the while a user of the guest gives interfaces the names of memory blocks. The kernel
        # logs each time: more often, and an emulated machine does little else but write that.
        with geometry.boot() as guest, Names(guest, "--every", "500") as names:
            self.report.guests += 1
            site = Site(guest, geometry, self.report, Harvest(self.report))
            kinds = [kind for kind in ACTIVITIES if kind.applies(site)]
            self.report.possible.update(kind.name for kind in kinds)
            prepare(guest)
            settle(site, self.dice)
            loads = Loads(guest, self.report, self.dice.randrange(1 << 30))
            for _ in range(ROUNDS):
                self.round(site, loads, kinds)
                if self.left() <= 0 or guest.spoiled:
                    break
            self.report.phase = "ending"
            loads.quit()
            if not guest.spoiled:
                self.drain(site)
            self.report.renamed(names.renamed())
        if guest.spoiled:
            self.report.fault("raced compactions")
            print("          who compacted memory was killed, as some went offline", flush=True)

    def round(self, site: Site, loads: Loads, kinds: list[type[Activity]]) -> None:
        """One of chaos that ends in peace, or with a guest that is `spoiled` and need not settle."""
        self.report.rounds += 1
        seed = f"{self.report.seed} {self.report.rounds}"
        site.calm.clear()
        activities = []
        for kind in kinds:
            activity = kind(site, seed)
            if isinstance(activity, Pressure | Look):
                activity.loads = loads
            activities.append(activity)
        # Not all at once each time: some defects show only when there is quiet.
        chosen = [a for a in activities if isinstance(a, Resize) or self.dice.random() < 0.7]
        self.report.phase = "chaos"
        self.report.note(f"round {self.report.rounds}: {', '.join(a.name for a in chosen)}")
        loads.go()
        for activity in chosen:
            activity.start()
        site.calm.wait(self.dice.uniform(SHORTEST, LONGEST))
        self.report.phase = "calming down"
        site.calm.set()
        for activity in chosen:
            activity.join(patience(LAST_WORDS))
        for activity in chosen:
            activity.calm_down()
        loads.rest()
        # What is wrong by now is not to look like something that does not settle.
        site.guest.expect_clean_log()
        if not site.guest.spoiled:
            self.report.phase = "settling"
            settle(site, self.dice)
            self.report.phase = "checking"
            check(site)
        loads.check()
        site.harvest.take(site.guest)

    def drain(self, site: Site) -> None:
        """With the loads gone, nothing is in the way of giving all back."""
        sizes = {device.name: 0 for device in site.geometry.devices}
        for name in sizes:
            site.guest.request(0, name)
        converge(site, sizes)
        check(site)
        site.harvest.take(site.guest)
