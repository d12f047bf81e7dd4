"""The vocabulary of plain values as it stands in a file, and what a damaged or forged one does."""

from __future__ import annotations

import datetime
import enum
import io
import json
import pathlib
import types
from collections import Counter, OrderedDict, deque
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import perdure
from fault.forging import with_values
from perdure.errors import CorruptError, PerdureError, UnsupportedValueError
from perdure.records import values


class Colour(enum.Enum):
    RED = "red"


# What each value is in the file: docs/FORMAT.md promises it to other readers.
ENCODED: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (3, 3),
    (2**53, 2**53),
    (2**53 + 1, {"$": "int", "of": "0x20000000000001"}),
    (-(2**64), {"$": "int", "of": "-0x10000000000000000"}),
    (1.5, 1.5),
    (float("inf"), {"$": "float", "of": "inf"}),
    (float("-inf"), {"$": "float", "of": "-inf"}),
    ("text $", "text $"),
    ([1, [2]], [1, [2]]),
    ((1, (2,)), {"$": "tuple", "of": [1, {"$": "tuple", "of": [2]}]}),
    ({"a": 1}, {"a": 1}),
    ({"$": 1}, {"$": "dict", "of": [["$", 1]]}),
    ({1: "a", None: "b"}, {"$": "dict", "of": [[1, "a"], [None, "b"]]}),
    ({3, 1}, {"$": "set", "of": [1, 3]}),
    (frozenset(["b", "a"]), {"$": "frozenset", "of": ["a", "b"]}),
    (b"\0\xff", {"$": "bytes", "of": "AP8="}),
    (bytearray(b"a"), {"$": "bytearray", "of": "YQ=="}),
    (1 - 2j, {"$": "complex", "of": ["1.0", "-2.0"]}),
    (datetime.date(2026, 1, 2), {"$": "date", "of": "2026-01-02"}),
    (datetime.datetime(2026, 1, 2, 3, 4, 5, 6), {"$": "datetime", "of": "2026-01-02T03:04:05.000006"}),
    (datetime.time(3, 4), {"$": "time", "of": "03:04:00"}),
    (datetime.timedelta(1, 2, 3), {"$": "timedelta", "of": [1, 2, 3]}),
    (Decimal("1.50"), {"$": "decimal", "of": "1.50"}),
    (pathlib.PurePosixPath("a/b"), {"$": "path", "of": "a/b"}),
    (pathlib.PureWindowsPath("a/b"), {"$": "path", "of": "a\\b", "windows": True}),
    (Colour.RED, "red"),
    (Counter("aab"), {"$": "counter", "of": [["a", 2], ["b", 1]]}),
    (deque([1, (2,)], 3), {"$": "deque", "of": [1, {"$": "tuple", "of": [2]}], "longest": 3}),
    (range(1, 2**60, 2), {"$": "range", "of": [1, {"$": "int", "of": hex(2**60)}, 2]}),
    (slice(None, 3), {"$": "slice", "of": [None, 3, None]}),
    (..., {"$": "ellipsis"}),
    (types.SimpleNamespace(a=(1,)), {"$": "namespace", "of": {"a": {"$": "tuple", "of": [1]}}}),
    (OrderedDict(b=1, a=2), {"$": "ordered", "of": [["b", 1], ["a", 2]]}),
]


@pytest.mark.parametrize(("value", "expected"), ENCODED, ids=lambda value: type(value).__name__)
def test_encoded_form(value: Any, expected: Any) -> None:
    assert values.encode(value, "x") == expected
    text = values.to_text(values.encode(value, "x"))
    assert text.isascii() and json.loads(text) == expected
    assert values.decode(values.from_text(text.encode(), "here"), "here") == (
        value.value if value is Colour.RED else value
    )


def test_fractions_and_folds_come_back() -> None:
    for value in (Fraction(-1, 3), datetime.datetime(2026, 10, 25, 2, 30, fold=1), datetime.time(2, fold=1)):
        found = values.decode(json.loads(values.to_text(values.encode(value, "x"))), "here")
        assert found == value and type(found) is type(value)
        assert getattr(found, "fold", None) == getattr(value, "fold", None)


def test_place_in_messages() -> None:
    state = {"a": [{"b": (1, object())}]}
    with pytest.raises(UnsupportedValueError, match=r"notes\['a'\]\[0\]\['b'\]\[1\].*builtins\.object"):
        values.encode(state, "notes")
    long = {"k" * 5000: object()}
    with pytest.raises(UnsupportedValueError) as caught:
        values.encode(long, "notes")
    assert len(str(caught.value)) < 1000


BAD = [
    {"$": "nonsense"}, {"$": None}, {"$": ["tuple"]}, {"$": {}}, {"$": "tuple"}, {"$": "tuple", "of": 3},
    {"$": "set", "of": [[1]]},
    {"$": "set", "of": [{"a": 1}]}, {"$": "dict", "of": [[1]]}, {"$": "dict", "of": [[[1], 2]]}, {"$": "dict", "of": [1]},
    {"$": "int", "of": "x"}, {"$": "int", "of": 3}, {"$": "float", "of": "1_x"}, {"$": "float", "of": None},
    {"$": "bytes", "of": "*"}, {"$": "bytes", "of": 3}, {"$": "complex", "of": ["1"]}, {"$": "complex", "of": "12"[:1]},
    {"$": "date", "of": "2026-13-01"}, {"$": "datetime", "of": "now"}, {"$": "time", "of": "25:00"}, {"$": "time", "of": 3},
    {"$": "timedelta", "of": [10**12, 0, 0]}, {"$": "timedelta", "of": {"a": 1}}, {"$": "decimal", "of": "1.x"},
    {"$": "decimal", "of": [1]}, {"$": "fraction", "of": "1/0"}, {"$": "path", "of": 3}, {"$": "path"},
    {"$": "counter", "of": [["a", []], 3]}, {"$": "ordered", "of": {"a": 1}}, {"$": "ordered", "of": [], "versions": 3},
    {"$": "ordered", "of": [], "versions": [1]}, {"$": "text", "of": "xyz"}, {"$": "text", "of": "ff"},
    {"$": "size", "of": ["a"]}, {"$": "size", "of": 3}, {"$": "dtype", "of": "Tensor"}, {"$": "dtype", "of": "no_such"},
    {"$": "dtype"}, {"$": "device", "of": "nowhere"}, {"$": "device", "of": "cpu:99999999999999999999"}, {"$": "device"},
    {"$": "scalar", "dtype": "<f4", "of": "00"}, {"$": "scalar", "dtype": "<f4", "of": "zz"},
    {"$": "scalar", "dtype": "O", "of": "00" * 8},
    {"$": "scalar", "dtype": "<i4,<i4", "of": "00" * 8}, {"$": "scalar", "dtype": "nonsense", "of": "00"}, {"$": "scalar"},
    {"$": "tensor", "name": "absent"}, {"$": "tensor"}, {"$": "tensor", "name": ["x"]}, {"$": "tensor", "name": {}},
    {"$": "ndarray", "name": "x", "dtype": "O", "shape": [3]}, {"$": "ndarray", "name": "x", "dtype": "<f8", "shape": [3]},
    {"$": "ndarray", "name": "x", "dtype": "S3", "shape": [-1, 0]},
    {"$": "ndarray", "name": "x", "dtype": "u1", "shape": "abc"},
    {"$": "ndarray", "name": "x", "dtype": "u1"}, {"$": "ndarray", "name": "x", "dtype": "|S0", "shape": [2**40]},
    {"$": "tensor", "name": "whole", "requires_grad": True},
    {"$": "tensor", "name": "whole", "parameter": True, "requires_grad": True},
    {"$": "ndarray", "name": "half"}, {"$": "ndarray", "name": "sparse"}, {"$": "ndarray", "name": "quantized"},
]  # fmt: skip


@pytest.fixture(scope="module")
def content() -> bytes:
    file = io.BytesIO()
    tensors = {
        "x": torch.ones(3), "whole": torch.ones(2, dtype=torch.int64), "half": torch.ones(3, dtype=torch.bfloat16),
        "sparse": torch.eye(2).to_sparse(), "quantized": torch.quantize_per_tensor(torch.ones(2), 1, 0, torch.qint8),
    }  # fmt: skip
    perdure.save_checkpoint(tensors, file)
    return file.getvalue()


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize")
@pytest.mark.parametrize("bad", BAD, ids=json.dumps)
def test_forged_values_are_typed_errors(bad: Any, content: bytes) -> None:
    for forged in (bad, {"a": [bad]}, {"$": "dict", "of": [[1, bad]]}):
        with pytest.raises(PerdureError):
            perdure.load_checkpoint(with_values(content, json.dumps(forged)))


@pytest.mark.parametrize("text", ["", "nul", "[", '{"a": 1}x', "\ud800", "[" * 100_000, '{"$": "tuple", "of": ' * 5000])
def test_values_that_are_no_json(text: str, content: bytes) -> None:
    with pytest.raises(CorruptError):
        perdure.load_checkpoint(with_values(content, text.encode("utf-8", "surrogatepass")))


def test_values_nested_too_deeply_for_the_reader(content: bytes) -> None:
    """Deeper than anything that was ever saved."""
    for opening, closing in (("[", "]"), ('{"a":', "}"), ('{"$":"tuple","of":[', "]}")):
        text = opening * 900 + "1" + closing * 900
        try:
            perdure.load_checkpoint(with_values(content, text))
        except CorruptError:
            continue


tags = st.sampled_from([
    "tuple", "set", "frozenset", "dict", "ordered", "counter", "path", "text", "float", "int", "complex", "bytes",
    "bytearray",
    "datetime", "date", "time", "timedelta", "decimal", "fraction", "tensor", "ndarray", "size", "dtype", "device",
    "scalar", "deque", "namespace", "slice", "range", "ellipsis", "x",
])  # fmt: skip
leaves = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8),
    st.sampled_from(["x", "whole", "half", "<f4", "<M8[ns]", "S3", "cpu", "float32", "0x1f", "1/3", "AAAA", "00ff",
    "2026-01-01"]),
)  # fmt: skip
json_values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.text(max_size=3), inner, max_size=3),
        st.fixed_dictionaries(
            {"$": tags | leaves},
            optional={
                "of": inner, "name": leaves | inner, "dtype": leaves, "shape": inner, "versions": inner,
                "parameter": leaves, "requires_grad": leaves, "windows": leaves, "fold": leaves, "longest": leaves,
            },
        ),
    ),
    max_leaves=10,
)  # fmt: skip


@pytest.mark.filterwarnings("ignore:Sparse", "ignore:torch.quantize")
@settings(max_examples=400)
@given(json_values)
@example({"$": "set", "of": [{"$": "bytearray", "of": ""}]})
@example({"$": "dict", "of": [[{"$": "tensor", "name": "x"}, 1]]})
@example({"$": "ndarray", "name": "x", "dtype": "S3", "shape": [4]})
def test_no_forged_value_does_anything_but_load_or_raise(content: bytes, value: Any) -> None:
    try:
        perdure.load_checkpoint(with_values(content, json.dumps(value)))
    except PerdureError:
        return


def test_numpy_is_only_needed_where_there_are_arrays() -> None:
    """A checkpoint of tensors and plain values is loaded without NumPy ever being imported by perdure."""
    file = io.BytesIO()
    perdure.save_checkpoint({"a": np.float32(1.5), "b": np.arange(3)}, file)
    found = perdure.load_checkpoint(file.getvalue())
    assert type(found["a"]) is np.float32 and found["a"] == 1.5 and found["b"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("offset", [datetime.timedelta(microseconds=1), datetime.timedelta(milliseconds=-999)])
def test_an_offset_that_python_cannot_read_back_is_refused(offset: datetime.timedelta) -> None:
    zone = datetime.timezone(offset)
    for value in (datetime.datetime(2026, 1, 2, tzinfo=zone), datetime.time(3, 4, tzinfo=zone)):
        with pytest.raises(UnsupportedValueError, match=r"when.*less than a second"):
            values.encode([value], "when")
