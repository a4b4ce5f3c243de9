# SPDX-License-Identifier: GPL-2.0
"""The guest's pool of huge pages (hugetlb)."""

from .commands import Commands
from .errors import expect_equal

DIRECTORY = "/sys/kernel/mm/hugepages/hugepages-2048kB"


class Pool:
    """The pool of pages of 2 MiB."""

    def __init__(self, guest: Commands) -> None:
        self._guest = guest

    def _value(self, name: str) -> int:
        return int(self._guest.read(f"{DIRECTORY}/{name}"))

    def ask_for(self, count: int) -> int:
        """Asks for so many pages; returns how many the pool has then."""
        self._guest.write(f"{DIRECTORY}/nr_hugepages", str(count))
        return self.total()

    def resize(self, count: int) -> None:
        """Has the pool have so many pages."""
        expect_equal(self.ask_for(count), count, "pages in the pool")

    def total(self) -> int:
        """How many pages there are."""
        return self._value("nr_hugepages")

    def free(self) -> int:
        """How many of them are not used."""
        return self._value("free_hugepages")

    def surplus(self) -> int:
        """How many there are beyond what was asked for."""
        return self._value("surplus_hugepages")
