"""What is in a module: a row for each of its modules, with the tensors that they hold."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from perdure.models.execution import FrozenGraph
from perdure.models.nested_tensors import shape_of
from perdure.records.manifest import PARTS
from perdure.records.summary.rows import rows_of
from perdure.records.summary.sharing import Place, own_bytes
from perdure.records.summary.summary import Shape, SummaryRow, SummaryTensor
from perdure.weights.dtypes import short_name


def rows_of_module(model: nn.Module) -> tuple[SummaryRow, ...]:
    """Return a row for each module, in the order of `named_modules`, the model's first.

    A tensor at several places, or in several modules, is one by its identity and counted once; memory that different
    tensors share counts once among the bytes. What a lazy module has not initialised has the shape (0,). No value is
    looked at: tensors may be on `meta`, fake, sparse, quantized, nested or distributed; of a distributed one the whole
    is counted in elements, and what lies here in bytes.

    Args:
        model: the module; it is left as it is.

    Raises:
        LimitError: modules are shared in more ways than those of any model.
    """
    kinds: dict[str, str] = {}
    same: dict[str, str] = {}
    firsts: dict[int, str] = {}
    held: list[tuple[str, str, torch.Tensor]] = []
    known = dict(model.perdure_graph.modules) if isinstance(model, FrozenGraph) else {}
    waiting: list[tuple[str, nn.Module]] = [("", model)]
    while waiting:
        path, module = waiting.pop()
        kinds[path] = known.get(path) or type(module).__name__
        if id(module) in firsts:
            same[path] = firsts[id(module)]
            continue
        firsts[id(module)] = path
        start = f"{path}." if path else ""
        for role, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
            held += [(f"{start}{key}", role, tensor) for key, tensor in tensors.items() if tensor is not None]
        inner = [(f"{start}{key}", child) for key, child in module._modules.items() if child is not None]
        waiting += reversed([(path, child) for path, child in inner if not known or path in known])
    return rows_of({**known, **kinds}, _listed(held), same)


def _listed(held: list[tuple[str, str, torch.Tensor]]) -> list[SummaryTensor]:
    """Return tensors as rows have them, those that are tied after the first."""
    sizes = own_bytes([_places(tensor) for _, _, tensor in held])
    firsts: dict[int, str] = {}
    found: list[SummaryTensor] = []
    for (name, role, tensor), n_bytes in zip(held, sizes, strict=True):
        first = firsts.setdefault(id(tensor), name)
        tied = "" if first == name else first
        dtype, trainable = short_name(tensor.dtype), bool(tensor.requires_grad)
        found.append(SummaryTensor(name, dtype, _shape(tensor), n_bytes, role, trainable, tied))
    return found


def is_lazy(tensor: torch.Tensor) -> bool:
    """Tell a tensor that a lazy module has not initialised: it has no shape yet."""
    return isinstance(tensor, UninitializedBuffer | UninitializedParameter)


def _shape(tensor: torch.Tensor) -> Shape:
    """Return the sizes of a tensor."""
    return (0,) if is_lazy(tensor) else shape_of(tensor)


def _places(tensor: torch.Tensor) -> tuple[Place, ...]:
    """Return where the bytes of a tensor are: those of its parts, where it has any."""
    if is_lazy(tensor):
        return ()
    parts = _parts(tensor)
    return tuple(itertools.chain.from_iterable(map(_places, parts))) if parts else (_place(tensor),)


def _parts(tensor: Any) -> list[torch.Tensor]:
    """Return the tensors that a tensor is made of; none of a plain one."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    layout = str(tensor.layout).removeprefix("torch.")
    if layout in PARTS:
        return [getattr(tensor, part)() for names in PARTS[layout] for part in sorted(names)]
    if hasattr(tensor, "__tensor_flatten__"):  # a DTensor, a nested one, one of torchao
        names, _ = tensor.__tensor_flatten__()
        return [
            part for name in names if isinstance(part := getattr(tensor, name), torch.Tensor) and part is not tensor
        ]
    return []


def _place(tensor: torch.Tensor) -> Place:
    """Return where a plain tensor is: on `meta`, and on other devices without addresses, each storage for itself."""
    n_bytes = tensor.numel() * tensor.element_size()
    try:
        storage = tensor.untyped_storage()
        address = 0 if tensor.is_meta or isinstance(tensor, FakeTensor) else storage.data_ptr()
        key = storage._cdata
    except (RuntimeError, NotImplementedError):  # a tensor that has none, such as one of XLA or MKL-DNN
        return Place(f"tensor {id(tensor)}", 0, n_bytes, n_bytes)
    memory = str(tensor.device) if address else f"storage {key}"
    start = int(address + tensor.storage_offset() * tensor.element_size())
    span = 0
    if n_bytes:
        steps = zip(tensor.shape, tensor.stride(), strict=True) if not tensor.is_nested else ()
        span = (1 + sum((size - 1) * step for size, step in steps)) * tensor.element_size()
        span = n_bytes if tensor.is_nested else int(span)
    return Place(memory, start, start + span, min(n_bytes, span))
