"""`info`: what a file is, from its headers alone."""

from __future__ import annotations

import os

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource, name_of
from perdure.disk.stored import Stored, StoredFile, with_stored
from perdure.disk.surroundings import surroundings
from perdure.records import values
from perdure.records.dtypes import SHORT_NAMES
from perdure.records.environment import differences
from perdure.records.manifest import Composed
from perdure.records.reports import Info, TensorSpec


def info(path: str | os.PathLike[str]) -> Info:
    """Tell what a file or a folder of shards is, who wrote it and with what; no tensor is read, torch is not imported.

    Args:
        path: a `.safetensors` file of any writer, a folder of shards, or its index.

    Raises:
        CorruptError: the header is damaged.
        ProtocolError: a later perdure wrote it.
        MissingFileError, StorageError: the system has no such file, or refused.
    """
    return with_stored(path, lambda stored: _describe(name_of(path), stored))


def _describe(path: str, stored: Stored) -> Info:
    manifest = stored.manifest
    n_bytes = stored.index_bytes + sum(file.source.n_bytes for file in stored.opened_files())
    kind = "checkpoint" if manifest and manifest.kind == "checkpoint" else "weights"
    environment = manifest.environment if manifest else None
    return Info(
        path=path,
        form=None,
        reason="a file of weights alone holds no model" if kind == "weights" else "a checkpoint holds no model",
        forms=(kind,),
        names=(),
        manifest=manifest,
        environment=environment,
        differences=differences(environment, surroundings(environment.packages)) if environment else (),
        tensors=tuple(_specs(stored)),
        n_bytes=n_bytes,
        digest=stored.digest,
        files=stored.files,
        notes=values.decode(manifest.notes, stored.where) if manifest else None,
        volatile=_volatile(stored),
    )


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
