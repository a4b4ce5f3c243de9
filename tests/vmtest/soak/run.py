# SPDX-License-Identifier: GPL-2.0
"""A soak from its beginning to its report."""

import threading

from ..errors import TestFailure
from ..guest import Guest
from ..kernel import Kernel
from ..paths import FLAVOUR, LOGS
from .report import Report
from .rounds import Soak

# Seconds between two lines that tell how it goes.
INTERVAL = 15.0

# As many operations are shown after a failure; all that are known are in a file.
SHOWN = 25


def kernel() -> str:
    return f"Linux {Kernel.under_test().release} ({FLAVOUR})"


def soak_for(seconds: float, seed: int) -> Report:
    """Soaks one guest after the other; returns what was done.

    Whatever goes wrong is raised, with notes that tell what was done last.
    """
    report = Report(kernel(), seed)
    over = threading.Event()
    threading.Thread(target=show_progress, args=(report, over), daemon=True).start()
    try:
        Soak(report, seconds).run()
        idle = report.always_in_vain()
        if idle:
            raise TestFailure(f"nothing ever came of: {', '.join(idle)}")
    except BaseException as failure:
        failure.add_note(report.failed(SHOWN))
        failure.add_note(f"FLAVOUR={FLAVOUR} SEED={seed} repeats the choices")
        raise
    finally:
        over.set()
        LOGS.mkdir(parents=True, exist_ok=True)
        report.write_last(LOGS / f"{Guest.log_name}.operations")
    return report


def show_progress(report: Report, over: threading.Event) -> None:
    while not over.wait(INTERVAL):
        print(report.progress(), flush=True)
