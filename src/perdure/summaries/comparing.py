"""Two summaries are laid side by side: their modules are matched by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from perdure.records.summary.comparison import Comparison, RowChange, TensorForm
from perdure.records.summary.summary import Summary, SummaryRow

_FIGURES = ("n_parameters", "n_trainable", "n_buffers", "n_bytes")
_COSTS = ("flops", "macs", "activation_bytes")
_PEAKS = ("inference_peak_bytes", "training_peak_bytes")


def compare(first: Summary, second: Summary) -> Comparison:
    """Tell how two models differ, from their summaries: classes, shapes and types, sizes, operations.

    Args:
        first: one.
        second: the other. Where one of the two says nothing of classes, or of operations, these are no difference; nor are
            operations that were counted by different conventions.
    """
    rows, others = _comparable(first, second), _comparable(second, first)
    count = first.convention == second.convention
    changes = list(_changes(rows, others, count))
    return Comparison(
        titles=(first.title, second.title),
        totals=_totals(first, second, (len(rows), len(others))),
        changed=_marked(changes),
        n_equal=len(rows.keys() & others.keys()) - sum(not change.only_in for change in changes),
        notes=tuple(_notes(first, second)),
    )


def _comparable(summary: Summary, other: Summary) -> dict[str, SummaryRow]:
    """Return the rows that the other could have as well, by their names.

    Modules without tensors are known only where classes are, and what is below a module that stands at several places may be
    listed at each, or at the first alone.
    """
    again = {row.name for side in (summary, other) for row in side.rows if row.same_as is not None}
    bare = all(not row.kind for row in other.rows)
    found: dict[str, SummaryRow] = {}
    below: set[str] = set()
    for row in summary.rows:
        parent = row.name.rpartition(".")[0]
        if row.name and (parent in again or parent in below):
            below.add(row.name)
        elif not bare or row.n_parameters or row.n_buffers or row.tensors or not row.name:
            found[row.name] = row
    return found


def _totals(first: Summary, second: Summary, n_modules: tuple[int, int]) -> dict[str, tuple[int | None, int | None]]:
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _FIGURES}
    pairs["n_modules"] = n_modules
    pairs |= {name: (getattr(first, name), getattr(second, name)) for name in _COSTS}
    peaks = [{name: getattr(side.memory, name) for name in _PEAKS} if side.memory else {} for side in (first, second)]
    return pairs | {name: (peaks[0].get(name), peaks[1].get(name)) for name in _PEAKS}


def _changes(rows: Mapping[str, SummaryRow], others: Mapping[str, SummaryRow], count: bool) -> Iterator[RowChange]:
    for name in _merged(list(rows), list(others)):
        row, other = rows.get(name), others.get(name)
        change = RowChange(
            name,
            kinds=(row.kind if row else None, other.kind if other else None),
            n_parameters=(row.n_parameters if row else None, other.n_parameters if other else None),
            n_bytes=(row.n_bytes if row else None, other.n_bytes if other else None),
            flops=(row.flops if row and count else None, other.flops if other and count else None),
            tensors=_tensors(row, other) if row and other and not (row.same_as or other.same_as) else {},
        )
        if _differs(change):
            yield change


def _differs(change: RowChange) -> bool:
    """Tell a module that is not alike on both sides, in itself or in what is below it."""
    return bool(change.tensors) or any(
        a != b for a, b in (change.n_parameters, change.n_bytes, _both(change.kinds), _both(change.flops))
    )


def _both(pair: tuple[object, object]) -> tuple[object, object]:
    """Return a pair, or where one side says nothing, one that is no difference."""
    return pair if all(value not in ("", None) for value in pair) else (None, None)


def _merged(names: list[str], others: list[str]) -> Iterator[str]:
    """Give the names of both in the order of the first; those that only the second has behind the one before them there."""
    known = set(names)
    behind: dict[str, list[str]] = {}
    before = ""
    for name in others:
        if name in known:
            before = name
        else:
            behind.setdefault(before, []).append(name)
    for name in names:
        yield name
        yield from behind.get(name, ())


def _tensors(row: SummaryRow, other: SummaryRow) -> dict[str, tuple[TensorForm | None, TensorForm | None]]:
    """Return the forms of what two modules hold themselves, where these differ."""
    forms = [
        {tensor.name[_start(side) :]: TensorForm(tensor.dtype, tensor.shape) for tensor in side.tensors}
        for side in (row, other)
    ]
    names = dict.fromkeys((*forms[0], *forms[1]))
    pairs = {name: (forms[0].get(name), forms[1].get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _start(row: SummaryRow) -> int:
    """Return where in the names of a module's tensors their own names begin."""
    return len(row.name) + 1 if row.name else 0


def _marked(changes: list[RowChange]) -> tuple[RowChange, ...]:
    """Mark the modules that differ by nothing but what is below them."""
    above: set[str] = set()
    for change in changes:
        parent = change.name.rpartition(".")[0] if change.name else None
        while parent is not None and parent not in above:
            above.add(parent)
            parent = parent.rpartition(".")[0] if parent else None
    return tuple(
        dataclasses.replace(change, inherited=True) if change.name in above and _is_inherited(change) else change
        for change in changes
    )


def _is_inherited(change: RowChange) -> bool:
    kinds = _both(change.kinds)
    return not change.only_in and not change.tensors and kinds[0] == kinds[1]


def _notes(first: Summary, second: Summary) -> Iterator[str]:
    if first.flops is not None and second.flops is not None and first.convention != second.convention:
        yield f"operations were counted as {first.convention} and as {second.convention}, and are not compared"
    for side in (first, second):
        yield from (f"{side.title}: {note}" for note in side.notes)
