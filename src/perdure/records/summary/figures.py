"""Figures as people read them: three digits and a unit; shapes; what fits a width on the screen."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

from perdure.records.names import printable
from perdure.records.summary.summary import Shape

_MOST = 1000
_PREFIXES = ("", " K", " M", " G", " T", " P", " E")


def short(number: int) -> str:
    """Write a number with three digits and a prefix of powers of 1000: `1.81 G`; one below 1000 as it is."""
    size, power = float(number), 0
    while size >= 999.5 and power < len(_PREFIXES) - 1:
        size, power = size / 1000, power + 1
    if power == 0:
        return str(number)
    return f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f}{_PREFIXES[power]}"


def exact(number: int) -> str:
    """Write a number in full, in groups of three digits."""
    return f"{number:,}"


def both(number: int) -> str:
    """Write a number in full, and behind it short where that differs."""
    return f"{number:,}" if number < 10_000 else f"{number:,} ({short(number)})"


def duration(seconds: float) -> str:
    """Write a time with three digits: `2.31 ms`."""
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if seconds * factor >= 0.9995 or unit == "µs":
            size = seconds * factor
            return f"{size:.{2 if size < 9.995 else 1 if size < 99.95 else 0}f} {unit}"
    raise AssertionError("unreachable")


def shape_text(shape: Shape) -> str:
    """Write a shape as PyTorch does: `[1, 3, 224, 224]`."""
    return f"[{', '.join(map(str, shape))}]"


def cells(text: str) -> int:
    """Return how many columns of a terminal a text takes: two for a wide letter, none for one that is put over another."""
    return len(text) if text.isascii() else sum(map(_cells, text))


def _cells(letter: str) -> int:
    if unicodedata.category(letter) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def ends_of(text: str) -> str:
    """Return a name of a file without control characters; of one that no width has room for, its beginning and end."""
    return printable(text if len(text) <= 2 * _MOST else f"{text[:_MOST]}…{text[-_MOST:]}", None)


def shortened(text: str, width: int) -> str:
    """Return a text that takes no more than `width` columns, with its middle left out where it must be."""
    if cells(text) <= width:
        return text
    if width < 3:
        return "…"[:width]
    start = _beginning(text, width // 2)
    end = _beginning(text[::-1], width - 1 - cells(start))[::-1]
    return f"{start}…{end}"


def _beginning(text: Iterable[str], width: int) -> str:
    taken, left = [], width
    for letter in text:
        left -= _cells(letter)
        if left < 0:
            break
        taken.append(letter)
    return "".join(taken)


def wrapped(text: str, width: int) -> Iterator[str]:
    """Break a text of a file into lines of at most `width` columns, at spaces where that is possible."""
    line = ""
    for word in printable(text, 2000).split(" "):
        longer = f"{line} {word}" if line else word
        if cells(longer) <= width:
            line = longer
            continue
        if line:
            yield line
        while cells(word) > width:
            part = _beginning(word, width)
            yield part
            word = word[len(part) :]
        line = word
    if line:
        yield line
