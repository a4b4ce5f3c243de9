# SPDX-License-Identifier: GPL-2.0
"""Sizes, and how to print them."""

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30


def mib(size: int) -> str:
    """A size for people: exact in MiB where it is, in KiB where not."""
    if size % MIB == 0:
        return f"{size // MIB} MiB"
    return f"{size / KIB:g} KiB"
