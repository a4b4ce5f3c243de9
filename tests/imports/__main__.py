# SPDX-License-Identifier: GPL-2.0
"""imports [TREE]: prints what uses a file against the order, and each circle.

The exit status is 1 if there is any.
"""

import sys
from pathlib import Path

from .order import Check
from .source import Unreadable


def main(arguments: list[str]) -> int:
    """Checks one tree, this one if none is named."""
    top = Path(arguments[0]) if arguments else Path(__file__).resolve().parents[2]
    try:
        check = Check(top)
    except (OSError, Unreadable) as error:
        print(error)
        return 1
    problems = list(check.problems())
    for problem in problems:
        print(problem)
    print(f"{len(check.crates.sources)} files, {len(check.edges)} uses, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
