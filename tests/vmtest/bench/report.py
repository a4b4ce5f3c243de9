# SPDX-License-Identifier: GPL-2.0
"""What was measured, as a table for people, as JSON for programs, and as plots."""

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import pygal
from pygal.style import CleanStyle

from .case import FLOOR, OURS, THEIRS, Row, Values

HEAD = (
    "| median | this module | C driver | floor | ours / C driver (rounds) | wanted | ours / floor |"
)
RULE = "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"

STYLE = CleanStyle(
    # Also where the page around it is dark.
    background="white",
    colors=("#3a6ea5", "#c8b8a8"),
    value_colors=("black", "black"),
    title_font_size=14,
    legend_font_size=12,
    label_font_size=11,
    value_font_size=11,
)
# The lowest ratio that the plot shows as it is.
LEAST_DRAWN = 0.00005


class Results:
    """The values of all rounds."""

    def __init__(self) -> None:
        self._values: dict[Row, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))

    def add(self, driver: str, values: Values) -> None:
        """Takes what one guest has given."""
        for row, value in values.items():
            self._values[row][driver].append(value)

    def median(self, row: Row, driver: str) -> float | None:
        values = self._values[row][driver]
        return median(values) if values else None

    def ratio(self, row: Row, other: str) -> float | None:
        """Our median as a multiple of another's."""
        ours, theirs = self.median(row, OURS), self.median(row, other)
        return ours / theirs if ours is not None and theirs else None

    def spread(self, row: Row) -> tuple[float, float] | None:
        """The lowest and the highest ratio to the C driver of one round."""
        # Not all rounds have both.
        pairs = zip(self._values[row][OURS], self._values[row][THEIRS], strict=False)
        ratios = [ours / theirs for ours, theirs in pairs if theirs]
        return (min(ratios), max(ratios)) if ratios else None

    def met(self, row: Row) -> bool | None:
        """Whether a row shows what it is to show; None if nothing is asked of it."""
        ours, ratio = self.median(row, OURS), self.ratio(row, THEIRS)
        if row.limit is not None and ours is not None:
            return ours <= row.limit
        theirs = self.median(row, THEIRS)
        if row.over is not None and ours is not None and theirs is not None:
            return ours <= theirs + row.over
        if row.ratio is not None and ratio is not None:
            return ratio <= row.ratio
        return None

    def table(self) -> str:
        """All of it in Markdown."""
        lines = [HEAD, RULE]
        for row in self._values:
            ratio, spread, floor = self.ratio(row, THEIRS), self.spread(row), self.ratio(row, FLOOR)
            cells = [row.name]
            cells += [value_of(row, self.median(row, name)) for name in (OURS, THEIRS, FLOOR)]
            cells.append(
                f"{ratio:.3f} ({spread[0]:.3f}..{spread[1]:.3f})" if ratio and spread else ""
            )
            cells.append(self._wanted(row))
            cells.append(f"{floor:.2f}" if floor else "")
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)

    def _wanted(self, row: Row) -> str:
        verdict = {True: "yes", False: "**no**", None: ""}[self.met(row)]
        if row.limit is not None:
            return f"<= {row.limit:g} {row.unit}: {verdict}"
        if row.over is not None:
            return f"<= {row.over:g} {row.unit} more: {verdict}"
        return f"<= {row.ratio:g}: {verdict}" if row.ratio is not None else ""

    def json(self, about: Mapping[str, object]) -> str:
        """All values, for programs."""
        rows = [
            {
                "name": row.name,
                "unit": row.unit,
                "values": by_driver,
                "ratio": self.ratio(row, THEIRS),
                "spread": self.spread(row),
                "times_floor": self.ratio(row, FLOOR),
                "wanted": {"ratio": row.ratio, "limit": row.limit, "over": row.over},
                "met": self.met(row),
            }
            for row, by_driver in self._values.items()
        ]
        return json.dumps({**about, "rows": rows}, indent=2) + "\n"

    def plot(self, file: Path, about: str) -> None:
        """Draws how much of the C driver's time, or whatever it is, this module needs."""
        ratios = {row: self.ratio(row, THEIRS) for row in self._values if row.limit is None}
        drawn = {row: max(ratio, LEAST_DRAWN) for row, ratio in ratios.items() if ratio}
        chart = pygal.HorizontalBar(
            title=f"What this module needs, the C driver needing 1 (logarithmic)\n{about}",
            style=STYLE,
            width=900,
            height=120 + 34 * len(drawn),
            logarithmic=True,
            range=(LEAST_DRAWN, max([1.5, *drawn.values()])),
            # All of a row's name.
            truncate_label=-1,
            legend_at_bottom=True,
            print_values=True,
            formatter=lambda ratio: f"{ratio:.3f}",
            # Nothing is fetched from elsewhere by who looks at it.
            js=(),
        )
        # The first is drawn at the bottom.
        rows = list(reversed(drawn))
        chart.x_labels = [row.name for row in rows]
        chart.y_labels = [0.0001, 0.001, 0.01, 0.1, 1]
        chart.add("measured", [drawn[row] for row in rows])
        chart.add("at most wanted", [row.ratio for row in rows])
        file.write_bytes(chart.render())


def value_of(row: Row, value: float | None) -> str:
    """A value with its unit; nothing for none."""
    return "" if value is None else f"{value:.3g} {row.unit}"
