"""Which names of a file most likely mean which names of a model, where layers were renamed; nothing where it is unclear."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple

from perdure.records.names import SENSIBLE_LENGTH
from perdure.weights.matching import Kinds

_MAX_DEPTH = 16
_MAX_NAMES = 20_000
_MAX_GROUPS = 500

Paths = tuple[str, str]
"""What names begin with in the file, and in the model."""


def correspondences(unexpected: Kinds, missing: Kinds, file: Iterable[str], model: Iterable[str]) -> dict[str, str]:
    """Pair names that end alike, have one shape, and are alone in that; whole modules or nothing.

    Args:
        unexpected: names of the file that the model lacks.
        missing: names of the model that the file lacks.
        file: all names of the file.
        model: all names of the model.
    """
    if not unexpected or not missing or len(unexpected) + len(missing) > _MAX_NAMES:
        return {}
    pairs = _alone_together(unexpected, missing)
    groups: dict[Paths, dict[str, str]] = defaultdict(dict)
    for name, place in pairs.items():
        groups[_paths(name, place)][name] = place
    n_old, n_new = _n_below(file), _n_below(model)
    whole = [group for (old, new), group in groups.items() if n_old[old] == n_new[new] == len(group)]
    if len(whole) > _MAX_GROUPS:
        return {}
    return {name: place for group in whole for name, place in group.items()}


class _Name(NamedTuple):
    """A name with what is compared of it."""

    whole: str
    parts: tuple[str, ...]
    numbers: tuple[str, ...]
    shape: tuple[int, ...]


def _read(kinds: Kinds) -> list[_Name]:
    split = [(name, tuple(name.split(".")), kind[1]) for name, kind in kinds.items() if len(name) <= SENSIBLE_LENGTH]
    return [_Name(name, parts, tuple(filter(str.isdecimal, parts)), shape) for name, parts, shape in split]


_MORE: tuple[Callable[[_Name], Hashable], ...] = (
    lambda name: (name.numbers, name.parts[0]),
    lambda name: name.numbers,
    lambda name: None,
)
"""What two names shall have in common beside their ends, the most first."""


def _alone_together(unexpected: Kinds, missing: Kinds) -> dict[str, str]:
    """Pair those that agree in shape and in as many last parts as can be, while no third does."""
    left, free = _read(unexpected), _read(missing)
    found: dict[str, str] = {}

    def pair(rows: dict[Hashable, list[str]], columns: dict[Hashable, list[str]]) -> None:
        for key, names in rows.items():
            places = columns.get(key, [])
            if len(names) == len(places) == 1:
                found[names[0]] = places[0]

    for n_parts in range(_MAX_DEPTH, 0, -1):
        for more in _MORE:
            pair(_grouped(left, n_parts, more), _grouped(free, n_parts, more))
            taken = set(found.values())
            left, free = (
                [one for one in left if one.whole not in found],
                [one for one in free if one.whole not in taken],
            )
    pair(_grouped_by_parent(left), _grouped_by_parent(free))
    return found


def _grouped(names: list[_Name], n_parts: int, more: Callable[[_Name], Hashable]) -> dict[Hashable, list[str]]:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        if len(name.parts) >= n_parts:
            groups[name.parts[-n_parts:], name.shape, more(name)].append(name.whole)
    return groups


def _grouped_by_parent(names: list[_Name]) -> dict[Hashable, list[str]]:
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for name in names:
        groups[name.parts[:-1], name.shape].append(name.whole)
    return groups


def _paths(name: str, place: str) -> Paths:
    """Return what stands before the parts in which two names end alike."""
    old, new = name.split("."), place.split(".")
    while len(old) > 1 and len(new) > 1 and old[-1] == new[-1]:
        old, new = old[:-1], new[:-1]
    return ".".join(old), ".".join(new)


def _n_below(names: Iterable[str]) -> Counter[str]:
    """Count the names that are, or begin with, each path."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:n_parts]) for n_parts in range(1, min(len(parts), _MAX_DEPTH) + 1))
    return counts


def rules_for(pairs: dict[str, str], file: Sequence[str]) -> dict[str, str]:
    """Write pairs as few rules of `rename`, with numbers of layers in groups, that match nothing else in the file."""
    rules: dict[str, str] = {}
    by_paths: dict[Paths, set[str]] = defaultdict(set)
    for name, place in pairs.items():
        by_paths[_paths(name, place)].add(name)
    general: dict[Paths, dict[Paths, set[str]]] = defaultdict(dict)
    for paths, names in by_paths.items():
        general[_generalised(paths, names)][paths] = names
    for (pattern, template), members in general.items():
        meant = set().union(*members.values())
        if {name for name in file if re.search(pattern, name)} == meant:
            rules[pattern] = template
        else:
            rules |= {_specific(paths, names): _ending(paths[1], paths[0], names) for paths, names in members.items()}
    return rules


def _specific(paths: Paths, names: set[str]) -> str:
    return f"^{re.escape(paths[0])}$" if paths[0] in names else f"^{re.escape(paths[0])}\\."


def _ending(new: str, old: str, names: set[str]) -> str:
    plain = new.replace("\\", "\\\\")
    return plain if old in names else f"{plain}."


def _generalised(paths: Paths, names: set[str]) -> Paths:
    """Put the numbers that both paths have, in the same order, into groups."""
    old, new = (path.split(".") for path in paths)
    numbers = [part for part in old if part.isdecimal()]
    if not numbers or numbers != [part for part in new if part.isdecimal()]:
        return _specific(paths, names), _ending(paths[1], paths[0], names)
    pattern = r"\.".join(r"(\d+)" if part.isdecimal() else re.escape(part) for part in old)
    counted = iter(range(1, len(numbers) + 1))
    template = ".".join(f"\\{next(counted)}" if part.isdecimal() else part.replace("\\", "\\\\") for part in new)
    return (f"^{pattern}$", template) if paths[0] in names else (f"^{pattern}\\.", f"{template}.")
