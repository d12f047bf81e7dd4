"""Types of PyTorch and their names in a file."""

from __future__ import annotations

import functools
import sys

import torch

from perdure.errors import CorruptError, InputError, ProtocolError
from perdure.records.dtypes import SHORT_NAMES, STORED_NAMES


def require_little_endian(doing: str) -> None:
    """Refuse a machine whose memory does not hold numbers as the files do; `doing` is `saving` or `reading <file>`.

    Raises:
        InputError: this machine is big-endian.
    """
    if sys.byteorder != "little":
        raise InputError(
            f"{doing}: this machine is big-endian, and tensors are moved between file and memory as they are. Use a "
            f"little-endian machine; `perdure info` and `perdure check` work here."
        )


@functools.cache
def short_name(dtype: torch.dtype | torch.layout) -> str:
    """Return the name of a type or a layout less `torch.`: `float32`."""
    return str(dtype).removeprefix("torch.")


@functools.cache
def stored_name(dtype: torch.dtype) -> str | None:
    """Return the safetensors type for a type of PyTorch, or None where it is stored as bytes."""
    return STORED_NAMES.get(short_name(dtype))


def kind_of(tensor: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    """Return a tensor's type, with its layout where that is a sparse one, and its shape."""
    return with_layout(short_name(tensor.dtype), short_name(tensor.layout)), tuple(tensor.shape)


def with_layout(dtype: str, layout: str) -> str:
    """Name a type together with a sparse layout: `float32 sparse_coo`; others are shown by the type alone."""
    return f"{dtype} {layout}" if layout.startswith("sparse") else dtype


def is_plain(kind: str) -> bool:
    """Tell whether a type, as `with_layout` names it, is that of a dense tensor which is not quantized."""
    return " " not in kind and not kind.startswith("q")


def can_cast(one: str, other: str) -> bool:
    """Tell whether a tensor of the first kind may become one of the second: both dense, neither quantized."""
    if not (is_plain(one) and is_plain(other)):
        return False
    return _can_convert(by_name(one, "the file"), by_name(other, "the model"))


@functools.cache
def _can_convert(one: torch.dtype, other: torch.dtype) -> bool:
    """Tell whether PyTorch allows a cast and has it, which for its younger types, such as `int4`, it often has not."""
    if not torch.can_cast(one, other):
        return False
    try:
        torch.empty(1, dtype=one).to(other)
    except RuntimeError:
        return False
    return True


def by_name(name: str, where: str) -> torch.dtype:
    """Return the type of PyTorch of that name.

    Raises:
        ProtocolError: this PyTorch has no such type.
    """
    found = getattr(torch, name, None) if name.isidentifier() else None
    if not isinstance(found, torch.dtype):
        raise ProtocolError(
            f"reading {where}: the type {name!r} is not known to PyTorch {torch.__version__}. Upgrade it."
        )
    return found


@functools.cache
def from_stored(stored: str, where: str) -> torch.dtype:
    """Return the type of PyTorch for a safetensors type."""
    return by_name(SHORT_NAMES[stored], where)


def torch_shape(stored: str, shape: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return a tensor's shape in PyTorch, which counts a pair of 4-bit numbers as one element."""
    if stored != "F4":
        return shape
    if not shape or shape[-1] % 2:
        raise CorruptError(f"reading {where}: 4-bit numbers of shape {shape} do not come in pairs.")
    return (*shape[:-1], shape[-1] // 2)


def stored_shape(stored: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape in the file of a tensor of PyTorch."""
    return (*shape[:-1], shape[-1] * 2) if stored == "F4" else shape
