# SPDX-License-Identifier: GPL-2.0
"""What a benchmark consists of: rows of its table, and guests that give values for them."""

import os
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
    # ... or as it is.
    limit: float | None = None


# Values for rows.
Values = dict[Row, float]


@dataclass(frozen=True)
class Case:
    """Guests, one for each driver, in which the values for some rows are measured."""

    name: str
    drivers: tuple[str, ...]
    measure: Callable[[str], Values]
    rounds: int | None


CASES: list[Case] = []


def case(
    *drivers: str, quick: bool = True, rounds: int | None = None
) -> Callable[[Callable[[str], Values]], Callable[[str], Values]]:
    """Declares a function, called with one of DRIVERS, to measure a case: of these drivers,
    or of the two, not with QUICK unless `quick`, and with so many `rounds` if not as many
    as the others."""

    def declare(function: Callable[[str], Values]) -> Callable[[str], Values]:
        if quick or not QUICK:
            CASES.append(Case(function.__name__, drivers or (OURS, THEIRS), function, rounds))
        return function

    return declare
