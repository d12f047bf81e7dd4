"""What is said where a peer has a word that the record lacks, or the other way round; and numbers as peers keep them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, NoReturn, cast

from perdure.errors import InputError
from perdure.records.preprocessing import Decode, Filter, PreprocessSpec, Size, from_plain, to_plain

PILLOW_FILTERS: tuple[Filter, ...] = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters, each at the number that Pillow gives it."""

MODES: dict[int, Literal["RGB", "RGBA", "L"]] = {1: "L", 3: "RGB", 4: "RGBA"}
"""The mode of an image by its number of channels."""

_SHOWN = 120


def shown(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def refuse(peer: str, name: str, value: object, why: str) -> NoReturn:
    """Say what of a peer cannot be carried over."""
    raise InputError(f"reading preprocessing of {peer}: {name} is {shown(value)}; {why}.")


def keep_to(peer: str, fields: Iterable[tuple[str, object, object]]) -> None:
    """See that each field has the one value that a peer can say.

    Raises:
        InputError: one has another; the message names it.
    """
    for name, found, needed in fields:
        if found != needed:
            raise InputError(
                f"writing preprocessing for {peer}: {name} is {shown(found)}, for which {peer} has no word. "
                f"It can be written with {needed!r}."
            )


def keep_to_decoding(peer: str, decode: Decode, allowed: Iterable[Decode]) -> None:
    """See that images come as a peer takes them: it is given decoded images, and turns none.

    Raises:
        InputError: they do not.
    """
    choices = list(allowed)
    if decode not in choices:
        raise InputError(
            f"writing preprocessing for {peer}: decode is {decode}, for which {peer} has no word: it is given decoded "
            f"images. It can be written with {' or '.join(str(choice) for choice in choices)}."
        )


def sized(peer: str, name: str, value: Any) -> Size:
    """Return height and width from a side, or from one or two of them."""
    sides = [value] if isinstance(value, int) else value
    try:
        sides = [int(side) for side in sides]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2):
        refuse(peer, name, value, "expected a side or two in pixels")
    return sides[0], sides[-1]


def numbers(peer: str, name: str, value: Any, n_channels: int = 1) -> tuple[float, ...]:
    """Return one number for each channel; those of a tensor of float32 in the fewest digits that give it again."""
    import numpy as np

    array = np.empty(0)
    try:
        array = np.asarray(value)
        values = [float(str(number)) for number in array.reshape(-1)]
    except (TypeError, ValueError):
        values = []
    if not values or not all(map(math.isfinite, values)):
        refuse(peer, name, value, "expected a finite number for each channel")
    return tuple(values) * (n_channels if array.ndim == 0 else 1)


def filtered(peer: str, name: str, value: Any) -> Filter:
    """Return the filter of a name or of Pillow's number."""
    known = PILLOW_FILTERS
    if isinstance(value, int) and 0 <= value < len(known):
        return known[value]
    if value in known:
        return cast(Filter, value)
    refuse(peer, name, value, f"expected one of {', '.join(known)}")


def whole(peer: str, spec: PreprocessSpec) -> PreprocessSpec:
    """Return a pipeline that was put together from a peer's words, checked.

    Raises:
        InputError: it cannot be; the message names the field.
    """
    return from_plain(to_plain(spec), f"preprocessing of {peer}")
