"""Loading place by place: what fits is read into memory of its own, for which that of the model's tensors is exchanged."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from torch import nn

from perdure.errors import InputError
from perdure.weights.adapting.adaptation import Adaptation
from perdure.weights.dtypes import can_cast, is_plain, kind_of
from perdure.weights.incoming import Arrived, Incoming
from perdure.weights.matching import Match
from perdure.weights.placing import Placer, check_placed, move_rest, refuse_differing_ties, refuse_left_on_meta
from perdure.weights.plans import Plan
from perdure.weights.slots import ModelSlots, missing_counters

log = logging.getLogger("perdure")


def fill_places(
    model: nn.Module, slots: ModelSlots, incoming: Incoming, planned: Plan, device: torch.device | None
) -> Match:
    """Carry out a plan; the model is changed once nothing can fail any more."""
    found = planned.match
    counters = missing_counters(slots.modules, planned.offers, lambda: incoming.versions(planned.modules))
    filled = {twin for name in found.fitting for twin in slots.twins(name)}.union(counters)
    left = [name for name, tensor in slots.by_name.items() if tensor.is_meta and name not in filled]
    refuse_left_on_meta(left, incoming.where)
    volatile = volatile_on_meta(slots, incoming, planned)
    unused = _compare_volatile(slots, incoming, planned)
    tensors, sharing = _arrive(slots, incoming, planned)
    refuse_differing_ties(slots, tensors, incoming.where)
    tensors.update({name: torch.tensor(0, device="cpu") for name in counters if slots.by_name[name].is_meta})
    placer = Placer(slots.in_place | (slots.held - sharing), device)
    with torch.no_grad():
        placed = placer.fill(slots.by_name, tensors, sharing)
        placer.fill(slots.volatile, volatile, volatile.keys())
        if device is not None:
            move_rest(model, device)
    check_placed(slots.by_name, placed, incoming.where)
    _warn_of_new_ties(slots, sharing, incoming.where)
    return dataclasses.replace(found, unused=found.unused | unused)


def _arrive(slots: ModelSlots, incoming: Incoming, planned: Plan) -> Arrived:
    arrived = incoming.arrive({name: planned.offers[name].recipe for name in planned.match.fitting})
    for name in planned.match.fitting:
        if name in planned.wishes:
            arrived.tensors[name] = adapted(name, arrived.tensors[name], slots.by_name[name], planned)
            arrived.sharing.discard(name)
    return arrived


def adapted(name: str, tensor: torch.Tensor, own: torch.Tensor, planned: Plan) -> torch.Tensor:
    """Fit a tensor of the file to its place, as was planned.

    Raises:
        InputError: a function of the caller's gave something else than a tensor of the place's shape, or of a type that
            cannot become the place's.
    """
    wish = planned.wishes[name]
    with torch.no_grad():
        if isinstance(wish.how, Adaptation):
            made = wish.how.run(tensor, own.detach(), **wish.options)
        else:
            made = wish.how(tensor.clone(), own.detach().clone(), name)  # it may write to what others share
    if wrong := _wrong(made, own):
        dtype, shape = kind_of(own)
        raise InputError(
            f"loading: adapt's function for {name} gave {wrong}, not a tensor of shape {shape} that can become {dtype}."
        )
    dense = made.layout is torch.strided
    return made.detach().to("cpu", copy=True, memory_format=torch.contiguous_format if dense else torch.preserve_format)


def _wrong(made: Any, own: torch.Tensor) -> str:
    """Say what a place cannot be given about what a function made; nothing where it can."""
    if not isinstance(made, torch.Tensor):
        return type(made).__name__
    if made.is_meta or made.is_nested:
        return "a tensor on meta" if made.is_meta else "a nested tensor"
    dtype, wanted = kind_of(made)[0], kind_of(own)[0]
    if made.shape != own.shape or (dtype != wanted and not can_cast(dtype, wanted)):
        return f"a tensor of shape {tuple(made.shape)} and type {dtype}"
    return ""


def volatile_on_meta(slots: ModelSlots, incoming: Incoming, planned: Plan) -> dict[str, torch.Tensor]:
    """Return the content of those buffers on `meta` that are not persistent; the file must have it."""
    wanted = {name: buffer for name, buffer in slots.volatile.items() if buffer.is_meta}
    kept = incoming.volatile(planned.modules) if wanted else {}
    there = {name: planned.offers[name].recipe for name in planned.volatile if name in wanted and name not in kept}
    kept |= incoming.arrive(there).tensors if there else {}
    refuse_left_on_meta([name for name in wanted if name not in kept], incoming.where)
    return {name: kept[name] for name in wanted}


def _compare_volatile(slots: ModelSlots, incoming: Incoming, planned: Plan) -> dict[str, str]:
    """Say which buffers of the file that the model does not take from it are not what it made itself."""
    real = {name: slots.volatile[name] for name in planned.volatile if not slots.volatile[name].is_meta}
    alike = {
        name: planned.offers[name].recipe
        for name, buffer in real.items()
        if planned.offers[name].kind[1] == tuple(buffer.shape) and is_plain(planned.offers[name].kind[0])
    }
    tensors = incoming.arrive(alike).tensors if alike else {}
    same = {name for name, tensor in tensors.items() if _are_equal(tensor, real[name])}
    text = "not persistent in the model, whose own value differs from the file's"
    return {planned.own_name(name): text for name in real if name not in same}


def _are_equal(tensor: torch.Tensor, own: torch.Tensor) -> bool:
    try:
        return torch.equal(tensor.to(own.dtype), own.detach().cpu())
    except RuntimeError:  # of a type that PyTorch cannot compare
        return False


def _warn_of_new_ties(slots: ModelSlots, sharing: set[str], where: str) -> None:
    """Say where the file made two parameters share memory that are two to an optimizer."""
    together: dict[int, list[str]] = {}
    for name in sorted(sharing):
        if slots.by_name[name].requires_grad:
            together.setdefault(slots.by_name[name].data_ptr(), []).append(name)
    for names in together.values():
        if len({id(slots.by_name[name]) for name in names}) > 1:
            log.warning(
                "%s: %s were one tensor when they were saved, and share memory now, but are %d parameters of this model. "
                "Make them one before you train it, or an optimizer moves them twice at each step.",
                where,
                " and ".join(map(repr, names)),
                len(names),
            )
