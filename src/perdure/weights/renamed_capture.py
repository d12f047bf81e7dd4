"""What a save takes, under other names: those that rules of `rename` read back."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from perdure.weights.capture import Captured
from perdure.weights.dtypes import kind_of
from perdure.weights.nested import names_in
from perdure.weights.plans import moved, moved_tensor, renamed_modules
from perdure.weights.recipes import Taken, make, sources_of
from perdure.weights.reversal import file_offers


def under_other_names(captured: Captured, rename: Mapping[Any, Any]) -> Captured:
    """Give what was captured the names, and the tensors the form, that rules expect in a file.

    Raises:
        InputError: the rules cannot be turned round.
    """
    inner = {name for value in captured.extra_state.values() for name in names_in(value)}
    kinds = {name: kind_of(tensor) for name, tensor in captured.tensors.items() if name not in inner}
    offers = file_offers(kinds, rename)
    modules = renamed_modules(offers)
    tensors = {
        name: captured.tensors[offer.recipe.name]
        if isinstance(offer.recipe, Taken)
        else make(offer.recipe, lambda source: captured.tensors[source].detach()).contiguous()
        for name, offer in offers.items()
    }
    tensors |= {name: captured.tensors[name] for name in inner}
    firsts = {name: sources_of(offer.recipe)[0] for name, offer in offers.items()}
    training = captured.training
    return dataclasses.replace(
        captured,
        tensors=tensors,
        roles={name: captured.roles[first] for name, first in firsts.items() if first in captured.roles},
        versions=tuple(
            msgspec.structs.replace(group, modules=tuple(moved(module, modules) for module in group.modules))
            for group in captured.versions
        ),
        extra_state={moved_tensor(name, modules): value for name, value in captured.extra_state.items()},
        training=tuple(moved(name, modules) for name in training) if isinstance(training, tuple) else training,
        volatile={moved_tensor(name, modules): buffer for name, buffer in captured.volatile.items()},
    )
