"""Proofs: generated inputs against a slow reference, tolerances, models that have none."""

from __future__ import annotations

import collections
import contextlib
import io
import math
from typing import Any

import msgspec
import pytest
import torch
from torch import nn

import perdure
from perdure.errors import CorruptError, LimitError
from perdure.models.generation import describe, generate
from perdure.models.proving import examine, prove
from perdure.records.proof import InputLeaf, Proof, decode, encode

MASK = 2**64 - 1


def splitmix(seed: int, leaf: int, i: int) -> int:
    """SplitMix64 in Python's own integers."""
    z = (seed + leaf * 2**40 + i + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


@pytest.mark.parametrize("seed", [0, 7, 2**63])
def test_generated_values_are_those_of_the_reference(seed: int) -> None:
    numbers = [splitmix(seed, 3, i) for i in range(6)]
    integers = generate(InputLeaf("int64", (2, 3), -5, 100), 3, seed, "f")
    assert integers.flatten().tolist() == [-5 + z % 106 for z in numbers]
    floats = generate(InputLeaf("float32", (6,), -1.5, 2.0), 3, seed, "f")
    expected = torch.tensor([-1.5 + (z >> 40) / 2**24 * 3.5 for z in numbers], dtype=torch.float64).float()
    assert torch.equal(floats, expected)
    complexes = generate(InputLeaf("complex64", (3,), 0.0, 1.0), 3, seed, "f")
    halves = torch.tensor([(z >> 40) / 2**24 for z in numbers]).double()
    assert torch.equal(torch.view_as_real(complexes).flatten(), halves.float())


def test_generated_values_of_known_numbers() -> None:
    """Of the published SplitMix64: its first output for the state 0 is 0xE220A8397B1DCDAF."""
    assert splitmix(0, 0, 0) == 0xE220A8397B1DCDAF
    found = generate(InputLeaf("int64", (1,), 0, 2**62 - 1), 0, 0, "f")
    assert found.item() == 0xE220A8397B1DCDAF % 2**62


@pytest.mark.parametrize(
    ("tensor", "leaf"),
    [
        (torch.tensor([[0.5, -2.0]]), InputLeaf("float32", (1, 2), -2.0, 0.5)),
        (torch.tensor([0.5, math.inf, math.nan]), InputLeaf("float32", (3,), -0.5, 1.5)),
        (torch.tensor([1.0, 0.0, 1.0]), InputLeaf("float32", (3,), 1.0, 1.0)),
        (torch.zeros(2), InputLeaf("float32", (2,), -1.0, 1.0)),
        (torch.tensor([3, 9]), InputLeaf("int64", (2,), 3, 9)),
        (torch.tensor([0, 1]), InputLeaf("int64", (2,), 1, 1)),
        (torch.tensor([True, False]), InputLeaf("bool", (2,), 1, 1)),
        (torch.empty(0, 3), InputLeaf("float32", (0, 3), 1, 1)),
        (torch.tensor([1 + 2j]), InputLeaf("complex64", (1,), 1.0, 2.0)),
    ],
)
def test_what_is_taken_from_an_example(tensor: torch.Tensor, leaf: InputLeaf) -> None:
    assert describe(tensor) == leaf
    made = generate(leaf, 0, 0, "f")
    assert made.dtype == tensor.dtype and made.shape == tensor.shape


def test_a_model_that_answers_otherwise_is_found_out() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2)).train()
    before = [tensor.clone() for tensor in model.state_dict().values()]
    proof = decode(encode(prove(model, ((torch.randn(3, 4),), {}))), "f")
    assert proof.missing == "" and model.training
    assert all(torch.equal(a, b) for a, b in zip(before, model.state_dict().values(), strict=True))

    def held() -> Any:
        return examine(model, proof, lambda name: torch.empty(0), "f")

    assert held().holds and held().same_bits
    with torch.no_grad():
        model[0].weight.add_(1e-6)
    assert held().holds and not held().same_bits
    with torch.no_grad():
        model[0].weight.add_(0.01)
    assert not held().holds and "differs by" in held().said
    model[2] = nn.Linear(8, 3)
    assert "not float32 (3, 2)" in held().said
    model[2] = nn.Linear(7, 3)
    assert "fails on the proof's input" in held().said


def test_models_without_a_proof_say_why() -> None:
    class Random(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(3)

    class Fails(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("not today")

    x = torch.randn(3)
    state = torch.get_rng_state()
    assert "another answer each time" in prove(Random(), ((x,), {})).missing
    assert "not today" in prove(Fails(), ((x,), {})).missing
    assert torch.equal(torch.get_rng_state(), state)


def test_a_kept_example_is_the_input() -> None:
    kept: dict[str, torch.Tensor] = {}
    x = torch.randn(3, 4)
    model = nn.Linear(4, 2)
    proof = prove(model, ((), {"input": x}), kept=kept)
    assert list(kept) == ["example.0"] and torch.equal(kept["example.0"], x)
    assert examine(model, proof, kept.__getitem__, "f").same_bits


def test_proofs_of_others() -> None:
    for content in (b"{", b"[]", b'{"inputs":[{"dtype":"float32","shape":[-1]}]}', b'{"outputs":3}'):
        with pytest.raises(CorruptError):
            decode(content, "f")
    with pytest.raises(LimitError):
        decode(b'{"inputs":[{"dtype":"float32","shape":[4294967296,16]}]}', "f")
    assert decode(encode(Proof(missing="none")), "f").missing == "none"


def test_names_and_plain_parts_of_an_answer_count() -> None:
    class Two(nn.Module):
        names = ("a", "b")
        extra: Any = 1

        def forward(self, x: torch.Tensor) -> Any:
            return {self.names[0]: x, self.names[1]: x, "n": self.extra}

    model = Two()
    proof = decode(encode(prove(model, ((torch.randn(3),), {}))), "f")
    assert examine(model, proof, lambda _: torch.empty(0), "f").same_bits
    model.extra = 2
    assert "no tensor" in examine(model, proof, lambda _: torch.empty(0), "f").said
    model.extra, model.names = 1, ("b", "a")
    assert "nested otherwise" in examine(model, proof, lambda _: torch.empty(0), "f").said


def test_a_named_tuple_is_a_tuple_in_a_graph() -> None:
    Pair = collections.namedtuple("Pair", "left right")
    Other = collections.namedtuple("Other", "left wrong")

    class Two(nn.Module):
        kind: Any = Pair

        def forward(self, x: torch.Tensor) -> Any:
            return {"pair": self.kind(x, [x])}

    model, x = Two(), torch.randn(3, 2)
    proof = decode(encode(prove(model, ((x,), {}))), "f")
    content = io.BytesIO()
    perdure.save(model, content, example=x)
    graph = perdure.load(content.getvalue(), form="graph", verify="full")
    assert examine(graph, proof, lambda _: torch.empty(0), "f").same_bits
    model.kind = Other
    assert "other names" in examine(model, proof, lambda _: torch.empty(0), "f").said


def test_answers_of_others_are_no_trees() -> None:
    model, x = nn.Linear(2, 2), torch.randn(1, 2)
    sound = prove(model, ((x,), {}))
    for answer in (5, None, [{}], {"tuple": 5}, {"dict": [1]}, {"at": []}):
        proof = decode(encode(msgspec.structs.replace(sound, answer=answer)), "f")
        assert "nested otherwise" in examine(model, proof, lambda _: torch.empty(0), "f").said
    deep = encode(sound).replace(b'"answer":{"at":0}', b'"answer":' + b"[" * 600 + b"]" * 600)
    with contextlib.suppress(CorruptError):
        assert not examine(model, decode(deep, "f"), lambda _: torch.empty(0), "f").holds


class Masked(nn.Module):
    """Its mask says what is padding, and it cannot do with nothing else."""

    def forward(self, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
        weights = torch.zeros_like(x).masked_fill(padding, float("-inf")).softmax(-1)
        return (weights * x).sum(-1)


def test_masks_whose_ones_hide_everything_become_zeros() -> None:
    padding = torch.tensor([[False, False, True]])
    found = prove(Masked(), ((torch.randn(1, 3), padding), {}))
    assert not found.missing and [leaf.low for leaf in found.inputs] == [found.inputs[0].low, 0]
    assert examine(Masked(), found, lambda name: torch.empty(0), "here").holds
