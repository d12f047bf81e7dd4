"""Loaded tensors go into a model: the Parameter and buffer objects stay, their contents become the file's."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import nn
from torch._C import _swap_tensor_impl as swap_contents
from torch.autograd.graph import increment_version

from perdure.errors import MismatchError, PerdureError, StorageError
from perdure.weights.aliases import contiguous_stride, is_dense, overlaps_itself
from perdure.weights.slots import ModelSlots
from perdure.weights.storing import as_integers, composition

View = tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, ...]]
"""Shape, strides and offset of a loaded tensor, and the strides of the place that it goes to."""

Shared = dict[int, set[View]]
"""The storages that several loaded tensors lie in, by address, with those tensors' different views of it."""


class Fill(NamedTuple):
    """What a tensor object of a model is about to be given."""

    name: str
    place: torch.Tensor
    content: torch.Tensor
    copies: bool = False

    def run(self) -> None:
        place, content = self.place, self.content
        if self.copies:
            fill(place.detach(), content)
        elif place.is_meta or place.layout is not torch.strided:
            exchange(place, content.data)
        else:
            place.data = content


class Placer:
    """Fills the tensor objects of a model, casting and moving where that is due.

    Args:
        in_place: names whose memory others hold too, so that it is filled and not exchanged.
        device: where everything shall be; None leaves each where it is (what is on `meta` comes to the CPU).
    """

    def __init__(self, in_place: frozenset[str], device: torch.device | None) -> None:
        self._in_place = in_place
        self._device = device
        self._converted: dict[tuple[object, ...], tuple[torch.UntypedStorage, torch.Tensor]] = {}
        self._laid_out: dict[tuple[object, ...], tuple[torch.UntypedStorage, torch.Tensor]] = {}

    def fill(
        self, places: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], sharing: Collection[str]
    ) -> dict[str, torch.Tensor]:
        """Fill each tensor object once, taking the tensors away one by one; gradients must be switched off.

        Args:
            places: the tensor objects of the model.
            tensors: what goes there.
            sharing: names of those tensors that may share memory with others.

        Returns:
            What was placed without copying, by name.
        """
        shared = _shared_storages({name: tensors[name] for name in sharing}, places)
        fills: list[Fill] = []
        done: set[int] = set()
        for name in list(tensors):
            current, tensor = places[name], tensors.pop(name)
            if id(current) not in done:
                done.add(id(current))
                if name in sharing and overlaps_itself(tensor) and not overlaps_itself(current):
                    tensor = _contiguous(tensor)  # an expanded parameter could not be trained
                fills.append(self._prepare(name, current, tensor, shared))
        for fill in fills:  # nothing has been changed so far, and from here on nothing can fail for want of memory
            fill.run()
        increment_version([fill.place for fill in fills])  # a backward pass under way must not take these for its own
        return {fill.name: fill.content for fill in fills if not fill.copies}

    def _prepare(self, name: str, current: torch.Tensor, tensor: torch.Tensor, shared: Shared) -> Fill:
        if not current.is_meta and current.layout is torch.strided:
            stays = self._device is None or self._device == current.device
            tied = bool(shared) and _storage_address(tensor) in shared
            if stays and (name in self._in_place or (current.device.type != "cpu" and not tied)):
                return Fill(name, current, tensor, copies=True)
        content = self._lay_out(current, tensor, self._convert(current, tensor, shared), shared)
        return Fill(name, current, content)

    def _convert(self, current: torch.Tensor, tensor: torch.Tensor, shared: Shared) -> torch.Tensor:
        """Cast and move a tensor; those that share memory before share it afterwards."""
        device, dtype = self._device or (torch.device("cpu") if current.is_meta else current.device), current.dtype
        if tensor.dtype == dtype and tensor.device == device:
            return tensor
        if not shared or _storage_address(tensor) not in shared:
            return tensor.to(device=device, dtype=None if tensor.is_quantized else dtype)
        storage = tensor.untyped_storage()
        key = (storage.data_ptr(), tensor.dtype, dtype, device)
        if key not in self._converted:
            whole = torch.empty(0, dtype=tensor.dtype, device=storage.device).set_(storage)
            self._converted[key] = (storage, whole.to(device=device, dtype=dtype))
        return self._converted[key][1].as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())

    def _lay_out(
        self, current: torch.Tensor, tensor: torch.Tensor, content: torch.Tensor, shared: Shared
    ) -> torch.Tensor:
        """Keep the order of the axes in memory, such as channels last, where the model has its own.

        Places tied to each other get one new memory; where they are different views of it, the file's order stays.
        """
        if not _has_own_layout(current):
            return content
        address = _storage_address(tensor)
        if address not in shared:
            return _laid_out_like(current, content)
        if len(shared[address]) > 1:
            return content
        key = (address, content.dtype, content.device)
        if key not in self._laid_out:
            self._laid_out[key] = (tensor.untyped_storage(), _laid_out_like(current, content))
        return self._laid_out[key][1]


def _storage_address(tensor: torch.Tensor) -> int:
    plain = tensor.layout is torch.strided and not tensor.is_quantized and tensor.numel() > 0
    return tensor.untyped_storage().data_ptr() if plain else 0


def _shared_storages(tensors: dict[str, torch.Tensor], places: dict[str, torch.Tensor]) -> Shared:
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(_storage_address(tensor), []).append(name)
    return {
        address: {_view(tensors[name], places[name]) for name in together}
        for address, together in names.items()
        if address and len(together) > 1
    }


def _view(tensor: torch.Tensor, place: torch.Tensor) -> View:
    return tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), place.stride()


def move_rest(model: nn.Module, device: torch.device) -> None:
    """Move what was not loaded to where the rest is: other buffers and gradients; the objects stay the same."""
    for tensor in [*model.parameters(), *model.buffers()]:
        for part in (tensor, tensor.grad):
            if part is not None and part.device != device and not part.is_meta:
                part.data = part.data.to(device)


def _has_own_layout(current: torch.Tensor) -> bool:
    if current.layout is not torch.strided or current.is_quantized:
        return False
    if current.is_contiguous() and 1 not in current.shape:
        return False
    return current.stride() != contiguous_stride(tuple(current.shape)) and is_dense(current)


def _laid_out_like(current: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    if current.is_contiguous() and tensor.is_contiguous():  # they differ in axes of one element, as 1×1 kernels do
        return tensor.as_strided(current.shape, current.stride())
    empty = torch.empty_strided(current.shape, current.stride(), dtype=tensor.dtype, device=tensor.device)
    return fill(empty, tensor)


def fill(place: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor into the memory of another, also of a type that PyTorch cannot copy; returns that."""
    if place.dtype == tensor.dtype and not place.is_quantized:
        as_integers(place).copy_(as_integers(tensor))
        return place
    return place.copy_(tensor)


def _contiguous(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor laid out contiguously at the beginning of its storage."""
    whole = as_integers(tensor).contiguous()
    return (whole.clone() if whole.storage_offset() else whole).view(tensor.dtype)


def on_its_own(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that has its memory for itself: a view whose owner nobody has could neither grow nor be trained.

    Raises:
        StorageError: there is not so much memory.
    """
    plain = tensor.layout is torch.strided and not tensor.is_quantized
    if not plain or (tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes):
        return tensor
    try:
        return as_integers(tensor).clone(memory_format=torch.contiguous_format).view(tensor.dtype)
    except RuntimeError as error:
        raise StorageError(
            f"loading: a tensor of shape {tuple(tensor.shape)} needs {tensor.nbytes} bytes of memory, and the system does "
            f"not give them. Free memory, or open the file with perdure.open."
        ) from error


def exchange(tensor: torch.Tensor, other: torch.Tensor) -> None:
    """Exchange what two tensors consist of; the objects stay, one of which an optimizer may hold, and so do its hooks.

    This is the core of `torch.utils.swap_tensors`, which refuses tensors that are weakly referenced, as an RNN's are: the
    object that the references mean stays, only what it consists of changes.
    """
    hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    other.requires_grad_(tensor.requires_grad)
    swap_contents(tensor, other)
    if hooks or after:
        tensor._backward_hooks, tensor._post_accumulate_grad_hooks = hooks, after


def refuse_differing_ties(slots: ModelSlots, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Raise where the model shares memory between places for which the file has different values.

    Raises:
        MismatchError: see there.
    """
    if not (slots.same or slots.views or slots.overlapping):
        return
    given: dict[str, str] = {}
    for name in (name for name in slots.by_name if name in tensors):
        other = given.setdefault(slots.first(name), name)
        one, two = tensors[name], tensors[other]
        if (
            one.dtype != two.dtype and one.layout is two.layout is torch.strided
        ):  # what counts is what the place would hold
            one, two = (tensor.to(slots.by_name[name].dtype) for tensor in (one, two))
        if not same_bits(one, two):
            raise _differing(name, other, where)
    for name, view in slots.views.items():
        if name in given and view.of in given:
            owner = tensors[given[view.of]]
            part = _contiguous(owner).as_strided(view.shape, view.stride, view.offset)
            if not same_bits(tensors[given[name]], part):
                raise _differing(given[name], given[view.of], where)
    loose = {name for name in given if name in slots.overlapping}
    loose |= {name for name, view in slots.views.items() if name in given and view.of not in given}
    _refuse_differing_overlaps(slots, tensors, {_storage_address(slots.by_name[name]) for name in loose}, where)


def _refuse_differing_overlaps(
    slots: ModelSlots, tensors: dict[str, torch.Tensor], storages: set[int], where: str
) -> None:
    """Raise where one place that is filled undoes another; they are filled in a copy of their storages first."""
    copies: dict[int, torch.Tensor] = {}
    filled: dict[str, torch.Tensor] = {}
    for name in sorted(slots.in_place & tensors.keys()):
        place, address = slots.by_name[name], _storage_address(slots.by_name[name])
        if address not in storages:
            continue
        if address not in copies:
            storage = place.untyped_storage()
            copies[address] = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage).clone()
        copy = copies[address]
        whole = copy[: len(copy) // place.element_size() * place.element_size()].view(place.dtype)
        part = whole.as_strided(place.shape, place.stride(), place.storage_offset())
        filled[name] = fill(part, tensors[name])
    for name, place in filled.items():
        if not same_bits(place, tensors[name].to(place)):
            raise MismatchError(
                f"loading {where}: the memory of {name!r} overlaps that of another parameter or buffer of the model, for "
                f"which the file has other values. Give both memory of their own in the model."
            )


def _differing(name: str, other: str, where: str) -> MismatchError:
    return MismatchError(
        f"loading {where}: the model shares the memory of {name!r} with {other!r}, but the file has different values "
        f"for them. Untie them in the model, or save the file again from a model that ties them."
    )


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors are of one type and shape, and hold the same bits."""
    if (a.dtype, a.shape, a.layout) != (b.dtype, b.shape, b.layout):
        return False
    if a.layout is not torch.strided or a.is_quantized:
        one, other = composition(a), composition(b)
        if a.is_quantized:
            one.parts["int_repr"], other.parts["int_repr"] = a.int_repr(), b.int_repr()
        return one.fields == other.fields and all(same_bits(part, other.parts[key]) for key, part in one.parts.items())
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return torch.equal(_bytes(a), _bytes(b))


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    whole = _contiguous(tensor)  # which leaves axes of one element with any stride
    return whole.as_strided((whole.numel(),), (1,)).view(torch.uint8)


def check_placed(places: dict[str, torch.Tensor], placed: dict[str, torch.Tensor], where: str) -> None:
    """See that every place holds what was put there, and that nothing is left on `meta`.

    Args:
        places: the tensor objects of the model, by name.
        placed: the content that each place was given without copying.
        where: names the file in messages.

    Raises:
        PerdureError: it is not so; a hook of the model changed it, or perdure has a fault.
    """
    for name, tensor in places.items():
        if tensor.is_meta:
            raise PerdureError(f"loading {where}: {name!r} is still on meta after loading. Please report this.")
        if name in placed and _address(tensor) != _address(placed[name]):
            raise PerdureError(f"loading {where}: {name!r} does not hold the file's values after loading.")


def _address(tensor: torch.Tensor) -> int:
    if tensor.layout is torch.sparse_coo:
        return tensor._values().data_ptr()
    return tensor.data_ptr() if tensor.layout is torch.strided else tensor.values().data_ptr()


def refuse_left_on_meta(names: list[str], where: str) -> None:
    """Raise where places of a model on `meta` would get no content.

    Raises:
        MismatchError: there are such names.
    """
    if names:
        shown = ", ".join(map(repr, names[:10])) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        raise MismatchError(
            f"loading {where}: the model is on meta, and the file has nothing for {shown}. Build the model on a real "
            f"device (its constructor then makes the buffers that are not persistent), or save it again from a module."
        )


def refuse_on_meta(model: nn.Module, where: str) -> None:
    """See that nothing of a model that loaded itself was left on `meta`.

    Raises:
        MismatchError: something was.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    refuse_left_on_meta([name for name, tensor in named if tensor.is_meta], where)
