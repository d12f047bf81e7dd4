"""A summary as data for other programs: dicts, lists, text, whole numbers and finite ones, and None."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import msgspec

from perdure.records.summary.summary import Summary
from perdure.records.values import plain


def to_data(summary: Summary) -> dict[str, Any]:
    """Return a summary as JSON has it: the fields of `Summary`, `SummaryRow` and the others under their names.

    What was not found out is None. Shapes are lists. Names are as the file has them. What JSON has no word for among the
    facts of a file is text, and so are numbers that are not finite: `"nan"`, `"inf"`.
    """
    fields = {field.name: getattr(summary, field.name) for field in dataclasses.fields(Summary)}
    statistics = {name: plain(dataclasses.asdict(values)) for name, values in summary.statistics.items()}
    listed = {name: _listed(msgspec.to_builtins(fields[name])) for name in ("rows", "memory", "uncounted", "notes")}
    return {**fields, **listed, "facts": plain(summary.facts), "statistics": statistics}


def _listed(value: Any) -> Any:
    """Return plain data with lists for tuples."""
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value


def to_json(summary: Summary, *, indent: int | None = 2) -> str:
    """Return a summary as a JSON document, in ASCII only."""
    return json.dumps(to_data(summary), indent=indent, ensure_ascii=True, allow_nan=False)
