"""A summary in colour for the terminal: the lines of its text, each piece with the style of what it is."""

from __future__ import annotations

from rich.text import Text

from perdure.records.summary.summary import Summary
from perdure.records.summary.text import lines_of

STYLES = {
    "title": "bold",
    "guide": "dim",
    "name": "cyan",
    "kind": "dim",
    "shape": "magenta",
    "figure": "",
    "note": "yellow",
}
"""The rich style of each piece of a line, by what it is."""


def styled(summary: Summary, *, width: int | None = None) -> Text:
    """Return what `to_text` returns for the same width, in colour.

    Print it with `soft_wrap=True`, since it fits its width already: `Console().print(styled(…), soft_wrap=True)`.
    """
    shown = Text(no_wrap=True, end="")
    for number, pieces in enumerate(lines_of(summary, width=width)):
        line = Text.assemble(*((text, STYLES.get(role, "")) for text, role in pieces))
        line.rstrip()
        shown.append("\n" if number else "").append_text(line)
    return shown
