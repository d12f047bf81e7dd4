"""Names of tensors for people: runs of numbered layers folded into one line, and nothing that drives a terminal."""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Hashable, Iterable, Iterator

_NUMBER = re.compile(r"(?:(?<=\.)|^)(?:0|[1-9]\d{0,8})(?=\.)")
SENSIBLE_LENGTH = 500
"""Characters of a name beyond which nobody looks for sense in it: a file may hold any."""
_MAX_NUMBERS = 32


def fold(names: Iterable[str]) -> list[str]:
    """Fold names that differ in one layer number: `layers.0.w`, `layers.1.w` become `layers.{0..1}.w`.

    The first number of a name that takes more than one value among the others is folded; the order of first appearance
    is kept.
    """
    names = list(dict.fromkeys(names))
    first: dict[int, str] = {}
    varying: set[int] = set()
    for pattern, number in (pair for name in names for pair in _patterns(name)):
        if first.setdefault(hash(pattern), number) != number:
            varying.add(hash(pattern))
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        pattern, number = next((pair for pair in _patterns(name) if hash(pair[0]) in varying), ((name,), None))
        groups.setdefault(pattern, []).extend([] if number is None else [number])
    return [ranges(numbers).join(pattern) for pattern, numbers in groups.items()]


def _patterns(name: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Give what stands before and behind each number of a name, and that number; nothing for a name beyond all sense."""
    if len(name) <= SENSIBLE_LENGTH:
        for match in itertools.islice(_NUMBER.finditer(name), _MAX_NUMBERS):
            yield (name[: match.start()], name[match.end() :]), match[0]


def changed_part(name: str, new: str) -> tuple[str, str]:
    """Return what two names differ in, with a star for what they have in common: `module.*` and `*`."""
    old_parts, new_parts = name.split("."), new.split(".")
    start = end = 0
    shorter = min(len(old_parts), len(new_parts))
    while start < shorter and old_parts[start] == new_parts[start]:
        start += 1
    while end < shorter - start and old_parts[-1 - end] == new_parts[-1 - end]:
        end += 1

    def starred(parts: list[str]) -> str:
        inner = parts[start : len(parts) - end]
        return ".".join([*(["*"] if start else []), *inner, *(["*"] if end else [])])

    return starred(old_parts), starred(new_parts)


def ranges(texts: list[str]) -> str:
    """Write 0, 1, 2, 5 as `{0..2,5}`, 00, 01, 02 as `{00..02}`, and a single number as it is."""
    width = len(texts[0]) if texts and any(text.startswith("0") and len(text) > 1 for text in texts) else 0
    numbers = [int(text) for text in texts]
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    if len(runs) == 1 and runs[0][0] == runs[0][1]:
        return f"{runs[0][0]:0{width}}"
    return "{" + ",".join(f"{a:0{width}}" if a == b else f"{a:0{width}}..{b:0{width}}" for a, b in runs) + "}"


def neighbours_alike(levels: Iterable[tuple[str, Hashable]]) -> list[list[int]]:
    """Group neighbouring levels of a tree that look the same and are numbered alike, `0` and `1` or `layer_0` and `layer_1`.

    Args:
        levels: the name of each, and what makes two look the same; None for one that is to stand alone.

    Returns:
        The places of each group.
    """
    levels = list(levels)
    groups: list[list[int]] = []
    before: tuple[str, str, Hashable] = ("", "", None)
    for place, (name, form) in enumerate(levels):
        text, number = _split(name)
        if number and form is not None and (text, form) == (before[0], before[2]) and _written_alike(before[1], number):
            groups[-1].append(place)
        else:
            groups.append([place])
            before = (text, number, form if number else None)
    names = [name for name, _ in levels]
    return [part for group in groups for part in ([[place] for place in group] if _is_pair(names, group) else [group])]


def _is_pair(names: list[str], places: list[int]) -> bool:
    """Tell two with names of their own, such as `norm1` and `norm2`, which are known by them, from layers of a list."""
    return len(places) == 2 and not names[places[0]].isdigit()


def numbered(names: list[str]) -> str:
    """Write numbered names as one: `layer_{0..11}`; a single one as it is."""
    return _split(names[0])[0] + ranges([_split(name)[1] for name in names]) if len(names) > 1 else names[0]


def _split(name: str) -> tuple[str, str]:
    """Split a name into its text and the number at its end; the latter is empty where there is none."""
    match = _NUMBER_AT_END.search(name[-_LONGEST_NUMBER - 1 :])
    at = (
        len(name) - len(match[0])
        if match and len(name) <= SENSIBLE_LENGTH and len(match[0]) <= _LONGEST_NUMBER
        else len(name)
    )
    return name[:at], name[at:]


_NUMBER_AT_END = re.compile(r"[0-9]+\Z")
_LONGEST_NUMBER = 9


def _written_alike(first: str, name: str) -> bool:
    """Tell whether two numbers are written alike: both without zeros before them, or equally long."""
    return len(first) == len(name) or not ((first.startswith("0") and first != "0") or name.startswith("0"))


def printable(text: str, limit: int | None = 200) -> str:
    """Return text of a file without control characters, so that it cannot drive the terminal; cut at `limit`."""
    shown = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    if shown.isprintable():
        return shown
    return "".join(f"\\x{ord(letter):02x}" if _drives(letter) else letter for letter in shown)


def _drives(letter: str) -> bool:
    """Tell whether a letter is more than a mark on the screen: a control, a change of direction, an end of a line."""
    category = unicodedata.category(letter)
    return category[0] == "C" or category in ("Zl", "Zp")


def human_bytes(n_bytes: int) -> str:
    """Write a number of bytes for people, in powers of 1024: `1.5 GiB`."""
    size = float(n_bytes)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{n_bytes} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
