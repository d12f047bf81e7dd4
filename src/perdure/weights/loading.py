"""`load_weights`: the tensors of a file go into a model, all that fit, verified, and no other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from perdure.disk.stored import StoredTensors
from perdure.errors import DigestError, InputError
from perdure.foreign.opening import with_any
from perdure.records.reports import LoadReport
from perdure.weights.dtypes import can_cast, kind_of
from perdure.weights.incoming import Incoming
from perdure.weights.load_reports import report_of, shaped
from perdure.weights.matching import Kinds, Match, match, mismatch_error, shown
from perdure.weights.opening import Origin, prefix_start
from perdure.weights.own_loading import Said, load_own_way, loads_its_own_way, put_back_on_failure
from perdure.weights.placing import (
    Placer,
    check_placed,
    exchange,
    move_rest,
    refuse_differing_ties,
    refuse_left_on_meta,
    refuse_on_meta,
)
from perdure.weights.slots import ModelSlots, Modules, find_slots, missing_counters, modules_of

log = logging.getLogger("perdure")
_SHOWN_DIFFERENCES = 8

Mode = Literal["eval", "train", "saved"] | None
Verify = Literal["checksum", "full", False]
Device = torch.device | None


def load_weights(
    model: nn.Module,
    path: Origin,
    *,
    prefix: str | None = None,
    strict: bool = True,
    mode: Mode = "eval",
    device: torch.device | str | int | None = None,
    verify: Verify = "checksum",
    digest: str | None = None,
) -> LoadReport:
    """Load the weights of a file into a model.

    The Parameter and buffer objects of the model stay the same, so an optimizer made earlier goes on training them; what
    was tied when it was saved shares memory again. Types and devices of the model are kept, unless `device` says
    otherwise. A model built on `meta` becomes real. Unless the load succeeds, the model is left as it was.

    A model with hooks, loaders or extra states of its own, or with tensors of its own types, loads itself as with
    `load_state_dict`, by copying, which takes up to three times its size in memory meanwhile.

    Args:
        model: the model.
        path: a `.safetensors` file of any writer, a folder of shards, bytes, or a seekable binary file.
        prefix: take only the tensors whose names begin with it and a dot, without that beginning.
        strict: missing, unexpected and mismatched names are an error; with False what fits is loaded, the rest reported.
        mode: `"eval"`, `"train"`, `"saved"` (each module as it was when saved), or None to leave the model's.
        device: where the model shall be afterwards.
        verify: `"checksum"` compares XXH3-128, `"full"` BLAKE3 as well, False neither; then a header that does not match
            its digest is read as plain weights too.
        digest: the root digest that the file must have (from `SaveReport.digest`); BLAKE3 is then verified as well.

    Returns:
        A report of what was loaded, cast and tied, and of what the file does not say.

    Raises:
        MismatchError: the file does not fit the model; one error lists all three kinds of difference.
        DigestError: the file's bytes are not those that were saved; the message names the tensor.
        CorruptError, ProtocolError, StorageError: as `open`.

    Example:
        >>> print(perdure.load_weights(model, "weights.safetensors"))
    """
    _check_arguments(model, mode, verify)
    where_to = None if device is None else usable_device(device)
    checked: Verify = "full" if digest is not None else verify

    def use(stored: StoredTensors) -> LoadReport:
        check_pinned(stored, digest)
        _check_mode(stored, mode)
        _warn_unsealed(stored)
        modules = modules_of(model)
        slots = find_slots(modules)
        incoming = Incoming(stored, prefix, checked)
        load = _load_own_way if loads_its_own_way(model, modules) else _load_fast
        with torch.inference_mode(False):  # parameters made in inference mode could never be trained
            found = load(model, slots, incoming, strict, where_to)
        _set_mode(model, modules, stored, prefix, mode)
        report = report_of(find_slots(modules) if load is _load_own_way else slots, incoming, found)
        log_differences(stored.where, report.differences)
        return report

    return with_any(path, use, sealed=verify is not False)


def log_differences(where: str, differences: Sequence[str]) -> None:
    """Say in one line how the environment of a save differs from this one."""
    if differences:
        more = len(differences) - _SHOWN_DIFFERENCES
        shown = "; ".join(differences[:_SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        log.warning("%s was saved with %s.", where, shown)


def _check_arguments(model: object, mode: object, verify: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"loading: a module was expected, not {type(model).__name__}.")
    if mode not in ("eval", "train", "saved", None):
        raise InputError(f"loading: mode must be 'eval', 'train', 'saved' or None, not {mode!r}.")
    if verify is not False and verify not in ("checksum", "full"):
        raise InputError(f"loading: verify must be 'checksum', 'full' or False, not {verify!r}.")


def usable_device(device: torch.device | str | int) -> torch.device:
    """Return a device that tensors can be moved to.

    Raises:
        InputError: it is none, or none of this machine.
    """
    try:
        found = torch.device(device)
        if found.type == "meta":
            raise InputError("loading: on the device 'meta' tensors have no values. Name another device.")
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ValueError) as error:
        raise InputError(
            f"loading: {device!r} is no device of this machine ({str(error).splitlines()[0][:200]})."
        ) from None
    return torch.empty(0, device=found).device if found.type != "cpu" and found.index is None else found


def check_pinned(stored: StoredTensors, digest: str | None) -> None:
    """See that a file is the one whose root digest the caller knows.

    Raises:
        DigestError: it is another.
    """
    if digest is not None and stored.digest != digest:
        found = f"its digest is {stored.digest}" if stored.digest else "it has no digest of perdure's"
        raise DigestError(
            f"loading {stored.where}: the digest {digest} was asked for, but {found}. It is another file."
        )


def _check_mode(stored: StoredTensors, mode: Mode) -> None:
    if mode == "saved" and (stored.manifest is None or stored.manifest.training is None):
        raise InputError(
            f"loading {stored.where}: it does not say which modules were in train mode. Give another mode."
        )


def _warn_unsealed(stored: StoredTensors) -> None:
    if stored.manifest is None and any(key.startswith("perdure") for key in stored.metadata):
        log.warning(
            "%s: the header does not match its digest; it is read as plain weights, without ties.", stored.where
        )


def _load_fast(model: nn.Module, slots: ModelSlots, incoming: Incoming, strict: bool, where_to: Device) -> Match:
    """Read what fits into memory of its own, and exchange the memory of the model's tensors for it."""
    counters = missing_counters(slots.modules, incoming.kinds, incoming.versions)
    kinds = {name: kind_of(tensor) for name, tensor in slots.by_name.items()}
    found = _match(slots, kinds, incoming, counters)
    if strict and not found.complete:
        raise mismatch_error(found, incoming.kinds, kinds, incoming.where)
    filled = {twin for name in found.fitting for twin in slots.twins(name)}.union(counters)
    left = [name for name, tensor in slots.by_name.items() if tensor.is_meta and name not in filled]
    refuse_left_on_meta(left, incoming.where)
    volatile = _volatile_on_meta(slots, incoming)
    tensors, sharing = incoming.read(found.fitting)
    refuse_differing_ties(slots, tensors, incoming.where)
    tensors.update({name: torch.tensor(0, device="cpu") for name in counters if slots.by_name[name].is_meta})
    placer = Placer(slots.in_place | (slots.held - sharing), where_to)
    with torch.no_grad():
        placed = placer.fill(slots.by_name, tensors, sharing)
        placer.fill(slots.volatile, volatile, volatile.keys())
        if where_to is not None:
            move_rest(model, where_to)
    check_placed(slots.by_name, placed, incoming.where)
    _warn_of_new_ties(slots, sharing, incoming.where)
    return found


def _load_own_way(model: nn.Module, slots: ModelSlots, incoming: Incoming, strict: bool, where_to: Device) -> Match:
    """Let a model load itself from what was read and verified; it is put back as it was where that does not succeed."""
    state = incoming.state_dict()
    on_meta = {name for name, tensor in slots.by_name.items() if tensor.is_meta}
    volatile = _volatile_on_meta(slots, incoming)
    with put_back_on_failure(slots.modules, where_to):
        said = load_own_way(model, state)
        found = _match_said(said, incoming, slots)
        if said.errors or (strict and not found.complete):
            kinds = {name: kind_of(tensor) for name, tensor in shaped(slots.by_name).items()}
            raise mismatch_error(found, incoming.kinds, kinds, incoming.where, said.errors)
        refuse_left_on_meta(sorted(on_meta & {*found.missing, *found.mismatched}), incoming.where)
        with torch.no_grad():
            for name, tensor in volatile.items():
                exchange(slots.volatile[name], tensor.to(slots.volatile[name].dtype))
            if where_to is not None:
                move_rest(model, where_to)
        refuse_on_meta(model, incoming.where)
    return found


def _match_said(said: Said, incoming: Incoming, slots: ModelSlots) -> Match:
    """Put what a model said into the form of a match."""
    lost = {*said.missing, *said.unexpected, *said.mismatched}
    renamed = said.renamed
    return Match(
        fitting=tuple(name for name in incoming.kinds if name not in lost and renamed.get(name, name) in slots.by_name),
        missing=tuple(dict.fromkeys(said.missing)),
        unexpected=tuple(dict.fromkeys(said.unexpected)),
        mismatched={
            name: shown(incoming.kinds[name], kind_of(slots.by_name[name]))
            for name in said.mismatched
            if name in incoming.kinds and name in slots.by_name
        },
        renamed=renamed,
        filled=frozenset(slots.by_name) - said.unfilled,
        casts=_casts(incoming.kinds, shaped(slots.by_name), renamed),
    )


def _casts(file: Kinds, places: dict[str, torch.Tensor], renamed: dict[str, str]) -> dict[str, tuple[str, str]]:
    pairs = {name: (kind[0], places.get(renamed.get(name, name))) for name, kind in file.items()}
    kinds = {name: (there, kind_of(place)[0]) for name, (there, place) in pairs.items() if place is not None}
    return {name: pair for name, pair in kinds.items() if pair[0] != pair[1]}


def _match(slots: ModelSlots, kinds: Kinds, incoming: Incoming, counters: list[str]) -> Match:
    """Match the file against the model; what shares the memory of something that the file has need not be in it."""
    extras = incoming.extra_keys()
    file = {name: kind for name, kind in incoming.kinds.items() if name not in extras} if extras else incoming.kinds
    implied = {
        twin for name in slots.same for twin in slots.twins(name) if not file.keys().isdisjoint(slots.twins(name))
    }
    implied |= {name for name, view in slots.views.items() if not file.keys().isdisjoint(slots.twins(view.of))}
    found = match(file, kinds, implied=implied | set(counters), can_cast=can_cast)
    return dataclasses.replace(found, unexpected=found.unexpected + tuple(sorted(extras)))


def _volatile_on_meta(slots: ModelSlots, incoming: Incoming) -> dict[str, torch.Tensor]:
    """Return the content of those buffers on `meta` that are not persistent; the file must have it."""
    wanted = {name: buffer for name, buffer in slots.volatile.items() if buffer.is_meta}
    kept = incoming.volatile() if wanted else {}
    refuse_left_on_meta([name for name in wanted if name not in kept], incoming.where)
    return {name: kept[name] for name in wanted}


def _is_plain(kind: type[nn.Module]) -> bool:
    """Tell whether a class of modules keeps its mode as nn.Module does; one of TorchScript, say, does not."""
    own_mode = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
    return not own_mode and kind.__setattr__ is nn.Module.__setattr__


def _set_mode(model: nn.Module, modules: Modules, stored: StoredTensors, prefix: str | None, mode: Mode) -> None:
    plain = all(_is_plain(type(module)) for _, module in modules)
    if mode in ("eval", "train"):
        if not plain:
            model.train() if mode == "train" else model.eval()
            return
        for _, module in modules:  # past the checks of Module.__setattr__, which cost more than all the rest
            vars(module)["training"] = mode == "train"
    elif mode == "saved" and stored.manifest:
        training = stored.manifest.training
        start = prefix_start(prefix)
        for name, module in model.named_modules():  # those that hold others come first
            module.train(training if isinstance(training, bool) else (start + name).rstrip(".") in (training or ()))


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
