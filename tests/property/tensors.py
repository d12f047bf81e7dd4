"""Strategies that draw tensors of every type, shape and stride, alone and in groups that share memory; and what
tells two of them apart to the last bit. Nothing here uses perdure."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from hypothesis import strategies as st

DTYPES = sorted(
    {
        found
        for name in dir(torch)
        if isinstance(found := getattr(torch, name), torch.dtype)
        and not str(found).startswith(("torch.q", "torch.bit:"))
    },
    key=str,
)
"""Every type that a plain tensor can have; quantized ones have tests of their own."""

CARRIERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def raw(tensor: torch.Tensor) -> bytes:
    """Return the bytes of a tensor's elements in logical order."""
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.element_size() == 16:
        plain = torch.view_as_real(plain)
    return plain.view(CARRIERS[plain.element_size()]).contiguous().numpy().tobytes()


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and raw(one) == raw(other)


def from_bytes(content: bytearray, dtype: torch.dtype, offset: int = 0, count: int = -1) -> torch.Tensor:
    """Return a tensor over a buffer's memory, with a storage of its own."""
    if dtype.itemsize == 16:
        return torch.frombuffer(content, dtype=dtype, offset=offset, count=count)
    return torch.frombuffer(content, dtype=CARRIERS[dtype.itemsize], offset=offset, count=count).view(dtype)


def random_bytes(seed: int, n_bytes: int, dtype: torch.dtype) -> bytearray:
    """Return bytes that are valid for a type: all patterns for most, so signalling NaNs and their payloads too."""
    noise = np.random.default_rng(seed)
    if dtype is torch.bool:
        return bytearray(noise.integers(0, 2, n_bytes, np.uint8).tobytes())
    content = noise.integers(0, 256, n_bytes, np.uint8)
    if seed % 3 == 0:  # exponents of ones, where the type has any: NaNs with payloads
        content |= noise.choice(np.array([0, 0x7F, 0xF0], np.uint8), n_bytes)
    return bytearray(content.tobytes())


def make(seed: int, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    count = int(np.prod(shape, dtype=np.int64))
    if count == 0:
        return torch.empty(shape, dtype=dtype)
    return from_bytes(random_bytes(seed, count * dtype.itemsize, dtype), dtype).view(shape)


dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**31)
shapes = st.one_of(
    st.just(()),
    st.lists(st.integers(0, 7), min_size=1, max_size=5).map(tuple),
    st.sampled_from(
        [(1,), (1, 1, 1), (64,), (65,), (63, 3), (1000,), (16, 16), (2, 3, 4, 5), (4097,), (0, 3), (3, 0, 2)]
    ),
)


@st.composite
def plain(draw: st.DrawFn, dtypes: st.SearchStrategy[torch.dtype] = dtypes) -> torch.Tensor:
    """A contiguous tensor."""
    return make(draw(seeds), draw(dtypes), draw(shapes))


@st.composite
def step(draw: st.DrawFn, tensor: torch.Tensor) -> torch.Tensor:
    """A view of a tensor, without copying: one axis or two treated in one of many ways."""
    kinds = ["flat mark", "new axis", "expand"]
    if tensor.dim():
        kinds += ["slice", "slice", "select"]
    if tensor.dim() >= 2:
        kinds += ["transpose", "permute", "diagonal"]
    kind = draw(st.sampled_from(kinds))
    axis = draw(st.integers(0, max(tensor.dim() - 1, 0)))
    if kind == "slice":
        start, width = draw(st.integers(0, 3)), draw(st.integers(1, 4))
        index = [slice(None)] * tensor.dim()
        index[axis] = slice(start, draw(st.one_of(st.none(), st.integers(0, 60))), width)
        return tensor[tuple(index)]
    if kind == "select" and tensor.shape[axis]:
        return tensor.select(axis, draw(st.integers(0, tensor.shape[axis] - 1)))
    if kind == "transpose":
        return tensor.transpose(axis, draw(st.integers(0, tensor.dim() - 1)))
    if kind == "permute":
        return tensor.permute(draw(st.permutations(range(tensor.dim()))))
    if kind == "diagonal":
        return tensor.diagonal(draw(st.integers(-1, 1)), 0, 1)
    if kind == "expand" and tensor.dim() < 5:
        return tensor.unsqueeze(axis).expand(*tensor.shape[:axis], draw(st.integers(1, 3)), *tensor.shape[axis:])
    if kind == "flat mark":
        if tensor.is_complex():
            return draw(
                st.sampled_from(
                    [tensor.conj(), tensor.conj().imag, tensor.real, tensor.mH if tensor.dim() == 2 else tensor.conj()]
                )
            )
        if tensor.is_floating_point() and tensor.element_size() > 1:
            return torch._neg_view(tensor)
    return tensor.unsqueeze(axis)


@st.composite
def viewed(draw: st.DrawFn, dtypes: st.SearchStrategy[torch.dtype] = dtypes) -> torch.Tensor:
    """A tensor with any strides and marks; often channels last."""
    if draw(st.integers(0, 5)) == 0:
        n, h, w, c = (draw(st.integers(1, 5)) for _ in range(4))
        return make(draw(seeds), draw(dtypes), (n, h, w, c)).permute(0, 3, 1, 2)
    tensor = draw(plain(dtypes))
    for _ in range(draw(st.integers(0, 3))):
        tensor = draw(step(tensor))
    return tensor


class Drawn(dict[str, torch.Tensor]):
    """Tensors by name; its text says where each lies, and works for types that PyTorch cannot print."""

    def __repr__(self) -> str:
        lines = [
            f"{name!r}: {str(tensor.dtype)[6:]} {tuple(tensor.shape)} stride {tensor.stride()} at {tensor.data_ptr():#x}"
            f"{' conj' * tensor.is_conj()}{' neg' * tensor.is_neg()}"
            for name, tensor in self.items()
        ]
        return "{\n  " + ",\n  ".join(lines) + "\n}"


@st.composite
def sharing(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Several tensors that share memory in all the ways there are, under names in any order."""
    found: list[torch.Tensor] = []
    for _ in range(draw(st.integers(1, 3))):
        dtype, seed = draw(dtypes), draw(seeds)
        count = draw(st.integers(1, 120))
        memory = random_bytes(seed, count * dtype.itemsize, dtype)
        owner = from_bytes(memory, dtype)
        for divisor in (2, 3, 4):
            if count % divisor == 0 and draw(st.booleans()):
                owner = owner.view(-1, divisor, *owner.shape[1:]) if owner.dim() == 1 else owner.unflatten(0, (-1, 1))
        if owner.dim() > 1 and draw(st.booleans()):
            owner = owner.permute(draw(st.permutations(range(owner.dim()))))
        family = [owner]
        for _ in range(draw(st.integers(1, 5))):
            of = draw(st.sampled_from(family))
            kind = draw(
                st.sampled_from(["object", "detached", "view", "view", "chain", "other storage", "other type", "askew"])
            )
            if kind == "object":
                family.append(of)
            elif kind == "detached":
                family.append(of.detach())
            elif kind == "other storage":
                start = draw(st.integers(0, count - 1))
                part = from_bytes(memory, dtype, start * dtype.itemsize, draw(st.integers(1, count - start)))
                family.append(part)
            elif kind == "askew" and count > 1:  # elements that begin in the middle of others
                start = draw(st.integers(0, (count - 1) * dtype.itemsize))
                room = (len(memory) - start) // dtype.itemsize
                family.append(from_bytes(memory, dtype, start, draw(st.integers(1, room)))[:: draw(st.integers(1, 3))])
            elif kind == "other type" and dtype.itemsize in CARRIERS and not (of.is_conj() or of.is_neg()):
                family.append(of.view(CARRIERS[of.element_size()]) if of.element_size() in CARRIERS else of)
            else:
                for _ in range(2 if kind == "chain" else 1):
                    of = draw(step(of))
                family.append(of)
        if draw(st.booleans()):
            family = family[1:]  # the owner itself is not saved: its views may overlap in part
        found += family
    if draw(st.booleans()):
        found.append(draw(plain()))
    names = draw(st.permutations([f"t{number}" for number in range(len(found))]))
    order = draw(st.permutations(range(len(found))))
    return Drawn({names[number]: found[number] for number in order})


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


class Element(NamedTuple):
    """One element shared by two tensors: its position in each."""

    first: int
    second: int


def addresses(tensor: torch.Tensor) -> np.ndarray:
    """Return where each element lies in memory, in logical order."""
    found = np.full(tuple(tensor.shape), tensor.data_ptr(), np.int64)
    for axis, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        along = np.arange(size, dtype=np.int64) * stride * tensor.element_size()
        found += along.reshape([-1 if other == axis else 1 for other in range(tensor.dim())])
    return found.ravel()


def shared(one: torch.Tensor, other: torch.Tensor) -> set[Element]:
    """Return which elements of one tensor are elements of another: what is written to these is seen there."""
    where: dict[int, list[int]] = {}
    for position, address in enumerate(addresses(other).tolist()):
        where.setdefault(address, []).append(position)
    return {
        Element(position, match)
        for position, address in enumerate(addresses(one).tolist())
        for match in where.get(address, ())
    }


def touching(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Tell whether two tensors have a byte in common."""
    bytes_of = [
        {start + at for start in addresses(tensor).tolist() for at in range(tensor.element_size())}
        for tensor in (one, other)
    ]
    return bool(bytes_of[0] & bytes_of[1])


def covers_itself(tensor: torch.Tensor) -> bool:
    """Tell whether elements of one tensor lie in the same memory, as those of an expanded one do."""
    return len(set(addresses(tensor).tolist())) < tensor.numel()


def pairs(names: object) -> list[tuple[str, str]]:
    return list(itertools.combinations(list(names), 2))  # type: ignore[call-overload]
