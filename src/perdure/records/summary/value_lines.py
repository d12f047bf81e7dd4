"""The statistics of a summary's values as lines of text: one for each tensor, with its histogram drawn small."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from perdure.records.names import printable
from perdure.records.summary.columns import Column, Span, cells_of, fit, titles_of
from perdure.records.summary.figures import cells, short, shortened
from perdure.records.summary.summary import ValueStatistics
from perdure.records.summary.tree import MOST_LINES, more_lines

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST_HISTOGRAM = 16


def value_lines(statistics: Mapping[str, ValueStatistics], width: int) -> Iterator[list[Span]]:
    """Give a line for each tensor, after a head; nothing where no statistics were asked for."""
    if not statistics:
        return
    found = list(statistics.values())[:MOST_LINES]

    def column(title: str, texts: list[str], rank: int, role: str = "figure") -> Column:
        return Column(title, role, texts, texts, rank)

    columns = [
        column("mean", [_number(each.mean) for each in found], 0),
        column("std", [_number(each.std) for each in found], 0),
        column("min", [_number(each.min) for each in found], 1),
        column("max", [_number(each.max) for each in found], 1),
        column("zeros", [_count(each.n_zeros) for each in found], 3),
        column("NaN", [_count(each.n_nan) for each in found], 0),
        column("Inf", [_count(each.n_infinite) for each in found], 0),
        column("norm", [_number(each.spectral_norm) for each in found], 2),
        column("histogram", [_bars(each.histogram) for each in found], 4, "shape"),
    ]
    names = [printable(name) for name in itertools.islice(statistics, MOST_LINES)]
    room, columns, _ = fit([each for each in columns if any(each.texts)], map(cells, ("tensor", *names)), width)
    yield []
    yield [("tensor".ljust(room), "title"), *titles_of(columns)]
    for place, name in enumerate(names):
        shown = shortened(name, room)
        yield [(shown, "name"), (" " * (room - cells(shown)), ""), *cells_of(columns, place)]
    if len(statistics) > MOST_LINES:
        yield [(more_lines(len(statistics) - MOST_LINES), "note")]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _count(number: int) -> str:
    return short(number) if number else ""


def _bars(counts: tuple[int, ...]) -> str:
    """Draw a histogram in a line, neighbouring bins together where there are many."""
    if not any(counts):
        return ""
    step = -(-len(counts) // _WIDEST_HISTOGRAM)
    sums = [sum(counts[start : start + step]) for start in range(0, len(counts), step)]
    return "".join(_BARS[-(-count * (len(_BARS) - 1) // max(sums))] for count in sums)
