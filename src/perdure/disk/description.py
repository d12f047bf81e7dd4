"""`info`: what a file is, from its headers alone."""

from __future__ import annotations

import os
from typing import NamedTuple

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource, name_of
from perdure.disk.stored import Stored, StoredFile, with_stored
from perdure.disk.surroundings import surroundings
from perdure.records import architecture, values
from perdure.records.dtypes import SHORT_NAMES
from perdure.records.environment import differences
from perdure.records.manifest import Composed
from perdure.records.origins import origin_of
from perdure.records.reports import Info, TensorSpec


def info(path_or_model: str | os.PathLike[str] | object) -> Info:
    """Tell what a file or a folder of shards is, who wrote it and with what; or in which form a model was loaded, and why.

    Of a file only headers are read, and torch is not imported.

    Args:
        path_or_model: a `.safetensors` file of any writer, a folder of shards, or its index; or a model that
            `perdure.load` returned.

    Raises:
        CorruptError: the header is damaged.
        ProtocolError: a later perdure wrote it.
        MissingFileError, StorageError: the system has no such file, or refused.
    """
    origin = origin_of(path_or_model)
    if origin is not None:
        return origin.info
    return with_stored(path_or_model, lambda stored: describe(name_of(path_or_model), stored))


def describe(path: str, stored: Stored) -> Info:
    """Tell what an opened file or folder is; `path` is what to call it."""
    manifest = stored.manifest
    n_bytes = stored.index_bytes + sum(file.source.n_bytes for file in stored.opened_files())
    offered = _offered(stored)
    environment = manifest.environment if manifest else None
    return Info(
        path=path,
        form=None,
        reason=offered.reason,
        forms=offered.forms,
        names=offered.names,
        manifest=manifest,
        environment=environment,
        differences=differences(environment, surroundings(environment.packages)) if environment else (),
        tensors=tuple(_specs(stored)),
        n_bytes=n_bytes,
        digest=stored.digest,
        files=stored.files,
        notes=values.decode(manifest.notes, stored.where) if manifest else None,
        volatile=_volatile(stored),
        labels=values.decode(manifest.labels, stored.where) if manifest else None,
    )


class _Offered(NamedTuple):
    """The forms in which a file can be loaded, why not in others, and what the class form would need."""

    forms: tuple[str, ...]
    reason: str
    names: tuple[str, ...] = ()


def _offered(stored: Stored) -> _Offered:
    kind = stored.manifest.kind if stored.manifest else "weights"
    if kind == "checkpoint":
        return _Offered(("checkpoint",), "a checkpoint holds no model")
    if kind != "model":
        return _Offered(("weights",), "a file of weights alone holds no model")
    content = unpack(stored.metadata, "architecture", stored.where)
    found = architecture.decode(content, stored.where) if content is not None else None
    forms = ["graph", "weights"] if "perdure.graph" in stored.metadata else ["weights"]
    if found is None or found.obstacles:
        said = "; ".join(found.obstacles[:5]) if found else "it was saved without its classes"
        return _Offered(tuple(forms), f"not by its classes: {said}")
    reason = "" if "graph" in forms else "it was saved without an example, so it has no graph"
    return _Offered(("class", *forms), reason, tuple(str(name) for name in found.names if not name.is_torchs))


def _volatile(stored: Stored) -> tuple[TensorSpec, ...]:
    """Describe the buffers that are not persistent, which lie in a file inside a blob."""
    content = unpack(stored.metadata, "buffers", stored.where) if stored.manifest else None
    if content is None:
        return ()
    source = BytesSource(content, f"{stored.where}, the buffers that are not persistent")
    return tuple(_specs(Stored(source)))


def _specs(stored: Stored) -> list[TensorSpec]:
    """Describe every tensor under the name that its saver knew."""
    plain = {name: stored_spec(stored.file_of(name), name) for name in stored.names}
    manifest = stored.manifest
    if manifest is None:
        return list(plain.values())
    parts = {part for composed in manifest.composed.values() for part in composed.parts.values()}
    specs = [spec for name, spec in plain.items() if name not in parts]
    specs += [
        TensorSpec(name, plain[alias.of].dtype, alias.shape, 0, role=alias.role)
        for name, alias in manifest.aliases.items()
    ]
    return specs + [_composed_spec(name, composed, plain) for name, composed in manifest.composed.items()]


def stored_spec(file: StoredFile, name: str) -> TensorSpec:
    """Describe a stored tensor as PyTorch has it."""
    entry, record = file.header.entries[name], file.record(name)
    digest, role = (record.blake3, record.role) if record else ("", "")
    if record and record.dtype:
        return TensorSpec(name, record.dtype, entry.shape[:-1], entry.n_bytes, digest, role)
    shape = (*entry.shape[:-1], entry.shape[-1] // 2) if entry.dtype == "F4" and entry.shape else entry.shape
    return TensorSpec(name, SHORT_NAMES[entry.dtype], shape, entry.n_bytes, digest, role)


def _composed_spec(name: str, composed: Composed, plain: dict[str, TensorSpec]) -> TensorSpec:
    parts = [plain[part] for part in composed.parts.values()]
    dtype = composed.dtype or plain[composed.parts["values"]].dtype
    return TensorSpec(name, dtype, composed.shape, sum(part.n_bytes for part in parts), role=composed.role)
