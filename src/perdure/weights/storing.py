"""Tensors become items that the disk layer writes: every layout and type, stored faithfully or refused by name."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import msgspec
import torch
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.parameter import Parameter, UninitializedBuffer, UninitializedParameter

from perdure.disk.memory import Piece
from perdure.disk.writing import SEGMENT_BYTES, Item
from perdure.errors import InputError, UnsupportedTensorError
from perdure.records.manifest import Alias, Composed
from perdure.weights.aliases import is_dense, relate
from perdure.weights.dtypes import require_little_endian, short_name, stored_name, stored_shape


class Role(msgspec.Struct, frozen=True, gc=False):
    """What a tensor is in its model: `"parameter"`, `"buffer"`, or `""` where that is not known."""

    role: str = ""
    requires_grad: bool = False


NO_ROLE = Role()


@dataclasses.dataclass
class Holdings:
    """Tensors made ready for the disk: what is stored, and what is derived from that."""

    items: list[Item] = dataclasses.field(default_factory=list)
    roles: dict[str, Role] = dataclasses.field(default_factory=dict)
    encoded: dict[str, str] = dataclasses.field(default_factory=dict)
    axes: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    aliases: dict[str, Alias] = dataclasses.field(default_factory=dict)
    composed: dict[str, Composed] = dataclasses.field(default_factory=dict)
    overlaps: list[tuple[str, str]] = dataclasses.field(default_factory=list)


def hold(tensors: dict[str, torch.Tensor], roles: dict[str, Role]) -> Holdings:
    """Make tensors ready for the disk; nothing is copied yet.

    Raises:
        UnsupportedTensorError: a tensor that cannot be stored; the message names it and the reason.
        InputError: a name that a file cannot hold, or a big-endian machine.
    """
    require_little_endian("saving")
    for name, tensor in tensors.items():
        _check_name(name)
        refuse(name, tensor)
    relations = relate(tensors)
    holdings = Holdings(overlaps=relations.overlaps)
    for name, tensor in tensors.items():
        role = roles.get(name, NO_ROLE)
        if sharing := relations.aliases.get(name):
            holdings.aliases[name] = Alias(**sharing._asdict(), **msgspec.structs.asdict(role))
        elif tensor.is_quantized or tensor.layout is not torch.strided:
            _hold_composed(holdings, name, tensor, role, tensors.keys())
        else:
            _hold_dense(holdings, name, tensor, role)
    return holdings


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise InputError(f"saving: the key {name!r} is a {type(name).__name__}; tensors are named by text. Rename it.")
    if name == "__metadata__":
        raise InputError("saving: no tensor may be called '__metadata__' in a safetensors file. Rename it.")
    if not name.isascii() and any("\ud800" <= letter <= "\udfff" for letter in name):
        raise InputError(f"saving: the key {name!r} is not valid Unicode. Rename it.")


def refuse(name: str, tensor: object) -> None:
    """Raise where a tensor cannot be stored.

    Raises:
        UnsupportedTensorError: see there.
    """
    if type(tensor) not in _TYPES:
        raise UnsupportedTensorError(f"saving tensor {name!r}: {_reason_of_type(tensor)}")
    assert isinstance(tensor, torch.Tensor)
    quantized = tensor.is_quantized
    if tensor.is_meta:
        reason = "it is on the meta device, so it has no values. Load or initialise the model before saving it."
    elif tensor.is_nested:
        reason = "it is a nested tensor. Save its values and offsets, or its parts, under names of their own."
    elif is_functorch_wrapped_tensor(tensor):
        reason = "it belongs to a running transform (vmap, grad). Save outside of the transform."
    elif tensor.layout not in _LAYOUTS:
        reason = f"its layout {tensor.layout} cannot be stored. Convert it, e.g. with to_dense()."
    elif quantized and tensor.qscheme() not in _QUANTIZERS:
        reason = f"its quantization {tensor.qscheme()} cannot be stored. Save int_repr() and its parameters."
    elif quantized and tensor.qscheme() in _PER_TENSOR and not math.isfinite(tensor.q_scale()):
        reason = f"its scale is {tensor.q_scale()}, with which it has no values. Quantize it again."
    elif quantized and tensor.dtype not in _INTEGERS:
        reason = f"its type {tensor.dtype} cannot be stored. Save int_repr() and its parameters."
    elif tensor.dtype is torch.complex32 and tensor.is_conj() and tensor.is_neg():
        reason = (
            "it is marked conjugate and negative at once, which PyTorch cannot resolve for complex32. Clone it first."
        )
    else:
        return
    raise UnsupportedTensorError(f"saving tensor {name!r}: {reason}")


_TYPES = frozenset((torch.Tensor, Parameter))


def _reason_of_type(value: object) -> str:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, (UninitializedParameter, UninitializedBuffer)):
        return "its lazy module is not initialised. Run the model once on an example before saving it."
    if isinstance(value, torch.Tensor):
        return (
            f"it is of type {kind}; subclasses can hold what their bytes do not show, so only "
            f"torch.Tensor and nn.Parameter are stored. Convert it first (a DTensor with "
            f"full_tensor(), a quantized tensor with dequantize())."
        )
    return f"it is of type {kind}, not a tensor. Use perdure.save_checkpoint for nestings of tensors and values."


def _hold_dense(holdings: Holdings, name: str, tensor: torch.Tensor, role: Role) -> None:
    dtype = _INTEGERS.get(tensor.dtype, tensor.dtype)
    stored, shape = stored_name(dtype), tuple(tensor.shape)
    if stored is None or (stored == "F4" and not shape):
        holdings.encoded[name] = short_name(tensor.dtype)
        stored, shape = "U8", (*shape, tensor.element_size())
    n_bytes = tensor.nbytes
    if n_bytes and _is_plain(tensor):
        made: Callable[[], Iterable[Piece]] = [Piece(tensor.data_ptr(), n_bytes, tensor)].copy
    else:
        made = partial(copied_pieces, tensor)
    axes = _axes_in_memory(tensor)
    if axes:
        holdings.axes[name] = axes
    holdings.items.append(Item(name, stored, stored_shape(stored, shape), n_bytes, made))
    holdings.roles[name] = role


def _hold_composed(holdings: Holdings, name: str, tensor: torch.Tensor, role: Role, taken: object) -> None:
    whole, parts = composition(tensor), {}
    for part, values in whole.parts.items():
        stored = f"{name}.{part}"
        while stored in taken or stored in holdings.roles:  # type: ignore[operator]
            stored += "_"
        _hold_dense(holdings, stored, values, NO_ROLE)
        parts[part] = stored
    fields = {**whole.fields, **msgspec.structs.asdict(role)}
    holdings.composed[name] = Composed(whole.layout, tuple(tensor.shape), parts, **fields)


class Composition(NamedTuple):
    """What a sparse or quantized tensor consists of: plain tensors, and what they do not say."""

    layout: str
    parts: dict[str, torch.Tensor]
    fields: dict[str, Any]


def composition(tensor: torch.Tensor) -> Composition:
    """Take a sparse or quantized tensor apart; for the integers of a quantized one, it stands itself."""
    layout = _QUANTIZED if tensor.is_quantized else _LAYOUTS[tensor.layout]
    fields: dict[str, Any] = {}
    if tensor.is_quantized:
        fields = _quantization(tensor)
    elif tensor.layout is torch.sparse_coo:
        fields = {"coalesced": tensor.is_coalesced()}
    return Composition(layout.name, layout.parts(tensor), fields)


@dataclasses.dataclass(frozen=True)
class _Layout:
    name: str
    parts: Callable[[torch.Tensor], dict[str, torch.Tensor]]


def _rows(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"crow_indices": tensor.crow_indices(), "col_indices": tensor.col_indices(), "values": tensor.values()}


def _columns(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"ccol_indices": tensor.ccol_indices(), "row_indices": tensor.row_indices(), "values": tensor.values()}


def _coordinates(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"indices": tensor._indices(), "values": tensor._values()}


def _integers(tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    parts = {"int_repr": tensor}  # its integers are made block by block when they are written
    if tensor.qscheme() in _PER_CHANNEL:
        parts |= {"scales": tensor.q_per_channel_scales(), "zero_points": tensor.q_per_channel_zero_points()}
    return parts


def _quantization(tensor: torch.Tensor) -> dict[str, Any]:
    fields: dict[str, Any] = {"dtype": short_name(tensor.dtype)}
    if tensor.qscheme() in _PER_CHANNEL:
        return fields | {"axis": tensor.q_per_channel_axis()}
    return fields | {"scale": tensor.q_scale(), "zero_point": tensor.q_zero_point()}


_PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)
_PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, torch.per_channel_affine_float_qparams)
_QUANTIZERS = (*_PER_TENSOR, *_PER_CHANNEL)
_INTEGERS = {torch.quint8: torch.uint8, torch.qint8: torch.int8, torch.qint32: torch.int32}
_QUANTIZED = _Layout("quantized", _integers)
_LAYOUTS = {
    torch.strided: _Layout("strided", lambda tensor: {"": tensor}),
    torch.sparse_coo: _Layout("sparse_coo", _coordinates),
    torch.sparse_csr: _Layout("sparse_csr", _rows),
    torch.sparse_bsr: _Layout("sparse_bsr", _rows),
    torch.sparse_csc: _Layout("sparse_csc", _columns),
    torch.sparse_bsc: _Layout("sparse_bsc", _columns),
}

_SAME_SIZE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _axes_in_memory(tensor: torch.Tensor) -> tuple[int, ...]:
    """Return the axes as they lie in memory, the outermost first; nothing where that is as they stand, or there are gaps.

    Axes of one element count: by their strides PyTorch tells `channels_last` from the usual order.
    """
    strides = tensor.stride()
    if all(one >= two for one, two in itertools.pairwise(strides)) or not is_dense(tensor):
        return ()
    return tuple(sorted(range(tensor.dim()), key=lambda axis: -strides[axis]))


def _is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor's own memory holds its bytes as they shall be stored."""
    marked = tensor.is_conj() or tensor.is_neg() or tensor.is_quantized
    return tensor.is_cpu and tensor.is_contiguous() and not marked


def copied_pieces(tensor: torch.Tensor) -> Iterator[Piece]:
    """Give a tensor's bytes in logical order, as copies of bounded size."""
    if tensor.numel() > 0:
        for block in blocks(tensor.detach()):
            plain = block.int_repr() if block.is_quantized else as_integers(block.resolve_conj().resolve_neg())
            copied = plain.contiguous().cpu()
            yield Piece(copied.data_ptr(), copied.numel() * copied.element_size(), copied)


def as_integers(tensor: torch.Tensor) -> torch.Tensor:
    """View elements as integers of their size, since there are types that PyTorch cannot copy: `int4`."""
    same_size = _SAME_SIZE.get(tensor.element_size())
    return tensor if same_size is None else tensor.view(same_size)


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of its own with the same content, also of a type that PyTorch cannot copy."""
    if tensor.layout is not torch.strided or tensor.is_quantized:
        return tensor.clone()
    return as_integers(tensor).clone().view(tensor.dtype)


def blocks(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Cut a tensor along its first axes into blocks of at most `SEGMENT_BYTES`, in logical order."""
    if tensor.dim() == 0 or tensor.numel() * tensor.element_size() <= SEGMENT_BYTES:
        yield tensor
        return
    row_bytes = math.prod(tensor.shape[1:]) * tensor.element_size()
    if row_bytes <= SEGMENT_BYTES:
        yield from tensor.split(SEGMENT_BYTES // row_bytes)
        return
    for row in tensor:
        yield from blocks(row)
