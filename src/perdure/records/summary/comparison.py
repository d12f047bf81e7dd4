"""Two summaries side by side, as data and as a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from perdure.records.names import fold, human_bytes, printable
from perdure.records.summary.summary import Shape

_MAX_LINES = 60
_MAX_LENGTH = 1000


@dataclasses.dataclass(frozen=True)
class TensorForm:
    """What a tensor is: its type and its sizes."""

    dtype: str
    shape: Shape

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


@dataclasses.dataclass(frozen=True)
class RowChange:
    """How a module differs. Of each pair, the first is None where only the second has the module, and the reverse.

    Attributes:
        name: its path.
        kinds: its classes.
        n_parameters: elements of its parameters and of those below.
        n_bytes: bytes of its parameters and buffers and of those below.
        flops: floating-point operations; None too where they were not counted.
        tensors: what it holds itself and differs, by the last part of the name; None on the side that has none.
        inherited: only what is below it differs.
    """

    name: str
    kinds: tuple[str | None, str | None]
    n_parameters: tuple[int | None, int | None]
    n_bytes: tuple[int | None, int | None]
    flops: tuple[int | None, int | None] = (None, None)
    tensors: dict[str, tuple[TensorForm | None, TensorForm | None]] = dataclasses.field(default_factory=dict)
    inherited: bool = False

    @property
    def only_in(self) -> str:
        """`"first"` or `"second"`, where the other has no such module; else empty."""
        return "second" if self.kinds[0] is None else "first" if self.kinds[1] is None else ""

    def __str__(self) -> str:
        if self.only_in:
            side = 1 if self.only_in == "second" else 0
            kind = f"{self.kinds[side]}, " if self.kinds[side] else ""
            return f"{kind}{_of_parameters(self.n_parameters[side])}"
        parts = [f"{self.kinds[0]} → {self.kinds[1]}"] if all(self.kinds) and self.kinds[0] != self.kinds[1] else []
        parts += [f"{name} {_changed(forms)}" for name, forms in self.tensors.items()]
        a, b = self.flops
        if a is not None and b is not None and a != b:
            parts.append(f"FLOPs {a:,} → {b:,}")
        return "; ".join(parts) or self._sizes()

    def _sizes(self) -> str:
        """Say how sizes differ where nothing else does that is shown, as where rows were left out."""
        if self.n_parameters[0] != self.n_parameters[1]:
            return f"{self.n_parameters[0]:,} → {_of_parameters(self.n_parameters[1])}"
        return f"{human_bytes(self.n_bytes[0] or 0)} → {human_bytes(self.n_bytes[1] or 0)}"


def _of_parameters(number: int | None) -> str:
    return f"{number:,} parameters"


def _changed(forms: tuple[TensorForm | None, TensorForm | None]) -> str:
    first, second = forms
    if first is None or second is None:
        return f"added, {second}" if first is None else f"removed, {first}"
    if first.dtype == second.dtype:
        return f"{list(first.shape)} → {list(second.shape)}"
    return f"{first.dtype} → {second.dtype}" if first.shape == second.shape else f"{first} → {second}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How two summaries differ. Modules are matched by their paths.

    Attributes:
        titles: what was compared.
        totals: figures of the whole models, by the names that `Summary` gives them; None where one does not say. Among
            them `n_modules`, how many modules there are of those that either file could tell of.
        changed: the modules that differ, in the order of the first, those that only the second has where they stand there.
        n_equal: how many modules are alike, with all that is below them.
        notes: what the reader should know.
    """

    titles: tuple[str, str]
    totals: dict[str, tuple[int | None, int | None]]
    changed: tuple[RowChange, ...] = ()
    n_equal: int = 0
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether both have the same modules with the same tensors and, where both say them, the same operations."""
        return not self.changed

    def __str__(self) -> str:
        lines = [f"{self.titles[0]} → {self.titles[1]}", *self._figures(), ""]
        alike = f"{self.n_equal:,} modules are alike" if self.n_equal != 1 else "1 module is alike"
        lines += [*self._changes(), f"{alike}; {self._n_different()}"]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(printable(line, _MAX_LENGTH) for line in lines)

    def _n_different(self) -> str:
        only = [sum(change.only_in == side for change in self.changed) for side in ("first", "second")]
        n_changed = sum(not change.only_in and not change.inherited for change in self.changed)
        return f"{n_changed:,} changed, {only[0]:,} only in the first, {only[1]:,} only in the second"

    def _figures(self) -> Iterator[str]:
        """Show the figures of the whole in columns: both, and by how much the second is more or less."""
        table = [
            (_TITLES[name], *(_figure(name, value) for value in pair), _change(*pair))
            for name, pair in self.totals.items()
            if pair != (None, None)
        ]
        widths = [max(len(row[column]) for row in table) for column in range(3)] if table else []
        for name, first, second, change in table:
            yield f"  {name:<{widths[0]}}  {first:>{widths[1]}}  {second:>{widths[2]}}  {change}".rstrip()

    def _changes(self) -> Iterator[str]:
        """Show every module that differs by itself; of those that only one side has, the outermost; layers in one line."""
        alike: dict[tuple[str, str], list[str]] = {}
        shown: set[str] = set()
        for change in self.changed:
            parent = change.name.rpartition(".")[0]
            if change.inherited or (change.only_in and f"{change.only_in} {parent}" in shown):
                shown.add(f"{change.only_in} {change.name}")
                continue
            shown.add(f"{change.only_in} {change.name}")
            mark = {"first": "-", "second": "+"}.get(change.only_in, "~")
            alike.setdefault((mark, str(change)), []).append(change.name or "(the model)")
        lines = [f"  {mark} {name}  {text}" for (mark, text), names in alike.items() for name in _folded_ends(names)]
        yield from lines[:_MAX_LINES]
        if len(lines) > _MAX_LINES:
            yield f"  … and {len(lines) - _MAX_LINES} more lines"


def _folded_ends(names: list[str]) -> list[str]:
    """Fold names, those too that end in a number: `layers.{0..3}`."""
    return [name.removesuffix(".") for name in fold(f"{name}." for name in names)]


_TITLES = {
    "n_parameters": "parameters",
    "n_trainable": "trainable",
    "n_buffers": "buffers",
    "n_bytes": "size",
    "n_modules": "modules",
    "flops": "FLOPs",
    "macs": "MACs",
    "activation_bytes": "activations",
    "inference_peak_bytes": "peak, inference",
    "training_peak_bytes": "peak, training",
}


def _figure(name: str, value: int | None) -> str:
    if value is None:
        return "not known"
    return human_bytes(value) if name.endswith("_bytes") else f"{value:,}"


def _change(first: int | None, second: int | None) -> str:
    if first is None or second is None:
        return ""
    if first == second:
        return "equal"
    if not first:
        return "+" if second > 0 else "-"
    share = (second - first) / first
    if share >= 1:
        return f"× {second / first:,.3g}"
    return f"{share:+.1%}" if abs(share) >= 0.0005 else f"{second - first:+,}"
