"""One side of a comparison: a file, a module or a mapping of tensors, whose elements come in blocks of bounded size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from blake3 import blake3
from torch import nn

from perdure.disk.memory import Piece
from perdure.disk.sources import name_of
from perdure.errors import InputError
from perdure.records.manifest import PARTS, Alias, Manifest
from perdure.records.reports import TensorSpec
from perdure.weights.blocks import Blocks
from perdure.weights.capture import capture
from perdure.weights.dtypes import short_name
from perdure.weights.opening import Weights
from perdure.weights.opening import open as open_weights


@contextlib.contextmanager
def opened(origin: object) -> Iterator[Side]:
    """Open one side; what was given opened stays so.

    Raises:
        InputError: neither a file, nor a module or a mapping.
    """
    if isinstance(origin, nn.Module):
        yield Side(f"<{type(origin).__name__}>", capture(origin).tensors)
    elif isinstance(origin, Weights):
        yield Side(origin.path, origin)
    elif isinstance(origin, Mapping):
        yield Side(f"<{type(origin).__name__}>", capture(origin).tensors)
    else:
        with open_weights(origin) as weights:  # type: ignore[arg-type]
            yield Side(name_of(origin), weights)


class Side:
    """The tensors of one side.

    Attributes:
        where: what it is called.
        tensors: by name; those of a file are made when they are asked for.
        weights: the opened file; None for tensors in memory.
        specs: what each is.
    """

    def __init__(self, where: str, tensors: Mapping[str, torch.Tensor]) -> None:
        self.where = where
        self.tensors = tensors
        self.weights = tensors if isinstance(tensors, Weights) else None
        self.specs: Mapping[str, TensorSpec] = self.weights.specs if self.weights else _specs(tensors)
        self._blocks = Blocks(tensors, where)

    @property
    def manifest(self) -> Manifest | None:
        return self.weights.manifest if self.weights else None

    @property
    def digest(self) -> str:
        return self.weights.digest if self.weights else ""

    def digest_of(self, name: str) -> str:
        """Return what identifies the content of a tensor, if its file says it: that of its owner, with its place there."""
        if self.weights is None:
            return ""
        alias = self._alias(name)
        if alias is None:
            return self.specs[name].digest
        stored = self.weights.restorer.stored
        record = stored.file_of(alias.of).record(alias.of)
        return f"{record.blake3} {alias.offset} {alias.shape} {alias.stride}" if record else ""

    def owner(self, name: str) -> str:
        """Return the tensor in whose memory a tensor of a file lies; empty where that is its own."""
        alias = self._alias(name)
        if alias is None or self.weights is None:
            return ""
        given = {old: new for new, old in self.weights.stored_names.items()}
        return given.get(alias.of, "" if alias.of in self.weights.restorer.stored.hidden else alias.of)

    def _alias(self, name: str) -> Alias | None:
        weights = self.weights
        return weights.restorer.stored.aliases.get(weights.stored_name(name)) if weights is not None else None

    def is_dense(self, name: str) -> bool:
        """Tell whether a tensor's elements are all that it consists of: it is neither sparse nor quantized."""
        if self.weights is None:
            tensor = self.tensors[name]
            return tensor.layout is torch.strided and not tensor.is_quantized
        composed = self.weights.restorer.stored.composed.get(self.weights.stored_name(name))
        return composed is None or composed.layout not in PARTS

    def blocks(self, name: str, n_elements: int) -> Iterator[torch.Tensor]:
        """Give a dense tensor's elements in logical order, `n_elements` at a time, flat; each only until the next."""
        return self._blocks.of(name, n_elements)

    def content(self, name: str) -> str:
        """Return the digest (BLAKE3) of a dense tensor: the one that its file states, or else of what is read for it."""
        if self.specs[name].digest:
            return self.specs[name].digest
        digest = blake3()
        for block in self.blocks(name, _DIGEST_ELEMENTS):
            digest.update(bytes_of(block))
        return digest.hexdigest()


_DIGEST_ELEMENTS = 2**18


def bytes_of(block: torch.Tensor) -> memoryview:
    """Return the bytes of a flat, contiguous tensor in memory, which has to stay alive meanwhile."""
    return Piece(block.data_ptr(), block.nbytes, block).view()


def _specs(tensors: Mapping[str, Any]) -> dict[str, TensorSpec]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or tensor.is_meta:
            raise InputError(f"comparing: {name!r} is no tensor with values.")
    return {
        name: TensorSpec(name, short_name(tensor.dtype), tuple(tensor.shape), tensor.numel() * tensor.element_size())
        for name, tensor in tensors.items()
    }
