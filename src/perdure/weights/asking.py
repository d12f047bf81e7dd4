"""Loading models that load themselves: they are given a state dict, and what they say about it becomes a match."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from perdure.weights.dtypes import is_plain, kind_of
from perdure.weights.filling import adapted, volatile_on_meta
from perdure.weights.incoming import Incoming
from perdure.weights.load_reports import shaped
from perdure.weights.matching import Match, shown
from perdure.weights.own_loading import Said, load_own_way, put_back_on_failure
from perdure.weights.placing import exchange, move_rest, refuse_left_on_meta, refuse_on_meta, same_bits
from perdure.weights.plans import Plan
from perdure.weights.slots import PLAIN_TYPES, ModelSlots, find_slots


def ask_model(
    model: nn.Module, slots: ModelSlots, incoming: Incoming, planned: Plan, device: torch.device | None, refuse: Any
) -> Match:
    """Let a model load itself from what was read and verified; it is put back as it was where that does not succeed.

    Args:
        model: the model.
        slots: its places.
        incoming: the tensors of the file.
        planned: what they are called and made into before the model sees them.
        device: where everything shall be.
        refuse: `refuse(found, errors)` raises where that is no success.
    """
    state = incoming.state_dict(planned)
    places = shaped(slots.by_name)
    for name in planned.match.adapted.keys() & planned.wishes.keys() & places.keys():
        state[name] = adapted(name, state[name], places[name], planned)
    given = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
    kinds = {name: kind_of(value) for name, value in given.items()}
    on_meta = {name for name, tensor in slots.by_name.items() if tensor.is_meta}
    volatile = volatile_on_meta(slots, incoming, planned)
    with put_back_on_failure(slots.modules, device):
        said = load_own_way(model, state)
        found = _match_said(said, kinds, planned, slots)
        found = dataclasses.replace(
            found, adapted=_changed(found, given, said, find_slots(slots.modules)) | found.adapted
        )
        refuse(found, said.errors)
        refuse_left_on_meta(sorted(on_meta & {*found.missing, *found.mismatched, *found.kept}), incoming.where)
        with torch.no_grad():
            for name, tensor in volatile.items():
                exchange(slots.volatile[name], tensor.to(slots.volatile[name].dtype))
            if device is not None:
                move_rest(model, device)
        refuse_on_meta(model, incoming.where)
    return found


def _changed(found: Match, given: dict[str, torch.Tensor], said: Said, slots: ModelSlots) -> dict[str, str]:
    """Return the places for which the model made values itself, from the file's or without them.

    Of a model that was asked as a whole, which may have other names for all its places, nothing is known.
    """
    if not said.by_modules:
        return {}
    fitting = set(found.fitting)
    origins = {said.renamed.get(name, name): name for name in given if name not in said.unexpected}
    there = [name for name in found.fitting if name in slots.by_name]
    changed = [name for name in there if _differ(given[origins[name]], slots.by_name[name])]
    others = (
        (found.filled or frozenset()) - {twin for name in fitting for twin in slots.twins(name)} - slots.views.keys()
    )
    return dict.fromkeys(changed, "changed by the model") | dict.fromkeys(sorted(others), "made by the model")


def _differ(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    """Tell whether a dense place holds something else than the tensor that it was given."""
    if not all(type(one) in PLAIN_TYPES and is_plain(kind_of(one)[0]) for one in (tensor, own)) or own.is_meta:
        return False
    return tensor.shape != own.shape or not same_bits(own.detach(), tensor.to(own))


def _match_said(said: Said, kinds: dict[str, Any], planned: Plan, slots: ModelSlots) -> Match:
    """Put what a model said into the form of a match."""
    planned_match = planned.match
    forgiven = {*planned_match.kept, *slots.implied({said.renamed.get(name, name) for name in kinds} - said.unfilled)}
    unused = {name for name in planned.offers if planned.own_name(name) in planned_match.unused}
    lost = {*said.missing, *said.unexpected, *said.mismatched}
    places = {name: said.renamed.get(name, name) for name in kinds if name not in lost}
    placed = {name: place for name, place in places.items() if place in slots.by_name}
    own_places = shaped(slots.by_name)
    casts = {
        place: (kinds[name][0], kind_of(own_places[place])[0]) for name, place in placed.items() if place in own_places
    }
    renamed = planned_match.renamed | {
        planned.own_name(name): place for name, place in said.renamed.items() if planned.own_name(name) != place
    }
    return dataclasses.replace(
        planned_match,
        fitting=tuple(placed.values()),
        missing=tuple(name for name in dict.fromkeys(said.missing) if name not in forgiven),
        unexpected=tuple(planned.own_name(name) for name in dict.fromkeys(said.unexpected) if name not in unused),
        mismatched={
            name: shown(kinds[name], kind_of(slots.by_name[name]))
            for name in said.mismatched
            if name in kinds and name in slots.by_name
        },
        renamed=renamed,
        filled=frozenset(slots.by_name) - said.unfilled,
        casts={name: pair for name, pair in casts.items() if pair[0] != pair[1]},
    )
