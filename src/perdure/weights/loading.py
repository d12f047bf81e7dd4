"""`load_weights`: the tensors of a file go into a model, all that fit, verified, and no other."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn

from perdure.disk.stored import Stored
from perdure.disk.surroundings import surroundings
from perdure.errors import DigestError, InputError, MismatchError
from perdure.records.environment import differences
from perdure.records.reports import LoadReport
from perdure.weights.aliases import relate
from perdure.weights.dtypes import can_cast, kind_of
from perdure.weights.hooks import loads_itself, missing_counters, run_own_loaders, run_post_hooks
from perdure.weights.incoming import Incoming
from perdure.weights.matching import Kinds, Match, match, mismatch_error
from perdure.weights.opening import Origin, prefix_start
from perdure.weights.placing import (
    Placer,
    check_kept,
    check_placed,
    move_rest,
    refuse_differing_ties,
    refuse_left_on_meta,
)
from perdure.weights.slots import ModelSlots, find_slots

log = logging.getLogger("perdure")
_SHOWN_DIFFERENCES = 8

Mode = Literal["eval", "train", "saved"] | None
Verify = Literal["checksum", "full", False]


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

    Args:
        model: the model.
        path: a `.safetensors` file of any writer, a folder of shards, bytes, or a seekable binary file.
        prefix: take only the tensors whose names begin with it and a dot, without that beginning.
        strict: missing, unexpected and mismatched names are an error; with False what fits is loaded, the rest reported.
            Hooks that follow a load cannot forgive what is missing, since nothing has been loaded by then.
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
    stored = Stored(path, sealed=verify is not False)
    try:
        _check_pinned(stored, digest)
        _check_mode(stored, mode)
        _warn_unsealed(stored)
        verify = "full" if digest is not None else verify
        where_to = torch.device(device) if device is not None else None
        slots = find_slots(model)
        with torch.inference_mode(False):  # parameters made in inference mode could never be trained
            report = _load(model, slots, Incoming(stored, prefix, slots.modules, verify), strict, where_to, verify)
        _set_mode(model, slots, stored, prefix, mode)
    finally:
        stored.close()
    if report.differences:
        more = len(report.differences) - _SHOWN_DIFFERENCES
        shown = "; ".join(report.differences[:_SHOWN_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")
        log.warning("%s was saved with %s.", stored.where, shown)
    return report


def _check_arguments(model: object, mode: object, verify: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"loading: a module was expected, not {type(model).__name__}.")
    if mode not in ("eval", "train", "saved", None):
        raise InputError(f"loading: mode must be 'eval', 'train', 'saved' or None, not {mode!r}.")
    if verify is not False and verify not in ("checksum", "full"):
        raise InputError(f"loading: verify must be 'checksum', 'full' or False, not {verify!r}.")


def _check_pinned(stored: Stored, digest: str | None) -> None:
    if digest is not None and stored.digest != digest:
        found = f"its digest is {stored.digest}" if stored.digest else "it has no digest of perdure's"
        raise DigestError(
            f"loading {stored.where}: the digest {digest} was asked for, but {found}. It is another file."
        )


def _check_mode(stored: Stored, mode: Mode) -> None:
    if mode == "saved" and (stored.manifest is None or stored.manifest.training is None):
        raise InputError(
            f"loading {stored.where}: it does not say which modules were in train mode. Give another mode."
        )


def _warn_unsealed(stored: Stored) -> None:
    if stored.manifest is None and any(key.startswith("perdure") for key in stored.metadata):
        log.warning(
            "%s: the header does not match its digest; it is read as plain weights, without ties.", stored.where
        )


def _load(
    model: nn.Module, slots: ModelSlots, incoming: Incoming, strict: bool, device: torch.device | None, verify: Verify
) -> LoadReport:
    counters = missing_counters(slots.modules, incoming.kinds, incoming.versions)
    kinds = {name: kind_of(tensor) for name, tensor in slots.by_name.items()}
    found = _match(slots, kinds, incoming, counters)
    if strict and not found.complete:
        raise mismatch_error(found, incoming.kinds, kinds, incoming.where)
    volatile = _check_meta(slots, incoming, found, counters)
    tensors = incoming.read(found.fitting)
    refuse_differing_ties(slots, tensors, incoming.where)
    extras = {key: incoming.extra(key) for key in slots.extras.keys() & incoming.extra_keys()}
    own = loads_itself(slots.modules, slots.by_name)
    missing, unexpected = _run_own(slots, incoming, strict)
    found = dataclasses.replace(found, missing=found.missing + missing, unexpected=found.unexpected + unexpected)
    zeros = {name: torch.tensor(0, device="cpu") for name in counters if slots.by_name[name].is_meta}
    tensors.update(zeros)
    placer = Placer(slots.in_place, device)
    with torch.no_grad():
        placed = placer.fill(slots.by_name, tensors, incoming.sharing(found.fitting))
        placer.fill(slots.volatile, volatile, volatile.keys())
        if device is not None:
            move_rest(model, device)
    for key, value in extras.items():
        slots.extras[key].set_extra_state(value)
    kept = {name: tensor for name, tensor in slots.by_name.items() if name not in own} if own else slots.by_name
    check_placed(kept, placed, incoming.where)
    if own or extras:
        check_kept(model, kept, incoming.where)
    run_post_hooks(slots.modules, list(found.missing), list(found.unexpected))
    return _report(slots, kinds, incoming, found, verify)


def _match(slots: ModelSlots, kinds: Kinds, incoming: Incoming, counters: list[str]) -> Match:
    """Match the file against the model; extra states count as names, and what loads itself answers for itself."""
    file, extras = dict(incoming.kinds), incoming.extra_keys()
    own = loads_itself(slots.modules, [*slots.by_name, *file])
    implied = {
        twin for name in slots.same for twin in slots.twins(name) if not file.keys().isdisjoint(slots.twins(name))
    }
    implied |= {name for name, view in slots.views.items() if not file.keys().isdisjoint(slots.twins(view.of))}
    for key in extras:
        file.pop(key, None)
    found = match(
        {name: kind for name, kind in file.items() if name not in own} if own else file,
        {name: kind for name, kind in kinds.items() if name not in own} if own else kinds,
        implied=implied | set(counters),
        can_cast=can_cast,
    )
    return Match(
        found.fitting,
        found.missing + tuple(key for key in slots.extras if key not in extras and key not in own),
        found.unexpected + tuple(key for key in sorted(extras) if key not in slots.extras and key not in own),
        found.mismatched,
    )


def _check_meta(slots: ModelSlots, incoming: Incoming, found: Match, counters: list[str]) -> dict[str, torch.Tensor]:
    """See that every tensor on `meta` will get content; returns that of buffers that are not persistent."""
    wanted = {name: buffer for name, buffer in slots.volatile.items() if buffer.is_meta}
    kept = incoming.volatile() if wanted else {}
    filled = {twin for name in found.fitting for twin in slots.twins(name)}
    left = [name for name, tensor in slots.by_name.items() if name not in filled and tensor.is_meta]
    own = loads_itself(slots.modules, left)
    left = [name for name in left if name not in counters and name not in own]
    left += [name for name, buffer in wanted.items() if name not in kept or kept[name].shape != buffer.shape]
    refuse_left_on_meta(left, incoming.where)
    return {name: kept[name] for name in wanted}


def _run_own(slots: ModelSlots, incoming: Incoming, strict: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Let modules load themselves; returns the names that they say are missing and unexpected."""
    state = incoming.state_for_own_loaders(slots.modules)
    if state is None:
        return (), ()
    run_own_loaders(slots.modules, state)
    if state.errors or (strict and (state.missing or state.unexpected)):
        said = [*state.errors, *(f"missing: {name}" for name in state.missing)]
        said += [f"unexpected: {name}" for name in state.unexpected]
        raise MismatchError(
            f"loading {incoming.where}: modules that load themselves refused it:\n  " + "\n  ".join(said)
        )
    return tuple(state.missing), tuple(state.unexpected)


def _is_plain(kind: type[nn.Module]) -> bool:
    """Tell whether a class of modules keeps its mode as nn.Module does; one of TorchScript, say, does not."""
    return kind.train is nn.Module.train and kind.__setattr__ is nn.Module.__setattr__


def _set_mode(model: nn.Module, slots: ModelSlots, stored: Stored, prefix: str | None, mode: Mode) -> None:
    if mode in ("eval", "train"):
        plain = all(_is_plain(type(module)) for _, module in slots.modules)
        if not plain:
            model.train(mode == "train")
            return
        for _, module in slots.modules:  # past the checks of Module.__setattr__, which cost more than all the rest
            vars(module)["training"] = mode == "train"
    elif mode == "saved" and stored.manifest:
        training = stored.manifest.training
        start = prefix_start(prefix)
        for name, module in model.named_modules():
            module.training = training if isinstance(training, bool) else (start + name).rstrip(".") in (training or ())


def _report(slots: ModelSlots, kinds: Kinds, incoming: Incoming, found: Match, verify: Verify) -> LoadReport:
    filled = {twin for name in found.fitting for twin in slots.twins(name)}
    filled |= {name for name, view in slots.views.items() if view.of in filled}
    n_elements = {
        name: tensor.numel()
        for name, tensor in slots.by_name.items()
        if name in slots.parameters and name not in slots.same
    }
    loaded, total = sum(n_elements[name] for name in filled & n_elements.keys()), sum(n_elements.values())
    manifest = incoming.manifest
    unknown = () if manifest else ("digests", "environment")
    return LoadReport(
        missing=found.missing,
        unexpected=found.unexpected,
        mismatched=found.mismatched,
        renamed=incoming.renamed,
        tied=_ties(slots, incoming, found.fitting),
        casts=_casts(incoming, kinds, found.fitting),
        fraction_loaded=loaded / total if total else 1.0,
        verified=verify if verify and manifest else "",
        unknown=unknown,
        differences=_differences(incoming),
    )


def _ties(slots: ModelSlots, incoming: Incoming, names: Iterable[str]) -> dict[str, str]:
    """Name the places that share the memory of another after the load: by the model, or by the file."""
    found = {**slots.same, **{name: view.of for name, view in slots.views.items()}}
    if incoming.manifest is None or not incoming.manifest.aliases:
        return found
    relations = relate({name: slots.by_name[name] for name in names if name not in slots.in_place})
    found |= {name: sharing.of for name, sharing in relations.aliases.items()}
    found |= {second: first for first, second in relations.overlaps}
    return {name: owner for name, owner in found.items() if name != owner and found.get(owner) != name}


def _casts(incoming: Incoming, kinds: Kinds, names: Iterable[str]) -> dict[str, tuple[str, str]]:
    pairs = {name: (incoming.kinds[name][0], kinds[name][0]) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _differences(incoming: Incoming) -> tuple[str, ...]:
    if incoming.manifest is None:
        return ()
    saved = incoming.manifest.environment
    return differences(saved, surroundings(saved.packages))
