"""`load`: a file becomes a whole model, by its classes or by its graph."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from perdure.disk.description import describe
from perdure.disk.stored import StoredTensors
from perdure.errors import (
    ConflictError,
    DigestError,
    DriftError,
    FormatError,
    InputError,
    PerdureError,
    StorageError,
    UnsupportedModelError,
    UntrustedError,
)
from perdure.foreign.opening import with_any
from perdure.foreign.placed import ForeignStored
from perdure.models.contents import Contents
from perdure.models.drift import Drift, find_drift
from perdure.models.execution import build
from perdure.models.migration import migrated
from perdure.models.picturing import find_picture_drift, pipeline_of
from perdure.models.proving import examine
from perdure.models.rebuilding import rebuild
from perdure.models.trust import Permissions, Trusted
from perdure.records.origins import Origin, remember
from perdure.records.picture import PictureDrift
from perdure.records.preprocessing import PreprocessSpec
from perdure.records.proof import Proof
from perdure.weights.loading import Mode, Verify, check_pinned, log_differences, usable_device
from perdure.weights.opening import Origin as Source

log = logging.getLogger("perdure")
Form = Literal["auto", "class", "graph"]


def load(
    path: Source,
    *,
    trusted: Trusted = (),
    form: Form = "auto",
    mode: Mode = "eval",
    device: torch.device | str | int | None = None,
    dtype: torch.dtype | None = None,
    verify: Verify = "checksum",
    digest: str | None = None,
) -> nn.Module:
    """Load a whole model.

    No constructor is called and no code of the file is run. What the file names beyond PyTorch's own module classes is
    used only if `trusted` permits it, and nothing is imported before. `perdure.info(model)` tells which form was used.

    Args:
        path: a file or folder of `save`, bytes, or a seekable binary file.
        trusted: classes and functions, which are then used themselves; dotted names of packages, whose module classes,
            enums and plain data they permit, or of single classes and functions; or a mapping from saved names to
            classes, for what was renamed. `perdure.info(path).names` lists what a file needs.
        form: `"class"` rebuilds the model from its classes, which can be trained on; `"graph"` from its graph of
            operators, without any of your code; `"auto"` takes the classes where all of them are permitted, else the
            graph. Where permitted classes fail, or answer otherwise than when the model was saved, it takes the graph
            with a warning.
        mode: `"eval"`, `"train"`, or `"saved"` or None: each module as it was when saved.
        device: where the model shall be; None is the CPU.
        dtype: a floating type for all parameters and buffers that are floating; None keeps the file's.
        verify: `"checksum"` compares XXH3-128 and, where `trusted` permits classes, what the model answers with its proof;
            `"full"` BLAKE3 as well, and the proof in any case; False nothing. Either sends the picture of the proof through
            the preprocessing, and warns where other pixels come out than when the model was saved.
        digest: the root digest that the file must have; BLAKE3 is then verified as well.

    Returns:
        The model.

    Raises:
        UntrustedError: the file names what is not permitted, and has no graph; the message prints the line to add.
        DriftError: the classes answer otherwise than when the model was saved, and there is no graph to take.
        UnsupportedModelError: the file does not offer the form.
        FormatError: the file holds no model; the message says how to read it.
        DigestError, CorruptError, ProtocolError, StorageError: as `open`.

    Example:
        >>> model = perdure.load("model.safetensors")
        >>> model = perdure.load("model.safetensors", trusted=[Net], mode="train")
    """
    _check_arguments(form, mode, verify, dtype)
    where_to = None if device is None else usable_device(device)
    permissions = Permissions(trusted)
    checked: Verify = "full" if digest is not None else verify

    def use(stored: StoredTensors) -> nn.Module:
        check_pinned(stored, digest)
        contents = Contents(stored, checked)
        loaded = _load(contents, permissions, form, checked, _no_model(stored), where_to)
        _finish(loaded.model, loaded.form, mode, where_to, dtype, stored.where)
        info = describe(stored.where, stored)
        info = dataclasses.replace(info, form=loaded.form, reason=loaded.reason, drift=loaded.drift)
        if checked and info.preprocess and contents.picture:
            asked = bool(permissions) or checked == "full"
            info = dataclasses.replace(
                info, picture_drift=_picture_drift(contents, info.preprocess, loaded.model, asked)
            )
        kept = {leaf.kept: contents.kept(leaf.kept) for leaf in (contents.proof or Proof()).inputs if leaf.kept}
        remember(loaded.model, Origin(info, stored.digest, info.labels, contents.proof, kept))
        log_differences(stored.where, info.differences)
        return loaded.model

    return with_any(path, use)


class _Loaded(NamedTuple):
    """A model, in which form it came and why, and what had changed in its code."""

    model: nn.Module
    form: str
    reason: str
    drift: tuple[str, ...] = ()


def _load(
    contents: Contents,
    permissions: Permissions,
    form: Form,
    verify: Verify,
    absent: str,
    device: torch.device | None,
) -> _Loaded:
    if contents.architecture is None and contents.graph is None:
        raise FormatError(absent)
    if form == "graph":
        return _by_graph(contents, verify, "form='graph' was asked for")
    obstacle = _obstacle(contents, permissions)
    if form == "class" or contents.graph is None:
        if obstacle:
            raise obstacle
        return _by_class(contents, permissions, verify, device, strict=form == "class")
    if obstacle:
        named = isinstance(obstacle, UntrustedError)
        return _by_graph(contents, verify, "classes that it names are not permitted" if named else str(obstacle))
    try:
        return _by_class(contents, permissions, verify, device, strict=True)
    except (DigestError, StorageError, ConflictError):  # the graph reads the same file
        raise
    except Exception as error:  # of the classes' own code too, which may have changed
        log.warning("%s: the classes were left aside for the graph: %s", contents.where, error)
        return _by_graph(contents, verify, f"its classes could not be used: {error}")


def _obstacle(contents: Contents, permissions: Permissions) -> PerdureError | None:
    """Return why the classes cannot be used, before anything is imported; None where they can."""
    found = contents.architecture
    if found is None or found.obstacles:
        reasons = "; ".join(found.obstacles[:5]) if found else "it was saved without them"
        return UnsupportedModelError(f"loading {contents.where}: it cannot be rebuilt from its classes: {reasons}.")
    return permissions.refusal(found.names, contents.where)


def _by_class(
    contents: Contents, permissions: Permissions, verify: Verify, device: torch.device | None, *, strict: bool
) -> _Loaded:
    saved = contents.architecture
    assert saved is not None
    code = permissions.resolve(saved.names, contents.where)
    found = migrated(saved, code, contents.where)
    tensors = contents.tensors_of(found)
    model = rebuild(found, code, tensors, contents.where)
    drift = find_drift(contents.sources, saved.names, code, model) if contents.sources else Drift()
    asked = bool(permissions) or verify == "full"  # a proof of somebody else's never runs unasked
    _check_drift(contents, model, drift, verify, asked=asked, strict=strict)
    if device is not None and device.type != "cpu":  # tensors and devices in plain attributes go along
        model = rebuild(found, code, tensors, contents.where, device)
    return _Loaded(model, "class", "all classes that it names are permitted", drift.changed)


def _check_drift(
    contents: Contents, model: nn.Module, drift: Drift, verify: Verify, *, asked: bool, strict: bool
) -> None:
    """See that the classes still give the answers that they gave.

    Raises:
        DriftError: they do not, or they read what the file does not have.
    """
    if verify is False:
        return
    proof = contents.proof if asked and contents.proof and not contents.proof.missing else None
    if proof is None:
        _check_unproved(contents, drift, strict)
        return
    verdict = examine(model, proof, contents.kept, contents.where)
    if not verdict.holds:
        lacking = f"; its code reads what the file lacks: {', '.join(drift.absent)}" if drift.absent else ""
        raise DriftError(_drift_message(contents, drift, verdict.said + lacking))
    if drift.changed:
        said = "to the last bit" if verdict.same_bits else f"within {verdict.difference:.3g}"
        log.info("%s: %s changed, with the same answers %s.", contents.where, ", ".join(drift.changed), said)


def _check_unproved(contents: Contents, drift: Drift, strict: bool) -> None:
    """See that code without a proof is as it was; where that need not be, say that it is not."""
    if drift.absent:
        said = f"its code reads what the file lacks: {', '.join(drift.absent)}"
        raise DriftError(_drift_message(contents, drift, said))
    if drift.changed and strict:
        raise DriftError(_drift_message(contents, drift, "its code has changed, and there is no proof of its answers"))
    for names, said in (
        (drift.changed, "has changed since"),
        (drift.unseen, "cannot be compared with what it was when"),
    ):
        if names:
            log.warning(
                "%s: the code of %s %s it was saved, and the file has no proof that its answers are the same. Save it with "
                "example=… for one.",
                contents.where,
                ", ".join(names),
                said,
            )


def _drift_message(contents: Contents, drift: Drift, said: str) -> str:
    changed = f" Changed since: {', '.join(drift.changed)}." if drift.changed else ""
    graph = "load the graph with form='graph', " if contents.graph else ""
    return (
        f"loading {contents.where}: the model may not answer as it did when it was saved: {said}.{changed} To go on, "
        f"{graph}give the class a migration (perdure.register), install the code of then, or pass verify=False."
    )


def _picture_drift(contents: Contents, spec: PreprocessSpec, model: nn.Module, asked: bool) -> tuple[PictureDrift, ...]:
    """See that the preprocessing gives the pixels that it gave when the model was saved, and warn where it does not."""
    pipeline = pipeline_of(spec)
    assert contents.picture is not None and pipeline is not None
    found = find_picture_drift(contents.picture, pipeline, model, contents.where, asked=asked)
    if found is None:
        return ()
    log.warning("%s: %s", contents.where, found)
    return (found,)


def _by_graph(contents: Contents, verify: Verify, reason: str) -> _Loaded:
    found = contents.graph
    if found is None:
        raise UnsupportedModelError(
            f"loading {contents.where}: it has no graph. Save it with example=…, or permit its classes with trusted=[…]."
        )
    model = build(found, contents.tensors_of_graph(found), where=contents.where)
    if verify == "full" and contents.proof and not contents.proof.missing:
        verdict = examine(model, contents.proof, contents.kept, contents.where)
        if not verdict.holds:
            raise DriftError(
                f"loading {contents.where}: its graph does not answer as the model did: {verdict.said}. Another PyTorch or "
                f"processor may be the cause; pass verify='checksum' to load it all the same."
            )
    return _Loaded(model, "graph", reason)


def _check_arguments(form: object, mode: object, verify: object, dtype: object) -> None:
    if form not in ("auto", "class", "graph"):
        raise InputError(f"loading: form must be 'auto', 'class' or 'graph', not {form!r}.")
    if mode not in ("eval", "train", "saved", None):
        raise InputError(f"loading: mode must be 'eval', 'train', 'saved' or None, not {mode!r}.")
    if verify is not False and verify not in ("checksum", "full"):
        raise InputError(f"loading: verify must be 'checksum', 'full' or False, not {verify!r}.")
    if dtype is not None and not (isinstance(dtype, torch.dtype) and (dtype.is_floating_point or dtype.is_complex)):
        raise InputError(f"loading: dtype must be a floating type such as torch.bfloat16, not {dtype!r}.")


def _no_model(stored: StoredTensors) -> str:
    if stored.manifest and stored.manifest.kind == "checkpoint":
        return f"loading {stored.where}: it holds a checkpoint, not a model. Use perdure.load_checkpoint."
    if isinstance(stored, ForeignStored) and stored.state.classes:
        return (
            f"loading {stored.where}: the model in it ({stored.format}) is pickled, which takes its classes as they "
            f"were then, and runs what the file says. Build the model and use perdure.load_weights(model, path); then "
            f"save it whole with perdure.save."
        )
    return (
        f"loading {stored.where}: it holds weights alone, no model. Build the model and use "
        f"perdure.load_weights(model, path), or save it whole with perdure.save."
    )


def _finish(
    model: nn.Module, form: str, mode: Mode, device: torch.device | None, dtype: torch.dtype | None, where: str
) -> None:
    if mode == "train" and form == "graph":
        raise InputError(
            f"loading {where}: a graph stays in eval mode, so mode='train' needs the classes: trusted=[…]. To fine-tune the "
            f"graph as it is, load it with mode='eval'; its parameters get gradients."
        )
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    options = {key: value for key, value in options.items() if value is not None}
    try:
        if options:
            model.to(**options)
        if form == "class" and mode in ("eval", "train"):
            model.train() if mode == "train" else model.eval()
    except PerdureError:
        raise
    except Exception as error:  # the classes' own code
        raise InputError(
            f"loading {where}: the model cannot be moved or put into its mode ({type(error).__name__}: {str(error)[:200]}). "
            f"Load it with mode=None, and without device and dtype, to do it by hand."
        ) from error
