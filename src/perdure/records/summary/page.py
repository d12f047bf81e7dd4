"""A summary as a page of its own for a browser: a treemap that zooms, and a table. It asks for nothing from outside."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib import resources
from typing import Any

from perdure.records.names import printable
from perdure.records.summary.columns import output_text
from perdure.records.summary.figures import ends_of, shortened
from perdure.records.summary.summary import Summary, SummaryRow
from perdure.records.summary.text import to_text
from perdure.records.summary.totals import totals

_LONGEST_NAME = 300
_EXACT_IN_BROWSERS = 2**53

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1><bdi>{title}</bdi></h1>
<dl class="totals">{totals}</dl>
<main>
<div class="bar">
<nav aria-label="Place in the model"><ol id="trail"></ol></nav>
<fieldset id="measures" aria-label="Area by"></fieldset>
</div>
<div id="map" role="group" aria-label="Treemap" tabindex="-1"></div>
<ul id="legend" aria-label="Colours"></ul>
<p class="hint">Click or Enter opens a module, Escape goes back, arrows move. <span id="missing"></span></p>
<section id="details" aria-label="Details"></section>
<div class="finder">
<input id="search" type="search" placeholder="Search modules and classes" aria-label="Search modules and classes">
<span id="count" role="status"></span>
</div>
<div class="scroll"><table id="rows"><thead><tr></tr></thead><tbody></tbody></table></div>
<button id="more" type="button" hidden>Show all</button>
</main>
<details><summary>As text</summary><pre>{text}</pre></details>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""


def to_html(summary: Summary) -> str:
    """Return a page that shows where a model's parameters, bytes, operations, activations and time are.

    It is one file, and its own policy forbids it the network and every script but the two that are in it. What the summary
    names goes in as text.
    """
    style, script = _part("page.css"), _part("squarify.js") + _part("page.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    stated = "".join(
        f"<div><dt>{_escaped(name)}</dt><dd><bdi>{_escaped(text)}</bdi></dd></div>" for name, text in totals(summary)
    )
    return _PAGE.format(
        policy=policy,
        title=_escaped(summary.title),
        style=style,
        totals=stated,
        text=html.escape(to_text(summary)),
        data=_embedded(_content(summary)),
        script=script,
    )


def _part(name: str) -> str:
    return resources.files("perdure.records.summary").joinpath(name).read_text("utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _escaped(text: str) -> str:
    return html.escape(printable(text, 2000))


def _embedded(content: Any) -> str:
    """Write data as JSON that is safe within a script element: ASCII, and nothing in it can end or open an element."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content(summary: Summary) -> dict[str, Any]:
    operations = "mult-adds" if summary.convention == "torchinfo" else "FLOPs"
    measures = [
        ("parameters", "number", lambda row: row.n_parameters, lambda row: row.n_tied),
        ("bytes", "bytes", lambda row: row.n_bytes, lambda row: row.tied_bytes),
        (operations, "number", lambda row: row.flops, None),
        ("activations", "bytes", lambda row: row.activation_bytes, None),
        ("time", "seconds", lambda row: row.seconds, None),
    ]
    known = [measure for measure in measures if any(measure[2](row) for row in summary.rows)] or measures[:1]
    return {
        "measures": [{"title": title, "unit": unit, "peak": title == "activations"} for title, unit, _, _ in known],
        "rows": [_row(row, summary.title, known) for row in summary.rows],
    }


def _row(row: SummaryRow, title: str, measures: list[Any]) -> dict[str, Any]:
    figures = [figure(row) for _, _, figure, _ in measures]
    counted = [
        figure - elsewhere(row) if elsewhere and figure is not None else figure
        for figure, (_, _, _, elsewhere) in zip(figures, measures, strict=True)
    ]
    label = (row.name.rpartition(".")[2] or '""') if row.depth else row.kind or title
    return {
        "name": _name(row.name),
        "label": _name(label),
        "kind": _name(row.kind),
        "depth": row.depth,
        "output": output_text(row),
        "calls": row.n_calls,
        "figures": list(map(_number, figures)),
        "counted": list(map(_number, counted)),
        "note": _name(row.same_as or next((tensor.tied_to for tensor in row.tensors if tensor.tied_to), "")),
    }


def _name(text: str) -> str:
    return shortened(ends_of(text), _LONGEST_NAME)


def _number(figure: float | None) -> float | str | None:
    """Return a figure as JSON has it: as text where a browser would round it."""
    return str(figure) if isinstance(figure, int) and figure > _EXACT_IN_BROWSERS else figure
