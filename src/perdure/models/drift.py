"""Drift: what has changed in the code of a model since it was saved, told without running it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn

from perdure.models.fingerprints import attributes_read, sources_of
from perdure.records.architecture import Name
from perdure.records.sources import Sources, changed, unseen


class Drift(NamedTuple):
    """What has changed.

    Attributes:
        changed: the classes, functions and modules whose code is not what it was.
        absent: attributes that the changed code of a module reads and that the loaded module does not have, by place.
        unseen: those whose source is not at hand, now or when the model was saved.
    """

    changed: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()


def find_drift(saved: Sources, names: Iterable[Name], code: Iterable[Any], model: nn.Module) -> Drift:
    """Compare the code of a rebuilt model with the record of its sources."""
    pairs = list(zip(names, code, strict=True))
    present = sources_of(pairs, saved=saved)
    differing, hidden = changed(saved, present), unseen(saved, present)
    if not differing:
        return Drift(unseen=hidden)
    kinds = {value for name, value in pairs if str(name) in differing and isinstance(value, type)}
    absent = [
        f"{place}.{attribute}" if place else attribute
        for place, module in model.named_modules()
        if kinds & set(type(module).__mro__)
        for attribute in sorted(attributes_read(type(module)))
        if not hasattr(module, attribute)
    ]
    return Drift(differing, tuple(absent[:20]), hidden)
