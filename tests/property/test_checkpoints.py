"""Checkpoints: any nesting of plain values, tensors and arrays comes back with its values, types and ties."""

from __future__ import annotations

import copy
import datetime
import enum
import io
import math
import pathlib
import struct
import sys
import tempfile
import threading
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

import perdure
from perdure.errors import FormatError, MissingTensorError, PerdureError, UnsupportedTensorError, UnsupportedValueError
from property.tensors import DTYPES, make, pairs, plain, raw, same_bits, seeds, shapes, shared, step


def through_file(state: Any, **options: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state.safetensors")
        perdure.save_checkpoint(state, path, **options)
        return perdure.load_checkpoint(path)


def through_folder(state: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "state")
        perdure.save_checkpoint(state, path, shard_bytes=50)
        return perdure.load_checkpoint(path)


def through_memory(state: Any) -> Any:
    file = io.BytesIO()
    perdure.save_checkpoint(state, file)
    return perdure.load_checkpoint(file.getvalue())


WAYS = {"file": through_file, "folder": through_folder, "memory": through_memory}


def assert_same(one: Any, other: Any, place: str = "state") -> None:
    """Compare two states to the last bit: values, types, the order of dicts, the kind of each tensor."""
    assert type(one) is type(other), place
    if isinstance(one, torch.Tensor):
        assert same_bits(one, other), place
        assert one.requires_grad == other.requires_grad, place
    elif isinstance(one, (np.ndarray, np.generic)):
        assert (one.dtype.str, one.shape, one.tobytes()) == (other.dtype.str, other.shape, other.tobytes()), place
    elif isinstance(one, dict):
        assert len(one) == len(other), place
        for (key, value), (other_key, other_value) in zip(one.items(), other.items(), strict=True):
            assert_same(key, other_key, f"{place}, key {key!r}")
            assert_same(value, other_value, f"{place}[{key!r}]")
    elif type(one) in (list, tuple, deque):
        assert len(one) == len(other) and getattr(one, "maxlen", 0) == getattr(other, "maxlen", 0), place
        for number, (item, other_item) in enumerate(zip(one, other, strict=True)):
            assert_same(item, other_item, f"{place}[{number}]")
    elif isinstance(one, (set, frozenset)):
        assert sorted(map(exactly, one)) == sorted(map(exactly, other)), place
    else:
        assert exactly(one) == exactly(other), place


def exactly(value: Any) -> str:
    """Return text that differs whenever two plain values do: `-0.0` and `0.0`, `1` and `True`, NaN like itself."""
    if isinstance(value, float):
        return f"float {struct.pack('<d', value).hex() if value == value else 'nan'}"
    if isinstance(value, complex):
        return f"complex {exactly(value.real)} {exactly(value.imag)}"
    if isinstance(value, (tuple, frozenset)):
        items = [exactly(item) for item in value]
        return f"{type(value)} {items if isinstance(value, tuple) else sorted(items)}"
    if isinstance(value, (datetime.datetime, datetime.time)):
        return f"{value!r} {value.utcoffset()}"
    return f"{type(value)} {value!r}"


# Plain values

day, second = datetime.timedelta(days=1), datetime.timedelta(seconds=1)
offsets = (
    st.timedeltas(second - day, day - second)
    .filter(lambda offset: not offset or abs(offset) >= second)  # those are refused
    .map(datetime.timezone)
)
text = st.text(
    st.one_of(st.characters(), st.sampled_from("$'\"[]\\.\0\n"), st.sampled_from("\ud800\udc00\ud83d\ude00\udfff"))
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**64, -(2**63) - 1]),
    st.floats(),
    st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 5e-324, sys.float_info.max, 0.1]),
    st.complex_numbers(),
    st.sampled_from([complex(-0.0, math.nan), complex(math.inf, -0.0)]),
    text,
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.none() | offsets | st.just(datetime.timezone.utc)),
    st.times(),
    st.times(timezones=offsets),
    st.timedeltas(),
    st.decimals(),
    st.sampled_from([Decimal("-0"), Decimal("1E+1000"), Decimal("NaN123"), Decimal("-Infinity"), Decimal("1.00")]),
    st.fractions(),
    text.filter(lambda part: "\0" not in part).map(pathlib.Path),
    st.sampled_from([pathlib.Path("/a/b"), pathlib.Path("."), pathlib.PureWindowsPath("C:\\x\\y"), pathlib.Path("é")]),
)
keys = st.recursive(
    scalars.filter(lambda key: not (isinstance(key, Decimal) and key.is_snan())),
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=4,
)
torch_values = st.one_of(
    st.lists(st.integers(0, 100), max_size=4).map(torch.Size),
    st.sampled_from(DTYPES),
    st.sampled_from(["cpu", "cuda", "cuda:1", "meta", "mps"]).map(torch.device),
)


def nested(leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=4),
            st.lists(inner, max_size=4).map(tuple),
            st.dictionaries(text, inner, max_size=4),
            st.dictionaries(keys, inner, max_size=4),
            st.dictionaries(st.sampled_from(["$", "of", "name", "$$"]), inner, max_size=3),
            st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
            st.sets(keys, max_size=4),
            st.frozensets(keys, max_size=4),
            st.dictionaries(keys, st.integers(-5, 5), max_size=3).map(Counter),
            st.lists(inner, max_size=4).map(lambda items: deque(items, 5)),
            st.lists(inner, max_size=2).map(deque),
            st.sampled_from([..., range(3), range(2**70, 5, -3), slice(1, None, 2**60), slice("a", (1,))]),
        ),
        max_leaves=12,
    )


def bytearrays() -> st.SearchStrategy[bytearray]:
    return st.binary().map(bytearray)


@settings(max_examples=300)
@given(nested(scalars | torch_values | bytearrays()), st.sampled_from(["file", "memory", "folder"]))
@example([], "file")
@example({"$": "tensor", "name": "x"}, "memory")
@example({"\ud83d\ude00": 1, "\U0001f600": 2}, "memory")
@example({1: 0, "1": 1, 1.5: 2, (1,): 3, None: 4, b"1": 5, frozenset([1]): 6}, "memory")
@example([["$", "tuple"], {"$": "tuple", "of": [1]}, {"of": [1]}], "memory")
def test_plain_values(state: Any, way: str) -> None:
    before = copy.deepcopy(state)
    assert_same(WAYS[way](state), state)
    assert_same(state, before)


class Colour(enum.Enum):
    RED = "red"
    BLUE = (1, 2)
    DEEP = [1, {"a": None}]  # noqa: RUF012


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2**60


class Mode(str, enum.Enum):
    FAST = "fast"


class Flags(enum.Flag):
    A = 1
    B = 2


def test_values_that_change_their_type() -> None:
    """What is documented to come back as something plainer, and nothing else."""
    state = {
        "enums": [Colour.RED, Colour.BLUE, Colour.DEEP, Level.HIGH, Mode.FAST, Flags.A | Flags.B],
        Colour.RED: 1,
        Level.LOW: 2,
        "default": defaultdict(list, {"a": [1]}),
        "paths": [pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("C:/a")],
    }
    found = through_file(state)
    plainer = {
        "enums": ["red", (1, 2), [1, {"a": None}], 2**60, "fast", 3],
        "red": 1,
        1: 2,
        "default": {"a": [1]},
        "paths": [pathlib.Path("/a"), pathlib.PureWindowsPath("C:/a")],
    }
    assert_same(found, plainer)


class Number(enum.Enum):
    ONE = 1
    MANY = [1]  # noqa: RUF012


@pytest.mark.parametrize(
    "state",
    [
        {Number.ONE: 1, 1: 2},
        {1: 1, Number.ONE: 2},
        {Number.ONE, 1},
        {(Number.ONE,): 1, (1,): 2},
        frozenset([(0, Number.ONE), (0, 1)]),
        {Number.MANY: 1},
        {(Number.MANY, 2): 1},
        {Number.MANY},
        OrderedDict({Number.ONE: 1, 1: 2}),
        Counter({Number.ONE: 1, 1: 2}),
    ],
    ids=lambda state: type(state).__name__,
)
def test_keys_that_would_not_come_back_are_refused(state: Any) -> None:
    """Plain enums are other keys than their values: two that would become one, or no key, are refused when saving."""
    with pytest.raises(UnsupportedValueError, match="state"):
        perdure.save_checkpoint(state, io.BytesIO())


@pytest.mark.parametrize("power", [16_000, -16_000])
def test_numbers_of_thousands_of_digits(power: int) -> None:
    """More digits than Python turns into text."""
    number = 2 ** abs(power) + 1 if power > 0 else -(2 ** abs(power)) - 1
    found = through_memory({"int": number, "fraction": Fraction(number, 3), "key": {number: 1}})
    assert found["int"] == number and found["key"] == {number: 1}
    assert found["fraction"] == Fraction(number, 3) and type(found["fraction"]) is Fraction


def test_equal_objects_that_are_several_stay_equal() -> None:
    inner = [1, 2]
    found = through_memory([inner, inner, (inner,)])
    assert found == [[1, 2], [1, 2], ([1, 2],)]
    assert found[0] is not found[1]


def test_depth_of_200_levels() -> None:
    state: Any = 1
    for _ in range(200):
        state = [state]
    assert through_memory(state) == state
    with pytest.raises(UnsupportedValueError, match="200"):
        through_memory([state])


def test_hundred_thousand_values() -> None:
    state = {"losses": [1 / (number + 1) for number in range(50_000)], "steps": dict.fromkeys(range(50_000), None)}
    assert_same(through_file(state), state)


# What is outside the vocabulary


class Custom:
    def __init__(self) -> None:
        self.x = 1


class Texts(str):
    __slots__ = ()


class Lists(list):  # type: ignore[type-arg]
    pass


Point = namedtuple("Point", "x y")


class Wrapped(torch.Tensor):
    pass


def _cyclic() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def _lambda(x: int) -> int:
    return x


UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "lambda": (lambda x: x, "builtins.function"),
    "function": (_lambda, "builtins.function"),
    "class": (Custom, "builtins.type"),
    "instance": (Custom(), "Custom"),
    "module": (math, "builtins.module"),
    "namedtuple": (Point(1, 2), "Point"),
    "subclass of str": (Texts("a"), "Texts"),
    "subclass of list": (Lists(), "Lists"),
    "generator": ((number for number in range(3)), "builtins.generator"),
    "lock": (threading.Lock(), "_thread.lock"),
    "object": (object(), "builtins.object"),
    "nn.Module": (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
    "optimizer": (torch.optim.SGD([torch.zeros(1)], lr=0.1), "torch.optim.sgd.SGD"),
    "generator of torch": (torch.Generator(), "torch"),
    "objects": (np.array([None, 1], dtype=object), "object"),
    "empty objects": (np.array([], dtype=object), "object"),
    "structure": (np.zeros(2, dtype=[("a", "i4"), ("b", "f8")]), "'a'"),
    "record": (np.zeros(2, dtype=[("a", "i4")])[0], "'a'"),
    "void": (np.zeros(2, dtype="V5")[0], "V5"),
    "matrix": (np.matrix([[1]]), "matrix"),
    "masked": (np.ma.masked_array([1, 2], [True, False]), "MaskedArray"),
    "long double": (np.longdouble(1) / 3, "float128"),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_unsupported_values_are_named_by_place_and_type(kind: str) -> None:
    value, type_name = UNSUPPORTED[kind]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "s.safetensors")
        with pytest.raises(UnsupportedValueError) as caught:
            perdure.save_checkpoint({"a": [0, {"deep key": (1, value)}]}, path)
        assert "state['a'][1]['deep key'][1]" in str(caught.value)
        assert type_name in str(caught.value)
        assert list(Path(folder).iterdir()) == []


def test_open_files_are_refused(tmp_path: Path) -> None:
    with (
        (tmp_path / "x").open("wb") as file,
        pytest.raises(UnsupportedValueError, match=r"state\['log'\].*BufferedWriter"),
    ):
        perdure.save_checkpoint({"log": file}, tmp_path / "s.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


def test_cycles_are_refused() -> None:
    loop: dict[str, Any] = {}
    loop["self"] = loop
    for state, place in ((_cyclic(), "state[1][1]"), (loop, "state['self']['self']")):
        with pytest.raises(UnsupportedValueError, match="does it contain itself") as caught:
            perdure.save_checkpoint(state, io.BytesIO())
        assert place in str(caught.value)
        assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "key", [Custom(), Point(1, 2), (1, Custom()), _lambda, Texts("a")], ids=lambda key: type(key).__name__
)
def test_unsupported_keys_are_named(key: Any) -> None:
    with pytest.raises(UnsupportedValueError, match=r"state\['a'\], key"):
        perdure.save_checkpoint({"a": {key: 1}}, io.BytesIO())


TENSORS_THAT_CANNOT_BE_SAVED: dict[str, Callable[[], Any]] = {
    "meta": lambda: torch.empty(3, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
    "lazy": lambda: nn.LazyLinear(3).weight,
    "marked twice": lambda: torch._neg_view(torch.zeros(3, dtype=torch.complex32).conj()),
    "subclass": lambda: torch.zeros(3).as_subclass(Wrapped),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", TENSORS_THAT_CANNOT_BE_SAVED)
def test_tensors_that_cannot_be_saved_are_named(kind: str) -> None:
    with pytest.raises(UnsupportedTensorError, match=r"state\['model'\]\[0\]"):
        perdure.save_checkpoint({"model": [TENSORS_THAT_CANNOT_BE_SAVED[kind]()]}, io.BytesIO())


def test_notes_are_plain_values_too(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    notes = {"epoch": 3, "when": datetime.date(2026, 1, 2), "bad": "\ud800"}
    perdure.save_checkpoint({"a": 1}, path, notes=notes)
    assert perdure.load_checkpoint(path) == {"a": 1}
    assert perdure.info(path).manifest.notes["epoch"] == 3  # type: ignore[union-attr]
    with pytest.raises(UnsupportedValueError, match=r"notes\['f'\]"):
        perdure.save_checkpoint({}, path, notes={"f": _lambda})
    assert perdure.load_checkpoint(path) == {"a": 1}


# NumPy

NUMPY_TYPES = [
    *("?", "b", "B", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8", "<c8", "<c16"),
    *(">i2", ">u2", ">i4", ">u4", ">i8", ">u8", ">f2", ">f4", ">f8", ">c8", ">c16", "g", "G"),
    *("<M8[ns]", "<M8[D]", ">M8[us]", "<m8[s]", ">m8[h]", "<M8[25s]", "<m8"),
    *("S1", "S7", "U1", "U5", ">U3", "S0", "U0", "V5"),
]  # fmt: skip


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """An array of any plain type, in any memory layout."""
    dtype = np.dtype(draw(st.sampled_from(NUMPY_TYPES)))
    shape = draw(shapes)
    size = int(np.prod(shape))
    noise = np.random.default_rng(draw(seeds))
    if dtype.kind == "U":
        letters = np.array(["", "a", "é", "日本", "\U0001f600x", "abcde"])
        array = noise.choice(letters, size).astype(dtype).reshape(shape)
    elif dtype.kind == "b":
        array = noise.integers(0, 2, size).astype(bool).reshape(shape)
    elif dtype.itemsize == 0 or dtype.char in "gG":
        array = noise.standard_normal(size).astype(dtype).reshape(shape)
    else:
        array = np.frombuffer(noise.bytes(size * dtype.itemsize), dtype).reshape(shape).copy()
    for _ in range(draw(st.integers(0, 2))):
        kind = draw(st.sampled_from(["reversed", "transposed", "steps", "broadcast", "fortran", "readonly"]))
        if kind == "reversed" and array.ndim:
            array = array[::-1]
        elif kind == "transposed":
            array = array.T
        elif kind == "steps" and array.ndim:
            array = array[1::2]
        elif kind == "broadcast" and array.ndim < 4:
            array = np.broadcast_to(array, (2, *array.shape))
        elif kind == "fortran":
            array = np.asfortranarray(array)
        elif kind == "readonly":
            array = array.view()
            array.flags.writeable = False
    return array


@settings(max_examples=250)
@given(arrays(), st.sampled_from(["file", "memory", "folder"]))
def test_numpy_arrays(array: np.ndarray[Any, Any], way: str) -> None:
    found = WAYS[way]({"a": array, "b": [array]})
    assert_same(found["a"], array)
    assert found["b"][0] is found["a"]
    if array.size:
        assert found["a"].flags.writeable


@settings(max_examples=150)
@given(arrays().filter(lambda array: array.size > 0 and array.dtype.char not in "gGV"))
def test_numpy_scalars(array: np.ndarray[Any, Any]) -> None:
    scalar = array.ravel()[0]
    state = {"x": scalar, "list": [scalar]}
    # NaN, and a timedelta without a unit, are no members of sets
    if scalar == scalar and scalar.dtype != np.dtype("<m8"):
        state["set"] = {scalar}
    assert_same(through_memory(state), state)


def test_arrays_on_disk_and_in_tensors(tmp_path: Path) -> None:
    mapped = np.memmap(tmp_path / "x", np.float32, "w+", shape=(3,))
    mapped[:] = [1, 2, 3]
    tensor = torch.arange(6.0)
    found = through_file({"mapped": mapped, "tensor": tensor, "array": tensor.numpy(), "part": tensor.numpy()[2:4]})
    assert_same(found["mapped"], np.array([1, 2, 3], np.float32))
    found["part"][0] = 100
    assert found["tensor"].tolist() == [0, 1, 100, 3, 4, 5]
    assert found["array"].tolist() == [0, 1, 100, 3, 4, 5]


# Tensors and what they share


@settings(max_examples=100)
@given(
    nested(plain() | st.integers() | plain().map(lambda tensor: nn.Parameter(tensor, False))),
    st.sampled_from(list(WAYS)),
)
def test_tensors_in_nested_values(state: Any, way: str) -> None:
    assert_same(WAYS[way](state), state)


def test_gradients_and_kinds_of_tensors() -> None:
    state = {
        "parameter": nn.Parameter(torch.ones(2)),
        "frozen": nn.Parameter(torch.ones(2), requires_grad=False),
        "leaf": torch.ones(2, requires_grad=True),
        "made": torch.ones(2, requires_grad=True) * 2,
        "plain": torch.ones(2),
        "whole": nn.Parameter(torch.tensor([1, 2]), requires_grad=False),
    }
    found = through_file(state)
    assert_same(found, state)
    assert all(tensor.is_leaf for tensor in found.values())
    found["parameter"].sum().backward()
    assert found["parameter"].grad.tolist() == [1, 1]


@st.composite
def tied(draw: st.DrawFn) -> list[torch.Tensor]:
    """A contiguous tensor, and views and other names of it."""
    dtype = draw(st.sampled_from([torch.float32, torch.int16, torch.bool, torch.bits8, torch.float8_e5m2]))
    family = [make(draw(seeds), dtype, draw(shapes.filter(lambda shape: 0 not in shape)))]
    for _ in range(draw(st.integers(1, 5))):
        tensor = draw(st.sampled_from(family))
        if draw(st.booleans()):
            tensor = draw(step(tensor))
        family.append(tensor if draw(st.booleans()) else tensor.detach())
    order = draw(st.permutations(range(len(family))))
    return [family[number] for number in order if not (family[number].is_neg() or family[number].numel() == 0)]


@settings(max_examples=150)
@given(tied(), st.sampled_from(list(WAYS)))
def test_shared_tensors_are_shared_again(tensors: list[torch.Tensor], way: str) -> None:
    state = {"list": tensors, "again": {"first": tensors[0], "last": (tensors[-1],)}}
    found = WAYS[way](state)
    assert_same(found, state)
    was = [*tensors, tensors[0], tensors[-1]]
    now = [*found["list"], found["again"]["first"], found["again"]["last"][0]]
    for one, other in pairs(range(len(was))):
        assert (now[one] is now[other]) == (was[one] is was[other])  # type: ignore[call-overload]
        assert shared(now[one], now[other]) == shared(was[one], was[other])  # type: ignore[call-overload]


def test_parameter_and_its_data_share_memory_again() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    found = through_memory({"p": parameter, "data": parameter.data, "row": parameter.data[1:]})
    found["row"][0] = 7
    assert found["p"].tolist() == found["data"].tolist() == [0, 7, 0]
    assert type(found["p"]) is nn.Parameter and type(found["data"]) is torch.Tensor


# What people put into checkpoints


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def closure_of(model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor) -> Callable[[], torch.Tensor]:
    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (model(batch) ** 2).mean()
        loss.backward()
        return loss

    return closure


def train(model: nn.Module, optimizer: torch.optim.Optimizer, scheduler: Any, steps: Iterator[int]) -> list[float]:
    losses = []
    for number in steps:
        batch = torch.randn(16, 5, generator=torch.Generator().manual_seed(number))
        losses.append(float(optimizer.step(closure_of(model, optimizer, batch))))  # type: ignore[arg-type]
        scheduler.step()
    return losses


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "AdamW, lr a tensor": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.01)),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3, history_size=4, line_search_fn="strong_wolfe"),
    "RMSprop": lambda p: torch.optim.RMSprop(p, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "multi step": lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [2, 2, 5], 0.5),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=50, cycle_momentum=False),
    "exponential": lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
}


@pytest.mark.parametrize("scheduler_kind", SCHEDULERS)
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_training_goes_on_bit_for_bit(kind: str, scheduler_kind: str, tmp_path: Path) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model.parameters())
    scheduler = SCHEDULERS[scheduler_kind](optimizer)
    train(model, optimizer, scheduler, iter(range(4)))
    state = {
        "epoch": 4,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "random": {"torch": torch.get_rng_state(), "numpy": np.random.default_rng(3).bit_generator.state},
    }
    perdure.save_checkpoint(state, tmp_path / "last.safetensors")
    expected = train(model, optimizer, scheduler, iter(range(4, 9)))

    again = network()
    optimizer2 = OPTIMIZERS[kind](again.parameters())
    scheduler2 = SCHEDULERS[scheduler_kind](optimizer2)
    found = perdure.load_checkpoint(tmp_path / "last.safetensors")
    again.load_state_dict(found["model"])
    optimizer2.load_state_dict(found["optimizer"])
    scheduler2.load_state_dict(found["scheduler"])
    assert type(found["optimizer"]["param_groups"]) is list
    assert train(again, optimizer2, scheduler2, iter(range(4, 9))) == expected
    assert all(raw(a) == raw(b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_weights_out_of_a_checkpoint(tmp_path: Path) -> None:
    model = network()
    model(torch.randn(9, 5))
    path = tmp_path / "last.safetensors"
    perdure.save_checkpoint({"epoch": 1, "optimizer": [torch.ones(3)], "model": model.state_dict()}, path)
    torch.manual_seed(9)
    again = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
    report = perdure.load_weights(again, path, prefix="model")
    assert report.fraction_loaded == 1.0 and report.missing == () and report.unexpected == ()
    assert {name: raw(tensor) for name, tensor in again.state_dict().items()} == {
        name: raw(tensor) for name, tensor in model.state_dict().items()
    }
    with pytest.raises(MissingTensorError, match="modle"):
        perdure.load_weights(again, path, prefix="modle")


def test_one_state_dict_at_two_places(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    model = network()
    state = model.state_dict()
    perdure.save_checkpoint({"model": state, "best": state, "ema": model.state_dict()}, path)
    found = perdure.load_checkpoint(path)
    assert found["model"]["0.weight"] is found["best"]["0.weight"]
    found["model"]["0.weight"].fill_(3)
    assert torch.equal(found["ema"]["0.weight"], torch.full((8, 5), 3.0))
    for prefix in ("model", "best", "ema"):
        again = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))
        perdure.load_weights(again, path, prefix=prefix)
        assert {name: raw(tensor) for name, tensor in again.state_dict().items()} == {
            name: raw(tensor) for name, tensor in state.items()
        }
    data_bytes = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    assert perdure.open(path).manifest is not None
    assert sum(spec.n_bytes for spec in perdure.open(path).specs.values()) == data_bytes


def test_versions_of_a_state_dict_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "last.safetensors"
    state = network().state_dict()
    perdure.save_checkpoint({"model": state}, path)
    found = perdure.load_checkpoint(path)["model"]
    assert type(found) is OrderedDict
    assert found._metadata == state._metadata  # type: ignore[attr-defined]
    assert found._metadata["1"] == {"version": 2}


def test_names_that_would_be_the_same(tmp_path: Path) -> None:
    """Places whose names would collide in the file, or be none."""
    state = {
        "a.b": torch.ones(1), "a": {"b": torch.ones(2)}, "a ": torch.ones(3), "": torch.ones(4),
        "__metadata__": torch.ones(5), 0: torch.ones(6), "0": torch.ones(7), ("a", "b"): torch.ones(8),
        "'a'": torch.ones(9), "\ud800": torch.ones(10), "?": torch.ones(11), "x[0]": torch.ones(12),
    }  # fmt: skip
    assert_same(through_file(state), state)
    assert_same(through_file([torch.ones(1), [torch.ones(2)]]), [torch.ones(1), [torch.ones(2)]])
    assert_same(through_file(torch.ones(3)), torch.ones(3))


def test_a_file_of_weights_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    perdure.save_weights({"a": torch.ones(1)}, path)
    with pytest.raises(FormatError, match="load_weights"):
        perdure.load_checkpoint(path)


def test_loading_needs_no_class_of_the_saver(tmp_path: Path) -> None:
    """Enums are plain values in the file: no name of a class or a module is in it."""
    path = tmp_path / "s.safetensors"
    perdure.save_checkpoint({"c": Colour.RED, "x": Level.LOW}, path)
    assert b"Colour" not in path.read_bytes()
    assert perdure.load_checkpoint(path) == {"c": "red", "x": 1}


def test_errors_are_perdure_errors() -> None:
    for state in ({"f": _lambda}, {Custom(): 1}, np.array([object()])):
        with pytest.raises(PerdureError):
            perdure.save_checkpoint(state, io.BytesIO())
