"""`load_weights`: the tensors of a file go into a model, all that fit, verified, and no other."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from perdure.disk.stored import StoredTensors
from perdure.errors import DigestError, InputError
from perdure.foreign.opening import with_any
from perdure.records import values
from perdure.records.reports import LoadReport
from perdure.weights.adapting.adaptations import Adapt
from perdure.weights.asking import ask_model
from perdure.weights.filling import fill_places
from perdure.weights.incoming import Incoming
from perdure.weights.load_reports import report_of
from perdure.weights.matching import Match
from perdure.weights.opening import Origin, prefix_start
from perdure.weights.own_loading import loads_its_own_way
from perdure.weights.plans import Asked, moved, plan
from perdure.weights.refusing import mismatch_error
from perdure.weights.renaming import Rename
from perdure.weights.slots import Modules, find_slots, modules_of
from perdure.weights.targets import target_of, target_that_loads_itself

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
    rename: Rename | None = None,
    adapt: Adapt | None = None,
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
        rename: what the file's names (without the prefix) become: a mapping from regular expressions, applied one after
            another as `re.sub` does, to a name, to None (left out), or to a list of names (the tensor is cut along its
            first axis); a tuple of expressions joins tensors. A name ending in `| T` is transposed, `| axis=1` sets the
            axis. Or a function from a name to a name or None.
        adapt: what is done where shapes differ: a mapping from patterns (as of `fnmatch`; the first that matches counts) of
            the model's names to `"resize"`, `"head"`, `"channels"`, `"vocabulary"`, `"truncate"`, `"pad"`, `"reshape"` or
            `"skip"`, to a mapping with one of these under `"how"` and its parameters, or to a function that is given the
            file's tensor, the model's and the name, and returns a tensor of the model's shape.
        mode: `"eval"`, `"train"`, `"saved"` (each module as it was when saved), or None to leave the model's.
        device: where the model shall be afterwards.
        verify: `"checksum"` compares XXH3-128, `"full"` BLAKE3 as well, False neither; then a header that does not match
            its digest is read as plain weights too.
        digest: the root digest that the file must have (from `SaveReport.digest`); BLAKE3 is then verified as well.

    Returns:
        A report of what was loaded, cast and tied, and of what the file does not say.

    Raises:
        MismatchError: the file does not fit the model; one error lists all three kinds of difference. Its `remedy` holds
            arguments with which it loads, where some were found.
        InputError: a rule of `rename` or a pattern of `adapt` matches nothing, or rules give one name twice.
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
        own_way = loads_its_own_way(model, modules)
        target = target_that_loads_itself(model, slots) if own_way else target_of(slots, incoming)
        asked = Asked(rename, adapt, _labels(stored))
        planned = plan(incoming.kinds, target, asked, stored.where)

        def refuse(found: Match, said: Sequence[str] = ()) -> None:
            if said or (strict and not found.complete):
                raise mismatch_error(
                    found,
                    incoming.kinds,
                    target,
                    planned=planned,
                    asked=asked,
                    prefix=prefix,
                    where=stored.where,
                    said=said,
                )

        with torch.inference_mode(False):  # parameters made in inference mode could never be trained
            if own_way:
                found = ask_model(model, slots, incoming, planned, where_to, refuse)
            else:
                refuse(planned.match)
                found = fill_places(model, slots, incoming, planned, where_to)
        _set_mode(model, modules, stored, prefix, mode, planned.modules)
        report = report_of(find_slots(modules) if own_way else slots, incoming, found)
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


def _is_plain(kind: type[nn.Module]) -> bool:
    """Tell whether a class of modules keeps its mode as nn.Module does; one of TorchScript, say, does not."""
    own_mode = kind.train is not nn.Module.train or kind.eval is not nn.Module.eval
    return not own_mode and kind.__setattr__ is nn.Module.__setattr__


def _labels(stored: StoredTensors) -> Any:
    """Return the names of the classes that the file keeps, or None."""
    found = values.decode(stored.manifest.labels, stored.where) if stored.manifest else None
    return list(found) if isinstance(found, list | tuple) else None


def _set_mode(
    model: nn.Module, modules: Modules, stored: StoredTensors, prefix: str | None, mode: Mode, renamed: dict[str, str]
) -> None:
    plain = all(_is_plain(type(module)) for _, module in modules)
    if mode in ("eval", "train"):
        if not plain:
            model.train() if mode == "train" else model.eval()
            return
        for _, module in modules:  # past the checks of Module.__setattr__, which cost more than all the rest
            vars(module)["training"] = mode == "train"
    elif mode == "saved" and stored.manifest:
        training = stored.manifest.training
        start, own_names = prefix_start(prefix), {new: name for name, new in renamed.items()}
        for name, module in model.named_modules():  # those that hold others come first
            own_name = (start + moved(name, own_names)).rstrip(".")
            module.train(training if isinstance(training, bool) else own_name in (training or ()))
