"""A summary as data for other programs: dicts, lists, text, whole numbers and finite ones, and None."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from perdure.records.summary.summary import Summary, ValueStatistics
from perdure.records.values import plain


def to_data(summary: Summary) -> dict[str, Any]:
    """Return a summary as JSON has it: the fields of `Summary`, `SummaryRow` and the others under their names.

    What was not found out is None. Shapes are lists. Names are as the file has them. What JSON has no word for among the
    facts of a file is text, and so are numbers that are not finite: `"nan"`, `"inf"`.
    """
    fields = {field.name: getattr(summary, field.name) for field in dataclasses.fields(Summary)}
    return {
        **fields,
        "rows": [dataclasses.asdict(row, dict_factory=_fields) for row in summary.rows],
        "memory": dataclasses.asdict(summary.memory) if summary.memory else None,
        "uncounted": dict(summary.uncounted),
        "notes": list(summary.notes),
        "facts": plain(summary.facts),
        "statistics": {name: _statistics(values) for name, values in summary.statistics.items()},
    }


def to_json(summary: Summary, *, indent: int | None = 2) -> str:
    """Return a summary as a JSON document, in ASCII only."""
    return json.dumps(to_data(summary), indent=indent, ensure_ascii=True, allow_nan=False)


def _fields(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: _listed(value) if isinstance(value, tuple) else value for name, value in pairs}


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (tuple, list)) else value


def _statistics(values: ValueStatistics) -> dict[str, Any]:
    return {name: plain(value) for name, value in dataclasses.asdict(values).items()}
