"""The tensors of a file as a summary lists them: ties counted once, memory that is shared counted once."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence

from perdure.disk.specs import all_specs
from perdure.disk.stored import StoredTensors
from perdure.foreign.shapes import contiguous_stride
from perdure.records.dtypes import ENCODED_BYTES
from perdure.records.reports import TensorSpec
from perdure.records.summary.sharing import Place, own_bytes
from perdure.records.summary.summary import Shape, SummaryTensor


@dataclasses.dataclass(frozen=True)
class Held:
    """A tensor that is to be listed.

    Attributes:
        name: its name in the model.
        dtype: its type, as `SummaryTensor.dtype`.
        shape: its sizes.
        places: where its bytes are.
        role: `"parameter"` or `"buffer"`; empty for what is neither.
        trainable: it gets gradients.
        identity: the same for those that are one tensor.
    """

    name: str
    dtype: str
    shape: Shape
    places: tuple[Place, ...]
    role: str
    trainable: bool
    identity: Hashable


def listed(tensors: Sequence[Held]) -> list[SummaryTensor]:
    """Return the tensors for the rows of a summary, in the same order."""
    firsts: dict[Hashable, str] = {}
    sizes = own_bytes([tensor.places for tensor in tensors])
    found: list[SummaryTensor] = []
    for tensor, n_bytes in zip(tensors, sizes, strict=True):
        first = firsts.setdefault(tensor.identity, tensor.name)
        tied = "" if first == tensor.name else first
        found.append(
            SummaryTensor(tensor.name, tensor.dtype, tensor.shape, n_bytes, tensor.role, tensor.trainable, tied)
        )
    return found


class Places:
    """Where the tensors of an opened file are, and what each is.

    Args:
        stored: the file.
        mark: tells its memory from that of other files.
    """

    def __init__(self, stored: StoredTensors, mark: str = "") -> None:
        self.stored = stored
        self.specs = all_specs(stored)
        self._mark = mark

    def __contains__(self, name: str) -> bool:
        return name in self.specs

    def dtype(self, name: str) -> str:
        """Return the type of a tensor; of one in blocks, their format."""
        composed = self.stored.composed.get(name)
        return composed.layout if composed and "blocks" in composed.parts else self.specs[name].dtype

    def gets_gradients(self, name: str) -> bool:
        """Tell whether a tensor gets gradients, as far as a manifest says it."""
        derived = self.stored.composed.get(name) or self.stored.aliases.get(name)
        record = derived or self.stored.file_of(name).record(name)
        return record is not None and record.requires_grad

    def places(self, name: str) -> tuple[Place, ...]:
        """Return where the bytes of a tensor are."""
        return tuple(self._place(part) for part in self._parts(name))

    def geometry(self, name: str) -> Hashable:
        """Return what is the same for tensors that have the same elements in the same memory; of none, its name."""
        spec = self.specs[name]
        if 0 in spec.shape:
            return name
        parts = tuple((self._place(part), self._steps(part)) for part in self._parts(name))
        return self.dtype(name), spec.shape, parts

    def _parts(self, name: str) -> Iterator[str]:
        composed = self.stored.composed.get(name)
        yield from composed.parts.values() if composed else (name,)

    def _place(self, name: str) -> Place:
        alias = self.stored.aliases.get(name)
        owner = alias.of if alias else name
        file = self.stored.file_of(owner)
        memory, start = f"{self._mark}{id(file.source)}", file.offset(owner)
        if alias is None:
            n_bytes = file.header.entries[owner].n_bytes
            return Place(memory, start, start + n_bytes, n_bytes)
        spec = self.specs[name]
        item_bytes = ENCODED_BYTES[spec.dtype]
        start += alias.offset * item_bytes
        if 0 in alias.shape:
            return Place(memory, start, start, 0)
        span = 1 + sum((size - 1) * step for size, step in zip(alias.shape, alias.stride, strict=True))
        return Place(memory, start, start + span * item_bytes, min(_n_bytes(spec), span * item_bytes))

    def _steps(self, name: str) -> tuple[tuple[int, int], ...]:
        """Return the axes of a tensor with their steps, less those that have a single place."""
        alias, shape = self.stored.aliases.get(name), self.specs[name].shape
        stride = alias.stride if alias else contiguous_stride(shape)
        return tuple((size, step) for size, step in zip(shape, stride, strict=True) if size != 1)


def _n_bytes(spec: TensorSpec) -> int:
    n_bytes = ENCODED_BYTES[spec.dtype]
    for size in spec.shape:
        n_bytes *= size
    return n_bytes
