"""How much memory tensors take, from when each was made to when it is gone."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from typing import Any

import torch


class Ledger:
    """Keeps account of the storages that were made since it was opened and are still there.

    An account (`open`, `close`) tells the most that lived at once while it was open, beyond what lived when it was opened.
    """

    def __init__(self, known: Iterable[torch.Tensor]) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._accounts: list[tuple[int, int]] = []
        self._known = [storage for tensor in known for storage in storages_of(tensor)]
        self._is_known = {storage._cdata for storage in self._known}

    def note(self, tensor: torch.Tensor) -> None:
        """Take down a tensor that an operator gave, if its memory is new."""
        for storage in storages_of(tensor):
            key = storage._cdata
            if key in self._storages or key in self._is_known:
                continue
            n_bytes = storage.nbytes()
            self._storages[key] = weakref.ref(storage, functools.partial(self._free, key, n_bytes))
            self.live_bytes += n_bytes
            if self.live_bytes > self.peak_bytes:
                self.peak_bytes = self.live_bytes

    def note_transient(self, n_bytes: int) -> None:
        """Take down memory that was there for a moment, beside all that lives."""
        self.peak_bytes = max(self.peak_bytes, self.live_bytes + n_bytes)

    def _free(self, key: int, n_bytes: int, _: object) -> None:
        if self._storages.pop(key, None) is not None:
            self.live_bytes -= n_bytes

    def open(self) -> None:
        """Open an account within those that are open."""
        self._accounts.append((self.live_bytes, self.peak_bytes))
        self.peak_bytes = self.live_bytes

    def close(self) -> int:
        """Close the last account; returns its peak in bytes."""
        before, peak = self._accounts.pop()
        found = self.peak_bytes - before
        self.peak_bytes = max(self.peak_bytes, peak)
        return found


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of the memory that tensors lie in, shared memory once."""
    return sum({storage._cdata: storage.nbytes() for tensor in tensors for storage in storages_of(tensor)}.values())


def storages_of(tensor: torch.Tensor) -> list[torch.UntypedStorage]:
    """Return the memory that a tensor lies in: of a sparse one that of its parts, of one without memory none."""
    if tensor.layout is torch.sparse_coo:
        return [*storages_of(tensor._indices()), *storages_of(tensor._values())]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [
            part for one in (tensor.crow_indices(), tensor.col_indices(), tensor.values()) for part in storages_of(one)
        ]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [
            part for one in (tensor.ccol_indices(), tensor.row_indices(), tensor.values()) for part in storages_of(one)
        ]
    try:
        return [tensor.untyped_storage()]
    except (NotImplementedError, RuntimeError):  # opaque ones, and subclasses that wrap others
        return []
