"""A saved model on disk, one file or a folder of shards, opened with its headers checked and nothing else read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from perdure.disk import header as headers
from perdure.disk.blobs import check_added
from perdure.disk.consistency import check_file, check_model
from perdure.disk.digests import Crc32, Expected
from perdure.disk.faults import enough_memory
from perdure.disk.folder import find_index, read_index
from perdure.disk.header import Entry, Header
from perdure.disk.seal import MANIFEST_KEY, check_seal
from perdure.disk.sources import ByteSource, PathSource, open_source, usable_path
from perdure.errors import (
    ConflictError,
    CorruptError,
    DigestError,
    FileError,
    MissingFileError,
    MissingTensorError,
    PerdureError,
)
from perdure.records.manifest import Alias, Composed, Manifest, TensorRecord, decode


class StoredFile(NamedTuple):
    """One opened file: its source, its validated header, and what perdure says in it (None for another writer's).

    `encoded` names the type of those tensors that are stored as bytes, in a file that has no manifest to say so, and
    `checksums` has the CRC-32 of those that have one, and `roles` what they are in their model, as far as that is known.
    """

    source: ByteSource
    header: Header
    manifest: Manifest | None = None
    digest: str = ""
    encoded: Mapping[str, str] = {}
    checksums: Mapping[str, Crc32] = {}
    roles: Mapping[str, str] = {}

    @property
    def where(self) -> str:
        return self.source.where

    def record(self, name: str) -> TensorRecord | None:
        """Return what the manifest says about a tensor of this file."""
        return self.manifest.tensors[name] if self.manifest else None

    def expected(self, name: str) -> Expected | None:
        """Return what the digests of a tensor must be; None where the file does not say."""
        return self.manifest.tensors[name] if self.manifest else self.checksums.get(name)

    def encoded_type(self, name: str) -> str:
        """Return the type, as PyTorch names it, of a tensor that is stored as bytes; empty for others."""
        return self.manifest.tensors[name].dtype if self.manifest else self.encoded.get(name, "")

    def offset(self, name: str) -> int:
        """Return where a tensor's bytes begin in the file."""
        return self.header.data_start + self.header.entries[name].start


def open_file(source: ByteSource, *, sealed: bool = True) -> StoredFile:
    """Read and validate a file's header and, where it is perdure's, its seal and its manifest.

    Args:
        source: the file.
        sealed: a seal that does not hold is an error; otherwise the manifest is then left aside.
    """
    with enough_memory(source.where):
        return _open_file(source, sealed)


def _open_file(source: ByteSource, sealed: bool) -> StoredFile:
    where = source.where
    first = source.read(0, min(8, source.n_bytes))
    length = headers.read_length(first, source.n_bytes, where)
    raw = source.read(8, length)
    header = headers.parse(raw, source.n_bytes, where)
    try:
        digest = check_seal(first + raw, header.metadata, where)
    except CorruptError:
        if sealed:
            raise
        digest = None
    manifest = None
    if digest is not None:
        manifest = decode(header.metadata[MANIFEST_KEY], where)
        check_file(manifest, header.entries, where)
        check_added(header.metadata, where)
    return StoredFile(source, header, manifest, digest or "")


class StoredTensors:
    """The tensors of a saved model, wherever their bytes are, and what is derived from them.

    Attributes:
        where: names it in messages.
        format: what kind of file it is, for people.
        manifest: the model's manifest; None for another writer's.
        metadata: the metadata in which it stood, with its blobs.
        digest: the root digest; empty where there is none.
        aliases: tensors that lie in the memory of a stored one, by name.
        composed: tensors that are made of several stored ones, by name.
        hidden: stored tensors that have no name of their own: memory in which aliases lie.
        files: the names of the files, where there are several.
        index_bytes: the size of their index; 0 where there is none.
    """

    format = "safetensors"
    manifest: Manifest | None = None
    metadata: Mapping[str, str] = {}
    digest = ""
    aliases: Mapping[str, Alias] = {}
    composed: Mapping[str, Composed] = {}
    hidden: Set[str] = frozenset()
    files: tuple[str, ...] = ()
    index_bytes = 0

    def __init__(self, where: str) -> None:
        self.where = where
        self._opened: dict[str, StoredFile] = {}
        self._shard_of: Mapping[str, str] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The stored tensors, in the writer's order."""
        return tuple(self._shard_of)

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def tensor_names(self) -> tuple[str, ...]:
        """Return the names that the saver knew: stored tensors that are no parts of others, then derived ones."""
        parts = {part for composed in self.composed.values() for part in composed.parts.values()}
        names = (*self.names, *self.aliases, *self.composed)
        return tuple(name for name in names if name not in parts) if parts else names

    def file_of(self, name: str) -> StoredFile:
        """Return the opened file that holds a tensor.

        Raises:
            MissingTensorError: no tensor of that name.
            CorruptError: the shard is missing, or not the one that the index means.
            ConflictError: the model was saved anew since its index was read.
        """
        try:
            shard = self._shard_of[name]
        except KeyError:
            raise MissingTensorError(f"reading {self.where}: there is no tensor {name!r}.") from None
        return self.file(shard)

    def select(self, prefix: str | None) -> str | None:
        """Choose the tensors that a prefix means, where a file holds several nestings; returns what is left of it."""
        return prefix

    @property
    def versions(self) -> Mapping[str, Any]:
        """The state dict's `_metadata`, by module, where it is kept elsewhere than in a manifest."""
        return {}

    @property
    def extra_states(self) -> Mapping[str, Any]:
        """The modules' extra states by key, as they stand in the file, where they are kept elsewhere than in a manifest."""
        return {}

    def file(self, shard: str) -> StoredFile:
        """Return the opened shard of that name; the empty name is a single file's."""
        return self._opened[shard]

    def opened_files(self) -> Iterable[StoredFile]:
        """Open every file, one after another."""
        for shard in self.files or ("",):
            yield self.file(shard)

    def sources(self) -> Iterable[ByteSource]:
        """Give all that was opened, or has to be, to read every tensor."""
        return (file.source for file in self.opened_files())

    def entry(self, name: str) -> Entry:
        """Return type, shape and place of a stored tensor."""
        return self.file_of(name).header.entries[name]

    def close(self) -> None:
        """Close all files; memory that was mapped stays as long as its tensors."""
        for opened in self._opened.values():
            opened.source.close()


class Stored(StoredTensors):
    """A model in safetensors files: one, or those that an index names. Shards are opened when a tensor is asked for."""

    def __init__(self, origin: object, *, sealed: bool = True) -> None:
        super().__init__("")
        self._sealed = sealed
        self._index_path = Path()
        found = find_index(usable_path(origin)) if isinstance(origin, (str, os.PathLike)) else None
        if found is not None and found.name.endswith(".json"):
            self._open_index(found)
        else:
            self._open_single(origin if found is None else found)

    def _open_single(self, origin: object) -> None:
        source = open_source(origin)
        try:
            only = open_file(source, sealed=self._sealed)
            if only.manifest:
                check_model(only.manifest, only.header.entries, source.where)
        except BaseException:
            source.close()
            raise
        self.where = source.where
        self._opened[""] = only
        self._shard_of = dict.fromkeys(only.header.entries, "")
        self._describe(only.manifest, only.header.metadata, only.digest)

    def _describe(self, manifest: Manifest | None, metadata: dict[str, str], digest: str) -> None:
        self.manifest, self.metadata, self.digest = manifest, metadata, digest
        if manifest:
            self.aliases, self.composed = manifest.aliases, manifest.composed

    def _open_index(self, path: Path) -> None:
        self._index_path = path.absolute()
        index = self._index = read_index(path, sealed=self._sealed)
        self.where = str(path.parent)
        self._shard_of = index.shard_of
        self._names_of: dict[str, list[str]] = {}
        for name, shard in index.shard_of.items():
            self._names_of.setdefault(shard, []).append(name)
        self._describe(index.manifest, index.metadata, index.digest)
        self.files = index.files
        self.index_bytes = index.n_bytes
        if index.manifest:
            check_model(index.manifest, index.shard_of, str(path))

    def file(self, shard: str) -> StoredFile:
        if shard not in self._opened:
            try:
                self._opened[shard] = self._open_shard(shard)
            except FileError:
                self._check_index()
                raise
        return self._opened[shard]

    def _check_index(self) -> None:
        """Say so where a shard is not what it should be because a save has put another index in place."""
        try:
            index = read_index(self._index_path, sealed=self._sealed)
        except PerdureError:
            return
        if (index.digest, index.shard_of) != (self.digest, self._shard_of):
            raise ConflictError(f"reading {self.where}: it was saved anew meanwhile. Open it again.")

    def _open_shard(self, shard: str) -> StoredFile:
        try:
            source = PathSource(self._index_path.parent / shard, os.path.join(self.where, shard), one_of_many=True)
        except MissingFileError:
            raise CorruptError(
                f"reading {self.where}: the shard {shard!r} is missing. Restore it from a copy."
            ) from None
        try:
            opened = open_file(source, sealed=self._sealed)
            self._check_belongs(shard, opened)
        except BaseException:
            source.close()
            raise
        return opened

    def _check_belongs(self, shard: str, opened: StoredFile) -> None:
        for name in self._names_of.get(shard, ()):
            if name not in opened.header.entries:
                raise CorruptError(f"reading {opened.where}: the index says that it holds {name!r}; it does not.")
        if self._sealed and opened.manifest and opened.manifest.kind == "shard" and not self.manifest:
            raise CorruptError(
                f"reading {self.where}: {shard} is a shard of perdure's, but the index is not perdure's."
            )
        if self.manifest and len(self._names_of.get(shard, ())) != len(opened.header.entries):
            raise CorruptError(f"reading {opened.where}: it holds tensors that the index leaves out. Restore both.")
        record = self.manifest.shards.get(shard) if self.manifest else None
        if record and (opened.digest, opened.source.n_bytes) != (record.digest, record.n_bytes):
            raise DigestError(
                f"reading {opened.where}: it belongs to another save than its index. Restore both from a copy."
            )


_ATTEMPTS = 100

S = TypeVar("S", bound=StoredTensors)
T = TypeVar("T")


def with_stored(origin: object, use: Callable[[S], T], opener: Callable[[object], S] = Stored) -> T:
    """Open a saved model, use it and close it; begin again, a bounded number of times, where it was saved anew meanwhile.

    Raises:
        ConflictError: it is saved anew faster than it can be read.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        stored = opener(origin)
        try:
            return use(stored)
        except ConflictError:
            if attempt == _ATTEMPTS:
                raise
        finally:
            stored.close()
    raise AssertionError("unreachable")
