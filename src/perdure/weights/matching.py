"""The names and shapes of a file against those of a model: what fits and what does not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping

Kind = tuple[str, tuple[int, ...]]
"""A type as PyTorch names it, and a shape."""

Kinds = Mapping[str, Kind]
"""The kind of each name."""

CanCast = Callable[[str, str], bool]


@dataclasses.dataclass(frozen=True)
class Match:
    """What fits and what does not.

    Attributes:
        fitting: names of the model that the file fills.
        missing: names of the model that the file lacks.
        unexpected: names of the file that the model lacks.
        mismatched: names of the model whose types or shapes differ, the file's and the model's.
        renamed: names of the file that go to another name.
        filled: names of the model that were filled, where that is not told by those that fit.
        casts: names that fit by a cast, with the file's and the model's type.
        adapted: names of the model whose values are not the file's as they are, with what was done.
        kept: names of the model that keep what they have although nothing is wrong, with the reason.
        unused: names of the file that go nowhere although nothing is wrong, with the reason.
        n_kept: of those that are adapted, how many elements come from the file.
    """

    fitting: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: dict[str, tuple[str, str]]
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    filled: frozenset[str] | None = None
    casts: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    adapted: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    n_kept: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.mismatched)


def match(file: Kinds, model: Kinds, *, implied: Iterable[str] = (), can_cast: CanCast | None = None) -> Match:
    """Match names and compare shapes.

    Args:
        file: the tensors of the file.
        model: the places of the model.
        implied: places that others fill, since they share their memory; they need not be in the file.
        can_cast: a function that tells whether one type may become another, by name.
    """
    excused = set(implied)
    both = [name for name in model if name in file]
    mismatched = {name: shown(file[name], model[name]) for name in both if not _fits(file[name], model[name], can_cast)}
    return Match(
        fitting=tuple(name for name in both if name not in mismatched),
        missing=tuple(name for name in model if name not in file and name not in excused),
        unexpected=tuple(name for name in file if name not in model),
        mismatched=mismatched,
        casts={
            name: (file[name][0], model[name][0])
            for name in both
            if file[name][0] != model[name][0] and name not in mismatched
        },
    )


def _fits(file: tuple[str, tuple[int, ...]], model: tuple[str, tuple[int, ...]], can_cast: CanCast | None) -> bool:
    if file[1] != model[1]:
        return False
    return file[0] == model[0] or can_cast is None or can_cast(file[0], model[0])


def shown(file: tuple[str, tuple[int, ...]], model: tuple[str, tuple[int, ...]]) -> tuple[str, str]:
    """Return what differs between two types and shapes, for people."""
    if file[1] != model[1]:
        return str(file[1]), str(model[1])
    return f"{file[0]} {file[1]}", f"{model[0]} {model[1]}"
