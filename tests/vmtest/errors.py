# SPDX-License-Identifier: GPL-2.0
"""The ways in which a test ends early."""


class TestFailure(Exception):
    """Something is not as it should be."""


class TooLate(TestFailure):
    """Something has not come in time, which may be the machine's fault."""


class MachineFailure(TooLate):
    """The emulated machine has failed, which is no fault of what runs in it."""


class BootFailure(TestFailure):
    """A guest's first process has not run."""


class TestSkip(Exception):
    """The test does not apply here."""


class TestTimeout(Exception):
    """The hard time limit of a test has passed."""


def expect(condition: bool, message: str) -> None:
    """An assertion that no optimisation switch removes."""
    if not condition:
        raise TestFailure(message)


def expect_equal(got: object, want: object, what: str) -> None:
    """Like expect(), and shows both values."""
    if got != want:
        raise TestFailure(f"{what}: got {got!r}, expected {want!r}")
