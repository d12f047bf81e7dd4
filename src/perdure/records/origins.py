"""Where loaded models came from, kept beside them for as long as they live. A model is any object here."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

from perdure.records.proof import Proof
from perdure.records.reports import Info


class Origin(NamedTuple):
    """The file that a model was loaded from: what `info(model)` tells, and what a save takes over.

    Attributes:
        info: what the file is, and in which form the model came.
        digest: the file's root digest.
        labels: what the model tells apart.
        proof: the file's proof, whose input is the example of a later save.
        kept: the tensors of that input which the file keeps, by name.
    """

    info: Info
    digest: str
    labels: Any
    proof: Proof | None
    kept: Mapping[str, Any]


_origins: dict[int, tuple[weakref.ref[Any], Origin]] = {}
"""By the `id` of a model, which may be equal to another; an entry goes when its model does."""


def origin_of(model: object) -> Origin | None:
    """Return where a model came from; None where perdure did not load it."""
    known, origin = _origins.get(id(model), (None, None))
    return origin if known is not None and known() is model else None


def remember(model: object, origin: Origin) -> None:
    """Note where a model came from."""
    number = id(model)
    _origins[number] = weakref.ref(model, lambda _: _origins.pop(number, None)), origin
