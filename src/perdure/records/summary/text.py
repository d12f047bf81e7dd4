"""A summary as plain text: the tree of its modules, the totals, and the statistics of values where these were asked for."""

from __future__ import annotations

from collections.abc import Iterator

from perdure.records.names import printable
from perdure.records.summary.columns import Span, cells_of, columns_of, fit, name_of, titles_of
from perdure.records.summary.figures import cells, shortened, wrapped
from perdure.records.summary.summary import Summary
from perdure.records.summary.totals import totals
from perdure.records.summary.tree import MOST_LINES, more_lines, tree_of, walk
from perdure.records.summary.value_lines import value_lines

WIDEST = 120
_NARROWEST = 40


def to_text(summary: Summary, *, width: int | None = None) -> str:
    """Return a summary as text without control codes.

    A line stands for a module or, with `× n`, for n modules beside each other that look the same: its figures are those of
    one. What of a figure stands in brackets is counted elsewhere; the others below a module add up to that of the module,
    together with its own tensors, which have a line each where a module holds modules too.

    Args:
        summary: what to show.
        width: columns of the terminal that a line may take, at least 40; None for as many as it needs, at most 120.
    """
    return "\n".join("".join(text for text, _ in line).rstrip() for line in lines_of(summary, width=width))


def lines_of(summary: Summary, *, width: int | None = None) -> Iterator[list[Span]]:
    """Give the lines of a summary, each in pieces that say what they are, for whoever colours them; as `to_text`."""
    width = WIDEST if width is None else max(width, _NARROWEST)
    yield [(shortened(printable(summary.title, 1000), width), "title")]
    gone: list[str] = []
    yield from _tree_lines(summary, width, gone)
    yield []
    stated = [*totals(summary), *([("no room for", ", ".join(gone))] if gone else [])]
    start = max(cells(name) for name, _ in stated) + 2
    for name, text in stated:
        for number, part in enumerate(wrapped(text, width - start)):
            yield [
                (name.ljust(start) if not number else " " * start, "title"),
                (part, "note" if name == "note" else ""),
            ]
    yield from value_lines(summary.statistics, width)


def _tree_lines(summary: Summary, width: int, gone: list[str]) -> Iterator[list[Span]]:
    """Give the tree with its head, and put into `gone` the titles of the columns for which there is no room."""
    walked = list(walk(tree_of(summary)))
    walked, rest = walked[:MOST_LINES], walked[MOST_LINES:]
    columns = columns_of(summary, [branch for branch, _ in walked])
    say_shape = not any(column.title == "weights" for column in columns)
    wanted = [sum(cells(text) for text, _ in name_of(branch, lasts, None, say_shape)) for branch, lasts in walked]
    room, columns, left_out = fit(columns, (len("module"), *wanted), width)
    gone += left_out
    head: list[Span] = [("module".ljust(room), "title"), *titles_of(columns)]
    yield head
    yield [("─" * sum(cells(text) for text, _ in head), "guide")]
    fits = room >= max(wanted)
    for place, (branch, lasts) in enumerate(walked):
        name = name_of(branch, lasts, None if fits else room, say_shape)
        pad = room - sum(cells(text) for text, _ in name)
        yield [*name, (" " * pad, ""), *cells_of(columns, place)]
    if rest:
        yield [(more_lines(len(rest)), "note")]
