# SPDX-License-Identifier: GPL-2.0
"""What a benchmark consists of: rows of its table, and guests that give values for them."""

import importlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

# With QUICK=1 less is measured, of less memory, to see that all is well in minutes.
QUICK = os.environ.get("QUICK", "") not in ("", "0")

OURS = "rust"
THEIRS = "c"
# The kernel's own work alone.
FLOOR = "floor"

DRIVERS = {OURS: "this module", THEIRS: "C driver", FLOOR: "floor"}


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    unit: str = "s"
    # What this module's value has to be at most, as a part of the C driver's ...
    ratio: float | None = None
    # ... or as it is ...
    limit: float | None = None
    # ... or that it may be more than the C driver's.
    over: float | None = None


# Values for rows.
Values = dict[Row, float]


Measure = Callable[[str], Values]
MeasureTogether = Callable[[tuple[str, ...]], dict[str, Values]]


@dataclass(frozen=True)
class Case:
    """Guests, one for each driver, in which the values for some rows are measured."""

    name: str
    drivers: tuple[str, ...]
    # Whether the guests are there at the same time, to be measured in turn: `measure` takes
    # all of `drivers` then, otherwise one at a time.
    together: bool
    measure: MeasureTogether
    rounds: int | None
    # With the C driver no more than so many, where one takes it minutes.
    their_rounds: int | None


CASES: list[Case] = []


def case(
    *drivers: str, quick: bool = True, rounds: int | None = None, their_rounds: int | None = None
) -> Callable[[Measure], Measure]:
    """Declares a function, called with one of DRIVERS, to measure a case: of these drivers,
    or of the two, not with QUICK unless `quick`, and with so many `rounds` if not as many
    as the others, of which the C driver takes part in the first `their_rounds`."""

    def declare(function: Measure) -> Measure:
        def one_by_one(chosen: tuple[str, ...]) -> dict[str, Values]:
            return {driver: function(driver) for driver in chosen}

        if quick or not QUICK:
            known = drivers or (OURS, THEIRS)
            CASES.append(Case(function.__name__, known, False, one_by_one, rounds, their_rounds))
        return function

    return declare


def together(function: MeasureTogether) -> MeasureTogether:
    """Declares a function to measure a case with both drivers in guests that run side by side,
    for what takes so short that the machine's own ups and downs would be what is measured."""
    CASES.append(Case(function.__name__, (OURS, THEIRS), True, function, None, None))
    return function


# The files that declare cases, in the order of the table.
FILES = ("cases", "in_use")


def chosen(pattern: str) -> list[Case]:
    """The cases in whose name a regular expression is found."""
    for name in FILES:
        importlib.import_module(f"{__package__}.{name}")
    return [case for case in CASES if re.search(pattern, case.name)]
