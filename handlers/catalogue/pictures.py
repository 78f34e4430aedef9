"""Figures as pictures: the places and the numbers of a chart's bars; a template draws them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 120
_GAP = 0.2  # of a slot, between two bars


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle, for one kind of the things that are counted."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A chart: the bars of each slot, and the same in numbers."""

    title: str
    unit: str
    kinds: Sequence[str]
    bars: Sequence[Bar]
    is_piled: bool
    most: float  # the number at the top of the picture
    rows: Sequence[tuple[str, Sequence[float | None]]]  # a slot's name, and a number for each kind
    totals: Mapping[str, float]


def picture(
    title: str,
    unit: str,
    kinds: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float | None]]],
    *,
    piled: bool = True,
) -> Picture:
    """The chart of these rows: a slot's bars are upon each other if the kinds add up, else side by side."""
    heights = [
        sum(n or 0 for n in numbers) if piled else max((n or 0 for n in numbers), default=0) for _, numbers in rows
    ]
    most = max((one for one in heights if one != float("inf")), default=0.0)
    slot = WIDTH / max(len(rows), 1)
    bars: list[Bar] = []
    for place, (_, numbers) in enumerate(rows):
        top = float(HEIGHT)
        for number, (kind, value) in enumerate(zip(kinds, numbers, strict=True)):
            if not value or not most:
                continue
            height = max(HEIGHT * min(value, most) / most, 1.0)
            width = slot * (1 - _GAP) / (1 if piled else len(kinds))
            x = place * slot + (0 if piled else number * width)
            y = top - height if piled else HEIGHT - height
            bars.append(Bar(kind, round(x, 2), round(max(y, 0.0), 2), round(width, 2), round(height, 2)))
            top -= height
    totals = {kind: sum(numbers[number] or 0 for _, numbers in rows) for number, kind in enumerate(kinds)}
    return Picture(title=title, unit=unit, kinds=kinds, bars=bars, is_piled=piled, most=most, rows=rows, totals=totals)
