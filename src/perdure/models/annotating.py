"""`annotate`: what was not given at its save is added to a file, without its weights changing."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from typing import Any

import msgspec
from torch import nn

from perdure.disk.blobs import pack
from perdure.disk.memory import Piece, address_of
from perdure.disk.reading import read, want
from perdure.disk.seal import DIGEST_KEY, MANIFEST_KEY
from perdure.disk.stored import Stored, StoredFile
from perdure.disk.writing import Item
from perdure.errors import FormatError, InputError
from perdure.models.contents import GRAPH, PICTURE
from perdure.models.loading import load
from perdure.models.picturing import pipeline_of, take_picture
from perdure.models.saving import checked_labels, graph_and_proof
from perdure.models.trust import Trusted
from perdure.records import picture, preprocessing, values
from perdure.records.manifest import Manifest
from perdure.records.reports import SaveReport
from perdure.weights.saving import write
from perdure.weights.storing import Holdings, Role


def annotate(
    path: str | os.PathLike[str],
    *,
    example: Any = None,
    dynamic: Any = None,
    labels: Any = None,
    preprocess: Any = None,
    notes: Any = None,
    trusted: Trusted = (),
) -> SaveReport:
    """Add to an existing file what was not given at its save; its weights, its time and its environment stay.

    The file is written anew beside itself and replaced as a whole; until then it is as it was.

    Args:
        path: a file or folder of perdure's.
        example: as in `save`: gives a model saved by its classes alone its graph and its proof. This needs `trusted`, and
            runs the model.
        dynamic: as in `save`.
        labels: as in `save`.
        preprocess: as in `save`; the picture of the proof is sent through it. The model answers to it
            where it has a graph, or `trusted` permits its classes.
        notes: as in `save`; they replace those that are there.
        trusted: as in `load`.

    Returns:
        A report with the new root digest.

    Raises:
        InputError: nothing to add was given.
        FormatError: the file is not one of perdure's, or holds no model to run the example with.
        UntrustedError, UnsupportedModelError: as `load` and `save`.
        StorageError: the system refused; the file is as it was.

    Example:
        >>> perdure.annotate("model.safetensors", labels=["cat", "dog"])
    """
    if example is None and labels is None and preprocess is None and notes is None:
        raise InputError(f"annotating {path}: there is nothing to add. Give example, labels, preprocess or notes.")
    pipeline = pipeline_of(preprocess)
    stored = Stored(path)
    try:
        manifest = stored.manifest
        if manifest is None:
            raise FormatError(f"annotating {path}: it is another writer's file. Save it anew with perdure.")
        blobs = {key: text for key, text in stored.metadata.items() if _is_blob(key)}
        warnings: tuple[str, ...] = ()
        model = _model(path, stored, example, trusted) if example is not None or pipeline else None
        if example is not None and model is not None:
            added, warnings = graph_and_proof(model, example, dynamic)
            blobs |= added
        if pipeline:
            taken = take_picture(pipeline, model)
            blobs |= [pack(PICTURE, picture.encode(taken))]
            warnings += (f"its preprocessing is not proved: {taken.missing}",) * bool(taken.missing)
        changed = msgspec.structs.replace(
            manifest,
            tensors={},
            shards={},
            labels=manifest.labels if labels is None else values.encode(checked_labels(labels), "labels"),
            preprocess=preprocessing.to_plain(pipeline.spec) if pipeline else manifest.preprocess,
            notes=manifest.notes if notes is None else values.encode(notes, "notes"),
        )
        return write(os.fspath(path), _holdings(stored, manifest), changed, blobs, None, warnings)
    finally:
        stored.close()


def _model(path: str | os.PathLike[str], stored: Stored, example: Any, trusted: Trusted) -> nn.Module | None:
    """Load the model, for an example by its classes; None where it is not needed and its classes are not permitted."""
    if example is not None:
        return load(path, trusted=trusted, form="class", mode="saved", verify="checksum")
    is_model = stored.manifest is not None and stored.manifest.kind == "model"
    if is_model and (trusted or f"{MANIFEST_KEY}.{GRAPH}" in stored.metadata):
        return load(path, trusted=trusted, mode="saved", verify="checksum")
    return None


def _is_blob(key: str) -> bool:
    return key.startswith(f"{MANIFEST_KEY}.") and key != DIGEST_KEY


def _holdings(stored: Stored, manifest: Manifest) -> Holdings:
    """Hold what a file stores as it is, read and verified tensor by tensor when it is written."""
    holdings = Holdings(
        aliases=dict(manifest.aliases), composed=dict(manifest.composed), overlaps=list(manifest.overlaps)
    )
    for name in stored.names:
        file = stored.file_of(name)
        entry, record = file.header.entries[name], file.record(name)
        assert record is not None
        holdings.items.append(Item(name, entry.dtype, entry.shape, entry.n_bytes, partial(_pieces, file, name)))
        holdings.roles[name] = Role(record.role, record.requires_grad)
        if record.dtype:
            holdings.encoded[name] = record.dtype
    return holdings


def _pieces(file: StoredFile, name: str) -> Iterable[Piece]:
    n_bytes = file.header.entries[name].n_bytes
    if n_bytes:
        slot = read([want(name, file)], "checksum")[name]
        yield Piece(address_of(slot.memory) + slot.offset, n_bytes, slot.memory)
