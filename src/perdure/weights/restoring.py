"""Stored bytes become tensors: plain ones in place, then those that are derived from them."""

from __future__ import annotations

import math
import mmap
from collections.abc import Callable, Iterable, Mapping

import torch

from perdure.disk.consistency import check_alias
from perdure.disk.reading import read, want
from perdure.disk.stored import StoredFile, StoredTensors
from perdure.errors import CorruptError, MissingTensorError, ProtocolError, UnsupportedModelError
from perdure.foreign.gguf.types import BLOCK_TYPES
from perdure.records.dtypes import ENCODED_BYTES
from perdure.records.manifest import Alias, Composed
from perdure.records.reports import TensorSpec
from perdure.weights.dequantizing import dequantized
from perdure.weights.dtypes import (
    by_name,
    from_stored,
    require_little_endian,
    short_name,
    torch_shape,
    with_layout,
)
from perdure.weights.storing import as_integers

_make_per_tensor = getattr(torch, "_make_per_tensor_quantized_tensor")  # noqa: B009 - public functions only quantize floats
_make_per_channel = getattr(torch, "_make_per_channel_quantized_tensor")  # noqa: B009

_negated = getattr(torch, "_neg_view")  # noqa: B009

Fetch = Callable[[str], torch.Tensor]
Type = tuple[torch.dtype, tuple[int, ...]]
Make = Callable[[tuple[int, ...], torch.dtype], torch.Tensor]


def from_memory(memory: mmap.mmap, offset: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor over memory that it keeps alive; it has a storage and a version counter of its own."""
    if 0 in shape:
        return torch.empty(shape, dtype=dtype, device="cpu")
    flat = torch.frombuffer(memory, dtype=dtype, count=math.prod(shape), offset=offset)
    if len(shape) == 1:
        return flat
    return flat.view(*shape) if shape else flat.view(())


class Restorer:
    """Turns the bytes of a saved model into tensors: stored ones as they are, others derived from them."""

    def __init__(self, stored: StoredTensors) -> None:
        require_little_endian(f"reading {stored.where}")
        self.stored = stored
        self._aliases = stored.aliases
        self._composed = stored.composed
        self._types: dict[str, Type] = {}

    @property
    def owners(self) -> dict[str, str]:
        """The stored tensor in whose memory each alias lies."""
        return {name: alias.of for name, alias in self._aliases.items()}

    def names(self) -> tuple[str, ...]:
        """Return the names that the saver knew."""
        return self.stored.tensor_names()

    def stored_type(self, name: str) -> Type:
        """Return type and shape of a stored tensor as PyTorch has it."""
        found = self._types.get(name)
        if found is None:
            found = self._types[name] = _type_in(self.stored.file_of(name), name)
        return found

    def type_of(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Return the type's name and the shape of any tensor, from the headers alone."""
        if name in self._aliases:
            alias = self._aliases[name]
            return short_name(self.stored_type(alias.of)[0]), alias.shape
        if name in self._composed:
            composed = self._composed[name]
            return composed.dtype or self._values_type(composed), composed.shape
        dtype, shape = self.stored_type(name)
        return short_name(dtype), shape

    def kind_of(self, name: str) -> tuple[str, tuple[int, ...]]:
        """Return a tensor's type, with its layout where that is a sparse one, and its shape."""
        found = self.type_of(name)
        composed = self._composed.get(name)
        return (with_layout(found[0], composed.layout), found[1]) if composed else found

    def _values_type(self, composed: Composed) -> str:
        if "values" not in composed.parts:
            raise CorruptError(f"reading {self.stored.where}: a tensor of layout {composed.layout!r} has no values.")
        return self.type_of(composed.parts["values"])[0]

    def spec(self, name: str) -> TensorSpec:
        """Describe a tensor from the headers alone."""
        dtype, shape = self.type_of(name)
        if name in self._aliases:
            alone = self._aliases[name].of in self.stored.hidden
            return TensorSpec(name, dtype, shape, math.prod(shape) * ENCODED_BYTES[dtype] if alone else 0)
        n_bytes = sum(self.stored.entry(source).n_bytes for source in self.sources(name))
        record = self.stored.file_of(name).record(name) if name in self.stored else None
        return TensorSpec(name, dtype, shape, n_bytes, record.blake3 if record else "")

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the stored tensors that a tensor is made from.

        Raises:
            MissingTensorError: no tensor of that name.
        """
        if name in self.stored:
            return (name,)
        if name in self._aliases:
            return (self._aliases[name].of,)
        if name in self._composed:
            parts = self._composed[name].parts.values()
            return tuple(dict.fromkeys(source for part in parts for source in self.sources(part)))
        raise MissingTensorError(f"reading {self.stored.where}: there is no tensor {name!r}.")

    def sharing(self, origins: Mapping[str, str]) -> set[str]:
        """Return those keys whose tensors lie in one memory with another's, once all tensors were read together.

        Args:
            origins: names of tensors in the file, by any key.
        """
        if not self._aliases and len(set(origins.values())) == len(origins):
            return set()
        keys: dict[str, list[str]] = {}
        for key, name in origins.items():
            for source in self.sources(name):
                keys.setdefault(source, []).append(key)
        return {key for together in keys.values() if len(together) > 1 for key in together}

    def derive(self, name: str, fetch: Fetch) -> torch.Tensor:
        """Return a tensor, made from stored ones that `fetch` gives."""
        if name in self._aliases:
            return _alias(name, self._aliases[name], fetch, self.stored.where)
        if name in self._composed:
            return _compose(name, self._composed[name], lambda part: self.derive(part, fetch), self.stored.where)
        return fetch(name)

    def read(self, names: Iterable[str], verify: str | bool, *, laid_out: bool = False) -> dict[str, torch.Tensor]:
        """Read tensors into memory of their own; what was tied shares memory again.

        Args:
            names: of the tensors.
            verify: what is compared: `"checksum"`, `"full"` or False.
            laid_out: let the axes lie in memory as they did when it was saved, where nothing shares that memory.

        Raises:
            DigestError: bytes are not those that were saved.
            CorruptError: the file names an order of axes that is none.
        """
        names = list(names)
        wanted = dict.fromkeys(source for name in names for source in self.sources(name))
        slots = read([want(name, self.stored.file_of(name)) for name in wanted], verify)
        plain = {name: from_memory(slot.memory, slot.offset, *self.stored_type(name)) for name, slot in slots.items()}
        if laid_out:
            alone = plain.keys() - self.owners.values()
            plain |= {name: _laid_out(plain[name], self._axes(name), self.stored.where) for name in alone}
        return {name: self.derive(name, plain.__getitem__) for name in names}

    def unread(self, names: Iterable[str], make: Make) -> dict[str, torch.Tensor]:
        """Make tensors of the types, shapes and layouts in memory that `read` gives, without reading any.

        Args:
            names: of the tensors.
            make: makes a contiguous tensor of a shape and a type.

        Raises:
            UnsupportedModelError: one of them is of a sparse layout or quantized.
            CorruptError: as `read`.
        """
        names = list(names)
        composed = [name for name in names if name in self._composed]
        if composed:
            layout = self._composed[composed[0]].layout
            raise UnsupportedModelError(
                f"reading {self.stored.where}: {composed[0]!r} is {layout}, and such a tensor cannot be had without its "
                f"content. Load the model."
            )
        shared = set(self.owners.values())
        made: dict[str, torch.Tensor] = {}
        for name in {source: None for wanted in names for source in self.sources(wanted)}:
            dtype, shape = self.stored_type(name)
            axes = self._axes(name) if name not in shared else ()
            _check_axes(axes, len(shape), self.stored.where)
            tensor = make(tuple(shape[axis] for axis in axes or range(len(shape))), dtype)
            made[name] = tensor.permute(_inverse(axes)) if axes else tensor
        return {name: self.derive(name, made.__getitem__) for name in names}

    def _axes(self, name: str) -> tuple[int, ...]:
        record = self.stored.file_of(name).record(name)
        return record.axes if record else ()


def _laid_out(tensor: torch.Tensor, axes: tuple[int, ...], where: str) -> torch.Tensor:
    """Return a tensor whose axes lie in memory in another order."""
    if not axes:
        return tensor
    _check_axes(axes, tensor.dim(), where)
    turned = as_integers(tensor).permute(axes)
    laid = turned.reshape(-1).view(turned.shape)  # which gives axes of one element the usual strides too
    return laid.permute(_inverse(axes)).view(tensor.dtype)


def _check_axes(axes: tuple[int, ...], n_axes: int, where: str) -> None:
    if axes and sorted(axes) != list(range(n_axes)):
        raise CorruptError(f"reading {where}: {list(axes[:10])} is no order of the axes of a tensor of {n_axes}.")


def _inverse(axes: tuple[int, ...]) -> list[int]:
    return [axes.index(number) for number in range(len(axes))]


def _type_in(file: StoredFile, name: str) -> Type:
    entry, encoded = file.header.entries[name], file.encoded_type(name)
    if not encoded:
        return from_stored(entry.dtype, file.where), torch_shape(entry.dtype, entry.shape, file.where)
    dtype = by_name(encoded, file.where)
    if encoded not in ENCODED_BYTES:
        raise ProtocolError(
            f"reading {file.where}: tensor {name!r} is of the type {encoded!r}, which this perdure does not know. "
            f"Upgrade perdure."
        )
    if not entry.shape or entry.shape[-1] != dtype.itemsize:
        raise CorruptError(f"reading {file.where}: tensor {name!r} does not have the bytes of {encoded}.")
    return dtype, entry.shape[:-1]


def _alias(name: str, alias: Alias, fetch: Fetch, where: str) -> torch.Tensor:
    owner = fetch(alias.of)
    check_alias(name, alias, owner.numel(), where)
    return torch.as_strided(owner, alias.shape, alias.stride, alias.offset)


def _compose(name: str, record: Composed, fetch: Fetch, where: str) -> torch.Tensor:
    try:
        parts = {part: fetch(stored) for part, stored in record.parts.items()}
        if record.layout in _OF_OTHERS:
            return _OF_OTHERS[record.layout](parts["values"])
        if record.layout in BLOCK_TYPES:
            return dequantized(record.layout, parts["blocks"], record.shape)
        if record.layout == "quantized":
            return _quantized(record, parts)
        with torch.device("cpu"):  # the checks of invariants make tensors on the default device
            return _sparse(record, parts)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise CorruptError(f"reading {where}: tensor {name!r} cannot be put together ({str(error)[:200]}).") from None


_OF_OTHERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "conj": torch.conj,
    "neg": _negated,
    "conj neg": lambda values: _negated(torch.conj(values)),
}
"""Marks that other writers' tensors may have; they are applied when the values are read."""


def _sparse(record: Composed, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    if record.layout == "sparse_coo":
        return torch.sparse_coo_tensor(
            parts["indices"], parts["values"], record.shape, check_invariants=True, is_coalesced=record.coalesced
        )
    by_rows = record.layout in ("sparse_csr", "sparse_bsr")
    outer, inner = ("crow_indices", "col_indices") if by_rows else ("ccol_indices", "row_indices")
    layout = {
        "sparse_csr": torch.sparse_csr,
        "sparse_csc": torch.sparse_csc,
        "sparse_bsr": torch.sparse_bsr,
        "sparse_bsc": torch.sparse_bsc,
    }[record.layout]
    return torch.sparse_compressed_tensor(
        parts[outer], parts[inner], parts["values"], record.shape, layout=layout, check_invariants=True
    )


def _quantized(record: Composed, parts: dict[str, torch.Tensor]) -> torch.Tensor:
    integers = parts["int_repr"]
    if tuple(integers.shape) != record.shape:
        raise ValueError(f"int_repr has the shape {tuple(integers.shape)}, not {record.shape}")
    if "scales" not in parts:
        made = _make_per_tensor(integers, record.scale, record.zero_point)
    else:
        axis = record.axis
        if axis >= len(record.shape) or parts["scales"].shape != (record.shape[axis],):
            raise ValueError("scales do not fit the axis")
        if parts["zero_points"].shape != parts["scales"].shape:
            raise ValueError("zero points do not fit the axis")
        made = _make_per_channel(integers, parts["scales"], parts["zero_points"], axis)
    if short_name(made.dtype) != record.dtype:
        raise ValueError(f"int_repr of {integers.dtype} gives {made.dtype}, not {record.dtype}")
    return made
