"""Pickles that are a file of their own, as `pickle.dump` writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from perdure.disk.faults import broken
from perdure.disk.sources import ByteSource, BytesSource
from perdure.errors import CorruptError, FormatError
from perdure.foreign.inert import Content, Storage, Use
from perdure.foreign.pickles.interpreting import interpret
from perdure.foreign.pytorch.legacy_files import is_torch_legacy, read_torch_legacy

_OLDEST = frozenset(b"(c]}lIFSVNLiKMJGXTU.0pqrRhjgtdasuebPQ")
"""The opcodes with which a pickle of a protocol before 2, which has no beginning of its own, may begin."""


def is_pickle(first: bytes) -> bool:
    """Tell from the first bytes of a file whether it is a pickle of protocol 2 or later."""
    return len(first) > 1 and first[0] == 0x80 and first[1] <= 5


def may_be_old_pickle(first: bytes) -> bool:
    """Tell from the first bytes of a file whether it may be a pickle of protocol 0 or 1, which looks like text."""
    return first[:1] != b"" and first[0] in _OLDEST


def read_pickle(source: ByteSource, uses: list[Use]) -> Content:
    """Read a file that is a pickle.

    Args:
        source: the file.
        uses: receives what it names, also where reading fails.

    Raises:
        CorruptError: damaged, or more follows after its end.
        FormatError: joblib wrote it, with the bytes of arrays between opcodes, where other readers find opcodes too.
        LimitError: as `interpret`.
    """
    try:
        return Content("pickle", interpret_whole(source, 0, source.n_bytes, source.where, uses=uses))
    except CorruptError:
        if not any(use.what.module.endswith("joblib.numpy_pickle") for use in uses):
            raise
        raise FormatError(
            f"reading {source.where}: it is joblib's own kind of pickle, with the bytes of arrays between its opcodes, "
            f"which is not read. Load it with joblib, and save the arrays with numpy.savez or the object with pickle.dump."
        ) from None


def interpret_whole(
    source: ByteSource,
    start: int,
    stop: int,
    where: str,
    *,
    uses: list[Use],
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """Interpret a pickle that ends where its bytes do; returns its value.

    Raises:
        CorruptError, LimitError: as `interpret`; also where more bytes follow.
    """
    nested = _Nested(where, uses)
    found = interpret(source, start, stop, where, persistent=persistent, nested=nested, uses=uses)
    if found.end != stop:
        raise broken(where, f"{stop - found.end} bytes follow after the end of its pickle.")
    return found.value


class _Nested:
    """Reads a file of torch.save that stands within a pickle as bytes, as that of a tensor does in `pickle.dump`."""

    def __init__(self, where: str, uses: list[Use]) -> None:
        self._where, self._uses = where, uses

    def __call__(self, content: bytes | Storage) -> Any:
        if isinstance(content, Storage):
            content = content.source.read(content.position, content.n_bytes)
        if not is_torch_legacy(content[:64]):
            raise broken(self._where, "a file within its pickle is none of torch.save.")
        return read_torch_legacy(BytesSource(content, f"{self._where}, a file within its pickle"), self._uses).value
