"""All adaptations, and what the caller asks of them."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, cast

import torch

from perdure.errors import InputError
from perdure.weights.adapting.adaptation import Adaptation
from perdure.weights.adapting.channels import channels
from perdure.weights.adapting.head import head
from perdure.weights.adapting.pad import pad
from perdure.weights.adapting.reshape import reshape
from perdure.weights.adapting.resize import resize
from perdure.weights.adapting.skip import skip
from perdure.weights.adapting.truncate import truncate
from perdure.weights.adapting.vocabulary import vocabulary

ADAPTATIONS: tuple[Adaptation, ...] = (resize, head, channels, vocabulary, truncate, pad, reshape, skip)

Function = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]
"""The file's tensor, the model's, and the place's name; returns a tensor of the model's shape."""

Adapt = Mapping[str, Any]
"""Patterns of the model's names, and for each the name of an adaptation, a mapping with `how`, or a function."""


_WILD = re.compile(r"[*?[]")


class Wish(NamedTuple):
    """What the caller asked for the places that a pattern matches.

    Attributes:
        pattern: of names of the model.
        how: the adaptation, or the caller's own function.
        options: what the adaptation is given.
    """

    pattern: str
    how: Adaptation | Function
    options: dict[str, Any]


class Wishes:
    """All that the caller asked for; of several patterns that match a name the first counts.

    Raises:
        InputError: one is none.
    """

    def __init__(self, adapt: Adapt | None, old_labels: Any = None) -> None:
        if not isinstance(adapt, Mapping | None):
            raise InputError(f"loading: adapt must be a mapping from patterns of names, not {type(adapt).__name__}.")
        self._wishes = [_wish(pattern, value, old_labels) for pattern, value in (adapt or {}).items()]
        self._literal = {wish.pattern: at for at, wish in enumerate(self._wishes) if not _WILD.search(wish.pattern)}
        self._tests = {
            at: re.compile(fnmatch.translate(wish.pattern)).match
            for at, wish in enumerate(self._wishes)
            if wish.pattern not in self._literal
        }

    def __bool__(self) -> bool:
        return bool(self._wishes)

    def of(self, names: Iterable[str]) -> Wish | None:
        """Return what was asked for a place of these names."""
        names = list(names)
        exact = min((self._literal[name] for name in names if name in self._literal), default=len(self._wishes))
        earlier = (at for at, test in self._tests.items() if at < exact and any(map(test, names)))
        found = next(earlier, exact)
        return self._wishes[found] if found < len(self._wishes) else None

    def check(self, names: Iterable[str]) -> None:
        """See that each pattern matches one of the model's names.

        Raises:
            InputError: some do not; they are listed.
        """
        names, known = list(names), set(names)
        idle = [pattern for pattern in self._literal if pattern not in known]
        idle += [self._wishes[at].pattern for at, test in self._tests.items() if not any(map(test, names))]
        if idle:
            raise InputError(
                f"loading: no name of the model matches {', '.join(map(repr, idle))} of adapt. Its patterns are of the "
                f"model's names, such as {', '.join(map(repr, names[-2:]))}."
            )


def _wish(pattern: Any, value: Any, old_labels: Any) -> Wish:
    if not isinstance(pattern, str):
        raise InputError(f"loading: adapt has the key {pattern!r}, but patterns of names are text.")
    if callable(value):
        return Wish(pattern, cast(Function, value), {})
    given = dict(value) if isinstance(value, Mapping) else {"how": value}
    name = given.pop("how", None)
    known = {one.name: one for one in ADAPTATIONS}
    if not isinstance(name, str) or name not in known:
        raise InputError(
            f"loading: {name!r} for {pattern!r} of adapt is none of {', '.join(known)}, and no function. To set parameters "
            f"give a mapping: {{'how': 'resize', 'mode': 'bilinear'}}."
        )
    found = known[name]
    if given.get("labels") is not None and old_labels is not None:
        given.setdefault("old_labels", old_labels)
    options, reason = found.options(given)
    if reason:
        raise InputError(f"loading: for {pattern!r} of adapt, {reason}.")
    return Wish(pattern, found, options)
