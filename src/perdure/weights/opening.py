"""`open`: a saved model as a lazy mapping from names to tensors."""

from __future__ import annotations

import math
import mmap
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from types import TracebackType
from typing import Any, BinaryIO

import torch

from perdure.disk.memory import address_of, allocate
from perdure.disk.reading import ALIGNMENT, read, want
from perdure.disk.sources import ByteSource
from perdure.disk.stored import StoredFile, StoredTensors
from perdure.errors import InputError, MissingTensorError
from perdure.foreign.opening import open_stored
from perdure.foreign.placed import ForeignStored
from perdure.records import values
from perdure.records.environment import Environment
from perdure.records.manifest import Manifest
from perdure.records.reports import TensorSpec
from perdure.weights.restoring import Restorer, from_memory
from perdure.weights.storing import copied
from perdure.weights.thawing import thaw

Origin = str | os.PathLike[str] | bytes | BinaryIO


def open(origin: Origin, *, prefix: str | None = None, map: bool = True) -> Weights:
    """Open the weights of a file of any kind, told by what it holds. Only headers are read, and nothing in it is run.

    safetensors files, and folders of their shards · what `torch.save` wrote, in the formats of all versions: state dicts,
    checkpoints with other things beside, whole models whose classes need not exist · TorchScript, `.pt2` · folders of
    `torch.distributed.checkpoint` and of sharded `.bin` files · `.npz`, `.npy` · GGUF, whose blocks become float32.

    Args:
        origin: a path, the bytes of a file, or a seekable binary file.
        prefix: show only the tensors whose names begin with it and a dot, and leave it out of their names. In a checkpoint
            the keys that lead to a state dict are such a beginning too: `"ema"`, `"state_dict.model"`. Without it the
            evident state dict is taken (under `state_dict`, `model`, …); where several are, all, under those keys.
        map: map files copy-on-write where that is fast: reading costs nothing until a tensor is touched, and writing to
            a tensor never reaches the file. A mapped file that somebody cuts short kills the process when the missing
            part is touched (SIGBUS); with False, tensors are read into memory, and their checksums verified. Files on
            network file systems are always read.

    Returns:
        A mapping from names to tensors, which is also a context manager.

    Raises:
        FormatError: it is of no kind that is read.
        CorruptError: the file breaks a rule of its format, or does not match its digest.
        UnsafeError: a pickle that would run something.
        ProtocolError: a later perdure wrote it.
        MissingFileError, StorageError: the system has no such file, or refused.

    Example:
        >>> with perdure.open("weights.safetensors") as weights:
        ...     print(weights["fc.weight"].shape)
    """
    return Weights(open_stored(origin), prefix=prefix, map=map)


def prefix_start(prefix: str | None) -> str:
    """Return how the names under a prefix begin; a dot at its end may be given or not.

    Raises:
        InputError: it is no text.
    """
    if not isinstance(prefix, str | None):
        raise InputError(f"loading: prefix must be the beginning of names, such as 'encoder', not {prefix!r}.")
    return f"{prefix.rstrip('.')}." if prefix else ""


class Weights(Mapping[str, torch.Tensor]):
    """The tensors of a saved model, made when they are asked for.

    Every tensor begins at a multiple of 64 bytes (one that does not in the file is copied), since PyTorch gives other
    bits for misaligned weights. Tensors that were tied share memory.

    Attributes:
        path: what was opened.
        manifest: what perdure wrote about it; None for a file of another writer.
        digest: the root digest; empty where there is none.
        prefix: how the names in the file begin that are shown here without it, its dot included; empty for none.
    """

    def __init__(self, stored: StoredTensors, *, prefix: str | None = None, map: bool = True) -> None:
        prefix_start(prefix)
        left = stored.select(prefix)
        self._stored = stored
        self._restorer = Restorer(stored)
        self._map = map
        self._maps: dict[ByteSource, mmap.mmap | None] = {}
        self._copies: weakref.WeakValueDictionary[str, mmap.mmap] = weakref.WeakValueDictionary()
        self._offsets: dict[str, int] = {}
        self.prefix = start = prefix_start(left)
        self._names = {name[len(start) :]: name for name in self._restorer.names() if name.startswith(start)}
        if left and not self._names:
            raise MissingTensorError(f"reading {stored.where}: no tensor's name begins with {start!r}.")

    @property
    def path(self) -> str:
        return self._stored.where

    @property
    def manifest(self) -> Manifest | None:
        return self._stored.manifest

    @property
    def environment(self) -> Environment | None:
        """Where the file was written; None where it does not say."""
        return self.manifest.environment if self.manifest else None

    @cached_property
    def notes(self) -> Any:
        """The notes that were saved, as they were given; None where there are none."""
        return values.decode(self.manifest.notes, self.path) if self.manifest else None

    @property
    def digest(self) -> str:
        return self._stored.digest

    @property
    def format(self) -> str:
        """What kind of file it is, for people: `safetensors`, `torch zip archive`."""
        return self._stored.format

    @property
    def classes(self) -> dict[str, str]:
        """The class of each module by its name, where a whole model was pickled; none of them is imported."""
        stored = self._stored
        return dict(stored.state.classes) if isinstance(stored, ForeignStored) else {}

    @cached_property
    def extra(self) -> Any:
        """What the file holds beside the state dict (epoch, optimizer, hyperparameters), as plain data with tensors.

        Numbers, text, lists, dicts, tensors, NumPy arrays; None where there is nothing else. Objects of classes stay records
        that name the class (`.what`) and its arguments and attributes (`.args`, `.state`); plain namespaces are dicts.
        """
        stored = self._stored
        if not isinstance(stored, ForeignStored):
            return None
        names = stored.name_of
        return thaw(stored.state.rest, lambda record: self._restorer.derive(names[id(record)], self._fetch), self.path)

    @property
    def restorer(self) -> Restorer:
        """What makes the tensors, by their names in the file."""
        return self._restorer

    @cached_property
    def specs(self) -> dict[str, TensorSpec]:
        """Type, shape, size and digest of every tensor, from the headers of all files."""
        return {name: self.spec(name) for name in self._names}

    def spec(self, name: str) -> TensorSpec:
        """Type, shape, size and digest of one tensor; opens no other shard."""
        return self._restorer.spec(self.stored_name(name))

    @property
    def stored_names(self) -> Mapping[str, str]:
        """The tensors' names in the file, where a prefix may stand before them, by their names here."""
        return self._names

    def stored_name(self, name: str) -> str:
        """Return a tensor's name in the file, where a prefix may stand before it."""
        try:
            return self._names[name]
        except KeyError:
            raise MissingTensorError(f"reading {self.path}: there is no tensor {name!r}.") from None

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._restorer.derive(self.stored_name(name), self._fetch)

    def __repr__(self) -> str:
        return f"<perdure.Weights of {self.path}: {len(self)} tensors>"

    def read(self, name: str, index: Any = ...) -> torch.Tensor:
        """Return one tensor, or a part of it, in memory of its own.

        Args:
            name: the tensor.
            index: what would stand in brackets behind the tensor, e.g. `slice(0, 10)`. Of a plain stored tensor only
                the rows that the index's first part selects are read, without verification; a whole tensor is verified.
        """
        stored_name = self.stored_name(name)
        if index is ... or (isinstance(index, tuple) and not index):
            return self._restorer.read([stored_name], "checksum")[stored_name]
        first, *rest = index if isinstance(index, tuple) else (index,)
        try:
            if stored_name in self._stored and isinstance(first, (int, slice)) and not isinstance(first, bool):
                return self._read_rows(stored_name, first, tuple(rest))
            return copied(self[name][index])
        except (IndexError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"reading {self.path}: {index!r} is no index of tensor {name!r}: {error}.") from None

    def _read_rows(self, name: str, first: int | slice, rest: tuple[Any, ...]) -> torch.Tensor:
        dtype, shape = self._restorer.stored_type(name)
        if not shape:
            return copied(self._fetch(name)[(first, *rest)])
        rows = range(shape[0])[first]
        chosen = rows if isinstance(rows, range) else range(rows, rows + 1)
        low, high = (min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1]) + 1) if chosen else (0, 0)
        n_bytes = (high - low) * math.prod(shape[1:]) * dtype.itemsize
        memory = allocate(max(n_bytes, 1), self.path)
        if n_bytes:
            file = self._stored.file_of(name)
            file.source.read_into(file.offset(name) + n_bytes // (high - low) * low, [memoryview(memory)[:n_bytes]])
        part = from_memory(memory, 0, dtype, (high - low, *shape[1:]))
        picked = part[0] if isinstance(rows, int) else part[slice(None, None, abs(chosen.step))]
        if isinstance(rows, range) and chosen.step < 0:
            picked = picked.flip(0)
        return picked[rest if isinstance(rows, int) else (slice(None), *rest)]

    def verify(self, names: Iterable[str] | None = None, *, full: bool = False) -> None:
        """Read tensors, all unless named, and compare them with their checksums (with BLAKE3 too if `full`).

        Raises:
            DigestError: bytes are not those that were saved.
        """
        chosen = [self.stored_name(name) for name in (self._names if names is None else names)]
        for source in dict.fromkeys(source for name in chosen for source in self._restorer.sources(name)):
            read([want(source, self._stored.file_of(source))], "full" if full else "checksum")

    def _fetch(self, name: str) -> torch.Tensor:
        """Return a stored tensor: mapped where it can be, else read once for all who hold it."""
        file = self._stored.file_of(name)
        dtype, shape = self._restorer.stored_type(name)
        mapping = self._mapping(file)
        offset = file.offset(name)
        if mapping is not None and offset % ALIGNMENT == 0:
            return from_memory(mapping, offset, dtype, shape)
        memory = self._copies.get(name)
        if memory is None:
            slot = read([want(name, file)], False if mapping is not None else "checksum")[name]
            memory = self._copies[name] = slot.memory
            self._offsets[name] = slot.offset
        return from_memory(memory, self._offsets[name], dtype, shape)

    def _mapping(self, file: StoredFile) -> mmap.mmap | None:
        source = file.source
        if source not in self._maps:
            mapped = source.map() if self._map and source.prefers_mapping else None
            assert mapped is None or address_of(mapped) % ALIGNMENT == 0
            self._maps[source] = mapped
        return self._maps[source]

    def close(self) -> None:
        """Close the files; tensors that were handed out stay valid."""
        self._maps.clear()
        self._stored.close()

    def __enter__(self) -> Weights:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
