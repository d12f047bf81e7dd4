"""What must hold for any file, and how two readers' values are compared."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch

import perdure
from perdure.errors import FormatError, PerdureError, StorageError
from perdure.foreign.inert import Made, Named
from perdure.summaries.files import summarize_file


class Disagreement(Exception):
    """Something that must hold does not."""


def compare(origin: Any, peer: Callable[[bytes], Any] | None) -> str:
    """Read a file, and compare what it holds with what a peer reads from it.

    Returns:
        `compared`, `accepted` where the peer refuses it or there is none, or the kind of error that refused it.

    Raises:
        Disagreement: an error that does not fit, or other values than the peer's.
    """
    try:
        verdict = perdure.check(origin).verdict
    except PerdureError as error:
        verdict = type(error).__name__
    try:
        with perdure.open(origin) as weights:
            tensors = {name: weights[name] for name in weights}
            _ = weights.extra
        summarize_file(origin)
        value = _checkpoint(origin)
    except StorageError as error:
        if isinstance(origin, bytes):
            raise Disagreement(f"{type(error).__name__} of bytes: {error}") from None
        return type(error).__name__
    except PerdureError as error:
        _see_that_it_fits(error, verdict)
        return type(error).__name__
    if verdict == "dangerous":
        raise Disagreement("it was opened, and check calls it dangerous")
    if peer is None or verdict != "safe" or _has_records(value):
        return "accepted"  # what is a record here may be what crashes the peer
    try:
        expected = peer(origin)
    except Exception:  # a peer refuses in many ways
        return "accepted"
    if value is None and isinstance(expected, Mapping):  # the parts of composed tensors have names of their own
        expected = {name: tensor for name, tensor in expected.items() if name in tensors}
        tensors = {name: tensors[name] for name in expected}
    if not _same(value, expected) and not _same(tensors, expected):
        raise Disagreement(f"values differ:\n{_shown(value)}\n{_shown(expected)}")
    return "compared"


def _checkpoint(origin: Any) -> Any:
    try:
        return perdure.load_checkpoint(origin)
    except FormatError as error:
        if "not a checkpoint" in str(error):
            return None
        raise


def _has_records(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Made | Named) or depth > 20:
        return True
    if isinstance(value, Mapping):
        return any(_has_records(inner, depth + 1) for pair in value.items() for inner in pair)
    return isinstance(value, list | tuple | set | frozenset) and any(_has_records(inner, depth + 1) for inner in value)


def _see_that_it_fits(error: PerdureError, verdict: str) -> None:
    message = str(error)
    if not message.isprintable() or not 20 < len(message) < 2000:
        raise Disagreement(f"the message is {message[:3000]!r}")
    if verdict in ("safe", "needs code") and type(error).__name__ == "UnsafeError":
        raise Disagreement(f"check says {verdict!r}, and opening it: {message}")


def _same(a: Any, b: Any, depth: int = 0) -> bool:
    """Tell whether two nestings hold the same, bit for bit; NaN is NaN."""
    if depth > 100:
        return True
    if isinstance(a, Made | Named):
        return True  # a record of what is not made here
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return _same_tensors(a, b)
    if isinstance(b, np.ndarray | np.generic):
        a, b = np.asarray(a), np.asarray(b)
        return np.array_equal(a, b) or a.tobytes() == b.astype(b.dtype.newbyteorder("=")).tobytes()
    if isinstance(b, Mapping):
        return isinstance(a, Mapping) and len(a) == len(b) and all(_same_item(a, key, b, depth) for key in b)
    if isinstance(b, list | tuple):
        return isinstance(a, list | tuple) and len(a) == len(b) and all(map(lambda x, y: _same(x, y, depth + 1), a, b))
    if isinstance(b, PurePath):
        return str(a) == str(b)
    if isinstance(b, float):
        return isinstance(a, float) and (a == b or (math.isnan(a) and math.isnan(b)))
    return type(a) is type(b) and (a == b or a != a)


def _same_item(a: Mapping[Any, Any], key: Any, b: Mapping[Any, Any], depth: int) -> bool:
    """Compare what two mappings have for a key; what is a record here, or does not equal itself, is not looked for."""
    return not _is_plain(key) or key != key or (key in a and _same(a[key], b[key], depth + 1))


def _is_plain(key: Any) -> bool:
    return all(map(_is_plain, key)) if isinstance(key, tuple) else isinstance(key, str | bytes | int | float | None)


def _same_tensors(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray | np.generic):
        b = torch.from_numpy(np.array(b)) if not isinstance(b, torch.Tensor) else b
    if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
        return False
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.is_quantized:
        return torch.equal(a.int_repr(), b.int_repr())
    if a.layout != torch.strided:
        return _bits(a.to_dense()) == _bits(b.to_dense())
    return _bits(a) == _bits(b)


def _bits(tensor: torch.Tensor) -> bytes:
    whole = tensor.detach().resolve_conj().resolve_neg().reshape(-1).clone(memory_format=torch.contiguous_format)
    return whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b""


def _shown(value: Any) -> str:
    return repr(value)[:1500]
