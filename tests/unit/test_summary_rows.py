"""Rows of a summary: the tree, and totals in which each element counts once."""

from __future__ import annotations

import dataclasses
import math

from hypothesis import given
from hypothesis import strategies as st

from perdure.records.summary.guessing import guessed_role
from perdure.records.summary.rows import down_to, rows_of
from perdure.records.summary.sharing import Place, own_bytes
from perdure.records.summary.summary import Summary, SummaryTensor

names = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)


@st.composite
def models(draw: st.DrawFn) -> tuple[list[SummaryTensor], dict[str, str]]:
    """Tensors of which some are tied, and modules that stand a second time at a path of their own."""
    found: list[SummaryTensor] = []
    for name in draw(st.lists(names, unique=True, max_size=12)):
        untied = [tensor for tensor in found if not tensor.tied_to]
        first = draw(st.sampled_from(untied)) if untied and draw(st.booleans()) else None
        if first:
            found.append(dataclasses.replace(first, name=name, n_bytes=0, tied_to=first.name))
            continue
        size, role = draw(st.integers(0, 9)), draw(st.sampled_from(["parameter", "buffer", ""]))
        found.append(SummaryTensor(name, "float32", (size, 2), size * 8, role, draw(st.booleans())))
    paths = sorted({tensor.name.rpartition(".")[0] for tensor in found} - {""})
    shared = draw(st.lists(st.sampled_from(paths), unique=True, max_size=2)) if paths else []
    return found, {f"again{number}.{path}": path for number, path in enumerate(shared)}


def slowly(tensors: list[SummaryTensor], same: dict[str, str], path: str) -> tuple[int, ...]:
    """Add up what is below a path, by a set of identities."""

    def below(at: str) -> set[str]:
        inside = lambda name: not at or name == at or name.startswith(f"{at}.")  # noqa: E731
        keys = {tensor.tied_to or tensor.name for tensor in tensors if not at or tensor.name.startswith(f"{at}.")}
        return keys.union(*(below(first) for again, first in same.items() if inside(again)))

    known = {tensor.name: tensor for tensor in tensors}
    counted = [known[key] for key in below(path)]
    elements = [(tensor, math.prod(tensor.shape), not path or tensor.name.startswith(f"{path}.")) for tensor in counted]
    return (
        sum(n for tensor, n, _ in elements if tensor.role == "parameter"),
        sum(n for tensor, n, _ in elements if tensor.role == "parameter" and tensor.trainable),
        sum(n for tensor, n, _ in elements if tensor.role == "buffer"),
        sum(tensor.n_bytes for tensor, _, _ in elements if tensor.role),
        sum(n for tensor, n, held in elements if tensor.role == "parameter" and not held),
        sum(tensor.n_bytes for tensor, _, held in elements if tensor.role and not held),
    )


@given(models())
def test_totals_are_those_of_a_slow_count(model: tuple[list[SummaryTensor], dict[str, str]]) -> None:
    tensors, same = model
    rows = rows_of({}, tensors, same)
    assert [tensor for row in rows for tensor in row.tensors] == sorted(
        tensors, key=lambda tensor: [row.name for row in rows].index(tensor.name.rpartition(".")[0])
    )
    for row in rows:
        found = (row.n_parameters, row.n_trainable, row.n_buffers, row.n_bytes, row.n_tied, row.tied_bytes)
        assert found == slowly(tensors, same, row.name), row.name
        assert row.depth == (row.name.count(".") + 1 if row.name else 0)
        assert row.same_as == same.get(row.name)
    for row in rows:
        inner = [
            child
            for child in rows
            if child.depth == row.depth + 1 and (not row.name or child.name.startswith(f"{row.name}."))
        ]
        own = sum(math.prod(t.shape) for t in row.tensors if t.role == "parameter" and not t.tied_to)
        if not any(tensor.tied_to for tensor in tensors) and row.same_as is None:
            assert row.n_parameters - row.n_tied == own + sum(child.n_parameters - child.n_tied for child in inner)


def test_modules_come_in_their_order_and_missing_ones_are_put_in() -> None:
    weight = SummaryTensor("b.x.weight", "float32", (2, 3), 24, trainable=True)
    rows = rows_of({"": "Net", "b": "Block", "a": "Linear"}, [weight])
    assert [(row.name, row.kind, row.depth) for row in rows] == [
        ("", "Net", 0), ("b", "Block", 1), ("b.x", "", 2), ("a", "Linear", 1),
    ]  # fmt: skip
    assert [row.n_parameters for row in rows] == [6, 6, 6, 0]
    assert rows[2].tensors == (weight,)


def test_rows_down_to_a_depth_keep_their_totals_and_costs() -> None:
    rows = rows_of({}, [SummaryTensor(f"a.b.c{n}.w", "float32", (5,), 20) for n in range(3)])
    rows = tuple(dataclasses.replace(row, flops=row.depth + 1, activation_bytes=7) for row in rows)
    summary = Summary("it", "module", 15, 0, 60, rows)
    cut = down_to(summary, 1)
    assert [(row.name, row.n_parameters, row.flops, row.activation_bytes) for row in cut.rows] == [
        ("", 15, 1, 7),
        ("a", 15, 2, 7),
    ]
    assert (cut.n_parameters, cut.n_bytes) == (15, 60)
    assert down_to(summary, None) is summary and down_to(summary, 0).rows == rows[:1]


def test_bytes_of_shared_memory_count_once() -> None:
    whole, left, right = Place("m", 0, 80, 80), Place("m", 0, 60, 40), Place("m", 20, 80, 40)
    assert own_bytes([[whole], [left], [right]]) == [80, 0, 0]
    assert own_bytes([[left], [right], [whole]]) == [40, 40, 0]  # two halves by columns, interleaved
    assert own_bytes([[left], [whole]]) == [40, 40]
    assert own_bytes([[Place("m", 0, 8, 8)], [Place("m", 8, 16, 8)], [Place("n", 0, 8, 8)]]) == [8, 8, 8]
    assert own_bytes([[Place("m", 0, 4, 4)], [Place("m", 0, 0, 0)], []]) == [4, 0, 0]
    assert own_bytes([[Place("m", 0, 4, 4), Place("m", 0, 4, 4)]]) == [4]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=8))
def test_bytes_of_stretches_are_those_that_they_cover(stretches: list[tuple[int, int]]) -> None:
    found = own_bytes([[Place("m", start, start + size, size)] for start, size in stretches])
    assert sum(found) == len({at for start, size in stretches for at in range(start, start + size)})
    assert all(0 <= taken <= size for taken, (_, size) in zip(found, stretches, strict=True))


def test_roles_that_are_told_from_names() -> None:
    cases = {
        ("bn.running_mean", "float32", (3,)): "buffer",
        ("bn.num_batches_tracked", "int64", ()): "buffer",
        ("bn.weight", "float32", (3,)): "parameter",
        ("rotary.inv_freq", "float32", (32,)): "buffer",
        ("h.0.attn.bias", "float32", (1, 1, 1024, 1024)): "buffer",
        ("h.0.attn.bias", "float32", (1, 1, 1, 1)): "parameter",
        ("mask", "bool", (4,)): "buffer",
        ("steps", "int64", ()): "buffer",
        ("layer.qweight", "int32", (8, 8)): "parameter",
        ("layer.qzeros", "int32", (8, 8)): "parameter",
        ("layer.weight", "uint8", (8, 1)): "parameter",
        ("layer.weight", "qint8", (8, 8)): "parameter",
        ("layer.weight", "int64", (8, 8)): "buffer",
        ("blk.0.ffn_up.weight", "Q4_K", (8, 256)): "parameter",
        ("layer.weight_u", "float32", (8,)): "buffer",
        ("layer.weight_v", "float32", (8, 3)): "parameter",
    }
    assert {case: guessed_role(*case) for case in cases} == cases
