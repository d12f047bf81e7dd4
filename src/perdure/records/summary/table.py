"""A summary as a table: CSV, with a line for each module, and Markdown, with the tree of the text."""

from __future__ import annotations

import csv
import io
import re

from perdure.records.names import printable
from perdure.records.summary.columns import columns_of, tie_of
from perdure.records.summary.summary import Shape, Summary, SummaryRow
from perdure.records.summary.totals import totals
from perdure.records.summary.tree import MOST_LINES, more_lines, paths, tree_of

_FIGURES = (
    "depth", "n_parameters", "n_trainable", "n_buffers", "n_bytes", "n_tied", "tied_bytes", "n_calls",
    "flops", "macs", "backward_flops", "activation_bytes", "seconds",
)  # fmt: skip
CSV_COLUMNS = ("name", "kind", "input_shapes", "output_shapes", "same_as", *_FIGURES)
"""The columns of the CSV, which are fields of `SummaryRow`."""


def to_csv(summary: Summary) -> str:
    r"""Return a line for each module, after one with the names of the columns, which are fields of `SummaryRow`.

    Figures are exact; what was not found out is empty. A shape is `1x3x224x224`, that of a scalar `scalar`; several stand
    with a semicolon between them. Control characters in names are written out, as `\x0a`, and a name that a spreadsheet
    would take for a formula has an apostrophe before it.
    """
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    writer.writerows(_cells(row) for row in summary.rows)
    return file.getvalue()


def _cells(row: SummaryRow) -> list[str]:
    shapes = ("; ".join(map(_shape, each)) for each in (row.input_shapes, row.output_shapes))
    figures = (getattr(row, name) for name in _FIGURES)
    return [
        _harmless(row.name),
        _harmless(row.kind),
        *shapes,
        _harmless(row.same_as or ""),
        *("" if figure is None else str(figure) for figure in figures),
    ]


def _shape(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _harmless(text: str) -> str:
    """Return a name that no spreadsheet takes for a formula, whatever the file calls its modules."""
    shown = printable(text, None)
    return f"'{shown}" if shown.lstrip()[:1] in tuple("=+-@＝＋－＠") else shown


def to_markdown(summary: Summary) -> str:
    """Return the tree as a table in which every name is a path, and the totals as a list."""
    listed = list(paths(tree_of(summary)))
    listed, rest = listed[:MOST_LINES], listed[MOST_LINES:]
    columns = columns_of(summary, [branch for _, branch in listed])
    lines = [f"**{_code(summary.title)}**", ""]
    lines.append("| module | class | " + " | ".join(column.title for column in columns) + " |")
    lines.append(
        "| --- | --- | " + " | ".join("--:" if column.role == "figure" else "---" for column in columns) + " |"
    )
    for place, (path, branch) in enumerate(listed):
        name = _code(path or ('""' if place else "(model)")) + (f" × {branch.n}" if branch.n > 1 else "")
        kind = _code(branch.tensor.role if branch.tensor else branch.row.kind) + _tie(tie_of(branch))
        lines.append(" | ".join(("| " + name, kind, *(_plain(column.texts[place]) for column in columns))) + " |")
    lines.append("")
    lines += [more_lines(len(rest)), ""] if rest else []
    lines += [f"- {_plain(name)}: {_plain(text)}" for name, text in totals(summary)]
    return "\n".join(lines) + "\n"


_MARKUP = re.compile(r"[\\`*<>|&~!\x00-\x1f]|://|www\.|]\(|(?<!\w)_|_(?!\w)")
"""What Markdown, or what a site makes of it, might read as more than text."""


def _plain(text: str) -> str:
    """Write a text as it is, where nothing in it is markup, or else as code."""
    return _code(text) if _MARKUP.search(text) else text


def _tie(names: list[str]) -> str:
    return " = " + ", ".join(map(_code, names)) if names else ""


def _code(text: str, limit: int = 2000) -> str:
    """Write a name as code, so that nothing in it is markup; pipes would end the cell of a table even there."""
    if not text:
        return ""
    shown = printable(text, limit).replace("|", "\\|")
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{pad}{shown}{pad}{fence}"
