"""Names of tensors for people: runs of numbered layers folded into one line."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"(?:(?<=\.)|^)(?:0|[1-9]\d{0,8})(?=\.)")


def fold(names: Iterable[str]) -> list[str]:
    """Fold names that differ in one layer number: `layers.0.w`, `layers.1.w` become `layers.{0..1}.w`.

    The first number of a name that takes more than one value among the others is folded; the order of first appearance
    is kept.
    """
    names = list(dict.fromkeys(names))
    patterns = {name: _patterns(name) for name in names}
    values: dict[tuple[str, str], set[int]] = {}
    for found in patterns.values():
        for pattern, number in found:
            values.setdefault(pattern, set()).add(number)
    groups: dict[tuple[str, ...], list[int]] = {}
    for name in names:
        pattern, number = next((pair for pair in patterns[name] if len(values[pair[0]]) > 1), ((name,), None))
        groups.setdefault(pattern, []).extend([] if number is None else [number])
    return [_ranges(numbers).join(pattern) for pattern, numbers in groups.items()]


def _patterns(name: str) -> list[tuple[tuple[str, str], int]]:
    """Return what stands before and behind each number of a name, and that number."""
    return [((name[: match.start()], name[match.end() :]), int(match[0])) for match in _NUMBER.finditer(name)]


def _ranges(numbers: list[int]) -> str:
    """Write [0, 1, 2, 5] as `{0..2,5}`, and a single number as it is."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(runs) == 1 and runs[0][0] == runs[0][1]:
        return str(runs[0][0])
    return "{" + ",".join(str(a) if a == b else f"{a}..{b}" for a, b in runs) + "}"


def human_bytes(n_bytes: int) -> str:
    """Write a number of bytes for people, in powers of 1024: `1.5 GiB`."""
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{n_bytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
