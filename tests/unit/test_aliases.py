"""Which tensors share memory, against a slow reference that looks at every byte."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.weights.aliases import MAX_OVERLAPS, Sharing, contiguous_stride, is_dense, overlaps_itself, relate
from property.tensors import addresses, covers_itself, pairs, touching

TYPES = {1: torch.uint8, 2: torch.int16, 4: torch.int32}


@st.composite
def windows(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Any views of one buffer or two, of any strides, all elements of which differ."""
    found: dict[str, torch.Tensor] = {}
    for _ in range(draw(st.integers(1, 2))):
        size = draw(st.sampled_from([1, 2, 2, 2, 4]))
        count = draw(st.integers(1, 64))
        buffer = torch.arange(count, dtype=TYPES[size])
        for _ in range(draw(st.integers(1, 6))):
            of = buffer
            if draw(st.integers(0, 9)) == 0 and size > 1:
                of = buffer.view(torch.uint8)
            shape, strides, last = [], [], 0
            for _ in range(draw(st.integers(0, 3))):
                step = draw(st.integers(0, 8))
                most = 1 + (len(of) - 1 - last) // step if step else 3
                shape.append(draw(st.integers(0 if draw(st.integers(0, 9)) == 0 else 1, min(most, 6))))
                strides.append(step)
                last += max(shape[-1] - 1, 0) * step
            offset = draw(st.integers(0, len(of) - 1 - last))
            found[f"t{len(found)}"] = of.as_strided(shape, strides, offset)
        for _ in range(draw(st.integers(0, 2))):  # dense ones: whole stretches, their axes in some order
            start = draw(st.integers(0, count - 1))
            stretch = buffer[start : draw(st.integers(start + 1, count))]
            for divisor in (2, 3):
                if len(stretch) % divisor == 0 and draw(st.booleans()):
                    stretch = stretch.unflatten(0, (-1, divisor))
            found[f"t{len(found)}"] = stretch.permute(draw(st.permutations(range(stretch.dim()))))
    order = draw(st.permutations(list(found)))
    return {name: found[name] for name in order}


def apply(sharing: Sharing, owner: torch.Tensor) -> torch.Tensor:
    return (
        owner.clone(memory_format=torch.contiguous_format)
        .flatten()
        .as_strided(sharing.shape, sharing.stride, sharing.offset)
    )


def slow_is_dense(tensor: torch.Tensor) -> bool:
    """The elements fill a stretch of memory, each its own place."""
    found = sorted(addresses(tensor).tolist())
    return found == [found[0] + number * tensor.element_size() for number in range(tensor.numel())]


@settings(max_examples=600)
@given(windows())
def test_relate_against_a_slow_reference(tensors: dict[str, torch.Tensor]) -> None:
    relations = relate(tensors)
    root = {name: relations.aliases[name].of if name in relations.aliases else name for name in tensors}
    for name, sharing in relations.aliases.items():
        assert sharing.of not in relations.aliases
        assert sharing.shape == tuple(tensors[name].shape)
        assert torch.equal(apply(sharing, tensors[sharing.of]), tensors[name]), name
        assert set(addresses(tensors[name]).tolist()) <= set(addresses(tensors[sharing.of]).tolist())
    overlaps = {frozenset(pair) for pair in relations.overlaps}
    assert len(overlaps) == len(relations.overlaps)
    assert not any(name in relations.aliases for pair in overlaps for name in pair)
    assert all(touching(*(tensors[name] for name in pair)) for pair in overlaps)
    for one, other in pairs(tensors):
        if root[one] != root[other] and touching(tensors[one], tensors[other]):
            assert frozenset((root[one], root[other])) in overlaps, (one, other)
    for name, tensor in tensors.items():
        for owner in tensors:  # what lies within a contiguous tensor is never stored twice
            base = tensors[owner]
            inside = set(addresses(tensor).tolist()) <= set(addresses(base).tolist())
            if tensor.numel() and inside and base.is_contiguous() and tensor.dtype == base.dtype:
                assert name in relations.aliases or owner in relations.aliases or name == owner, (name, owner)


@settings(max_examples=300)
@given(windows())
def test_is_dense_against_a_slow_reference(tensors: dict[str, torch.Tensor]) -> None:
    for tensor in tensors.values():
        if tensor.numel():
            assert is_dense(tensor) == slow_is_dense(tensor)
            assert overlaps_itself(tensor) or not covers_itself(tensor)
            assert not (overlaps_itself(tensor) and is_dense(tensor))


def test_columns_and_slices_do_not_overlap_themselves() -> None:
    x = torch.zeros(6, 4)
    assert not any(overlaps_itself(view) for view in (x, x.t(), x[:, 1], x[::2, 1:3], x.t()[1:3], x[0, 0]))
    assert all(overlaps_itself(view) for view in (x[:1].expand(3, 4), x.flatten().as_strided((3, 3), (1, 1))))


@settings(max_examples=100)
@given(st.lists(st.integers(1, 5), max_size=4))
def test_contiguous_stride(shape: list[int]) -> None:
    assert contiguous_stride(tuple(shape)) == torch.empty(shape).stride()


def test_the_first_name_of_equals_owns() -> None:
    x = torch.arange(6)
    relations = relate({"b": x, "a": x.view(2, 3), "c": x, "d": x.detach()})
    assert relations.aliases == {
        "a": Sharing("b", 0, (2, 3), (3, 1)), "c": Sharing("b", 0, (6,), (1,)), "d": Sharing("b", 0, (6,), (1,)),
    }  # fmt: skip
    assert relations.overlaps == []


def test_a_view_of_a_permuted_owner_is_expressed_in_the_stored_order() -> None:
    x = torch.arange(24).view(2, 3, 4)
    owner = x.permute(2, 0, 1)
    relations = relate({"owner": owner, "part": x[1, :, 1:3]})
    assert torch.equal(apply(relations.aliases["part"], owner), x[1, :, 1:3])


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_names_changes_nothing_about_ties(order: int) -> None:
    x = torch.arange(5.0)
    pair = {"x": x, "steps": x[::2], "same first": x[:1].expand(3), "whole": x[:]}
    relations = relate(dict(list(pair.items())[::order]))
    assert relations.overlaps == [] and len(relations.aliases) == 3


def test_marks_are_no_ties() -> None:
    """What a conjugate view shows is not what lies in memory; it is stored by itself."""
    x = torch.tensor([1 + 2j, 3 - 1j])
    relations = relate({"x": x, "c": x.conj(), "c2": x.conj(), "n": torch._neg_view(x.real)})
    assert relations.aliases == {"c2": Sharing("c", 0, (2,), (1,))}
    assert {frozenset(pair) for pair in relations.overlaps} == {
        frozenset(pair) for pair in (("x", "c"), ("x", "n"), ("c", "n"))
    }


def test_tensors_apart_are_not_related() -> None:
    buffer = torch.arange(100)
    tensors = {"a": buffer[:10], "b": buffer[10:20], "c": torch.ones(3), "e": torch.empty(0), "e2": buffer[5:5]}
    assert relate(tensors) == ({}, [])
    assert relate({}) == ({}, [])


def test_columns_do_not_overlap_and_take_no_time() -> None:
    import time

    matrix = torch.zeros(2000, 2000)
    columns = {f"c{number}": matrix[:, number] for number in range(2000)}
    start = time.perf_counter()
    assert relate(columns) == ({}, [])
    assert time.perf_counter() - start < 5
    halves = {"left": matrix[:, :1000], "right": matrix[:, 1000:]}
    assert relate(halves) == ({}, [])
    assert relate({"left": matrix[:, :1001], "right": matrix[:, 1000:]}).overlaps == [("left", "right")]


def test_thousands_of_rows_beside_a_column_take_no_time() -> None:
    import time

    matrix = torch.zeros(8000, 64)
    rows = {f"r{number}": matrix[number] for number in range(8000)}
    start = time.perf_counter()
    relations = relate({**rows, "part": matrix[7, 3:9], "column": matrix[:, 5]})
    assert time.perf_counter() - start < 3
    assert relations.aliases == {"part": Sharing("r7", 3, (6,), (1,))}
    assert relations.overlaps[0] == ("column", "r0") and len(relations.overlaps) == MAX_OVERLAPS


def test_the_list_of_overlaps_is_bounded() -> None:
    buffer = torch.zeros(2000)
    tensors = {f"t{number}": buffer[number : number + 1000 : 3] for number in range(1000)}
    found = relate(tensors)
    assert MAX_OVERLAPS <= len(found.overlaps) <= 2 * MAX_OVERLAPS


def test_tensors_over_the_same_memory_with_storages_of_their_own() -> None:
    memory = bytearray(range(64))
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    part = torch.frombuffer(memory, dtype=torch.uint8, offset=8, count=16)
    assert relate({"whole": whole, "part": part}).aliases == {"part": Sharing("whole", 8, (16,), (1,))}
