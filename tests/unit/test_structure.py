"""Nested arguments and results as plain data, and back."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, namedtuple

import pytest

from perdure.errors import InputError, UnsupportedModelError
from perdure.models.structure import collect, flatten, leaf_places, unflatten, with_leaves

Pair = namedtuple("Pair", "left right")


@dataclasses.dataclass
class Output:
    logits: object
    aux: object = None


class Answer(OrderedDict):
    """A mapping of a library, as the outputs of transformers are."""


@pytest.mark.parametrize(
    ("value", "leaves", "plain"),
    [
        (7, [7], 7),
        (None, [None], None),
        ((1, [2, 3]), [1, 2, 3], (1, [2, 3])),
        ({"a": 1, "b": (2,)}, [1, 2], {"a": 1, "b": (2,)}),
        ({3: "x", None: True}, ["x", True], {3: "x", None: True}),
        (Pair(1, 2), [1, 2], (1, 2)),
        (Output(1, None), [1, None], {"logits": 1, "aux": None}),
        (Answer(logits=1, hidden=(2, 3)), [1, 2, 3], {"logits": 1, "hidden": (2, 3)}),
        ([Output(Pair(1, 2))], [1, 2, None], [{"logits": (1, 2), "aux": None}]),
        ((), [], ()),
        ([], [], []),
        ({}, [], {}),
    ],
)
def test_what_is_taken_apart_comes_back_plain(value, leaves, plain):
    found, tree = flatten(value, "the output")
    assert found == leaves
    back = unflatten(tree, found)
    assert back == plain
    assert type(back) is type(plain)


def test_names_of_fields_are_kept():
    _, tree = flatten(Pair(1, 2), "the output")
    assert tree == {"tuple": [{"at": 0}, {"at": 1}], "fields": ["left", "right"]}


def test_places_name_each_leaf():
    _, tree = flatten({"a": (1, [2]), "b": {"c": 3}}, "x")
    assert leaf_places(tree, "x") == ["x['a'][0]", "x['a'][1][0]", "x['b']['c']"]


@pytest.mark.parametrize(
    "value",
    [(1, [2, 3]), {"a": Pair(1, 2)}, Output(1, [2]), Answer(a=1, b=2), Pair(Output(1), (2, 3)), OrderedDict(a=1)],
)
def test_other_leaves_in_the_same_classes(value):
    leaves, tree = flatten(value, "x")
    other = with_leaves(value, iter([f"new {leaf}" for leaf in leaves]))
    assert type(other) is type(value)
    found, same = flatten(other, "x")
    assert found == [f"new {leaf}" for leaf in leaves]
    assert same == tree
    assert flatten(value, "x")[0] == leaves, "the original is as it was"


def test_too_deep_is_refused():
    value: object = 1
    for _ in range(50):
        value = [value]
    with pytest.raises(UnsupportedModelError, match="nested deeper"):
        flatten(value, "x")


def test_keys_that_are_no_plain_values_are_refused():
    with pytest.raises(UnsupportedModelError, match="key"):
        flatten({(1, 2): 3}, "x")


def test_a_value_of_the_same_nesting_is_collected():
    _, tree = flatten((1, {"a": 2, "b": [3]}), "x")
    leaves: list[object] = []
    collect([10, {"b": (30,), "a": 20}], tree, "x", leaves)
    assert leaves == [10, 20, 30]


def test_a_dataclass_is_collected_by_its_fields():
    _, tree = flatten(Output(1, 2), "x")
    leaves: list[object] = []
    collect(Output(5, 6), tree, "x", leaves)
    collect({"logits": 7, "aux": 8}, tree, "x", leaves)
    assert leaves == [5, 6, 7, 8]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ((1,), r"x was a tuple or list of 2 items.*one of 1 items"),
        (5, r"x was a tuple or list of 2 items.*found int"),
        ((1, {"a": 2}), r"x\[1\] was a dict with the keys 'a', 'b'.*keys 'a'"),
        ((1, [2]), r"x\[1\] was a dict.*one of 1 items"),
        ((1, {"a": 2, "b": 3, "c": 4}), r"'a', 'b', 'c'"),
    ],
)
def test_another_nesting_is_refused_with_its_place(wrong, said):
    _, tree = flatten((1, {"a": 2, "b": 3}), "x")
    with pytest.raises(InputError, match=said):
        collect(wrong, tree, "x", [])
