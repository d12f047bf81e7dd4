"""Checkpoints whose values were made to deceive: sealed, so that only the decoding stands between them and the reader."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import perdure
from fault.forging import header_of, perdure_file, sealed, with_values
from fault.test_headers import MIB, bounded, raised, saved
from perdure.errors import CorruptError, FileError, LimitError, PerdureError, ProtocolError, UnsupportedValueError


def checkpoint(state: Any) -> bytes:
    file = io.BytesIO()
    perdure.save_checkpoint(state, file)
    return file.getvalue()


BASE = checkpoint({"a": torch.ones(2), "n": np.ones(3), "i": torch.tensor([1, 2])})


def tag(kind: Any, of: Any = ..., **more: Any) -> dict[str, Any]:
    return {"$": kind, **({} if of is ... else {"of": of}), **more}


REFUSED: dict[str, Any] = {
    "unknown tag": tag("module", "os"),
    "tag null": tag(None, 1),
    "tag a list": tag([1], 1),
    "tag an object": tag({}, 1),
    "device that is none": tag("device", "nonsense"),
    "device a number": tag("device", 5),
    "device a list": tag("device", []),
    "dtype that is none": tag("dtype", "nope"),
    "dtype that is a function": tag("dtype", "load"),
    "dtype with a dot": tag("dtype", "storage._share_filename_cpu_"),
    "size of text": tag("size", ["a"]),
    "size a number": tag("size", 5),
    "tuple of nothing": tag("tuple"),
    "tuple of a number": tag("tuple", 5),
    "set of lists": tag("set", [[1]]),
    "frozenset of dicts": tag("frozenset", [{}]),
    "dict of numbers": tag("dict", [1]),
    "dict with list keys": tag("dict", [[[1], 2]]),
    "dict of triples": tag("dict", [[1, 2, 3]]),
    "float that is none": tag("float", "one"),
    "float of a list": tag("float", []),
    "int that is none": tag("int", "0xzz"),
    "int of a number": tag("int", 5),
    "complex of nothing": tag("complex"),
    "complex of no numbers": tag("complex", []),
    "complex of one number": tag("complex", ["1"]),
    "bytes that are none": tag("bytes", "a"),
    "bytes of a number": tag("bytes", 5),
    "bytes of letters": tag("bytes", "é"),
    "date that is none": tag("date", "yesterday"),
    "datetime of a number": tag("datetime", 5),
    "timedelta of text": tag("timedelta", "abc"),
    "timedelta too long": tag("timedelta", [10**12, 0, 0]),
    "decimal that is none": tag("decimal", "x"),
    "fraction of nought": tag("fraction", "1/0"),
    "fraction that is none": tag("fraction", "x"),
    "fraction of a large power": tag("fraction", "1e999999999"),
    "path of a number": tag("path", 5),
    "tensor without a name": tag("tensor"),
    "tensor of no name here": tag("tensor", name="b"),
    "tensor named by a number": tag("tensor", name=5),
    "integers that require gradients": tag("tensor", name="i", requires_grad=True),
    "integer parameter that requires gradients": tag("tensor", name="i", requires_grad=True, parameter=True),
    "array of objects": tag("ndarray", name="n", dtype="O", shape=[3]),
    "array of another size": tag("ndarray", name="n", dtype="<f4", shape=[2**40]),
    "array of unknown sizes": tag("ndarray", name="n", dtype="<f4", shape=[-1, -1]),
    "array of shape text": tag("ndarray", name="n", dtype="<f4", shape="x"),
    "array of records": tag("ndarray", name="n", dtype="f4,f4", shape=[3]),
    "array of an odd type": tag("ndarray", name="n", dtype="(1,2", shape=[3]),
    "array of no shape": tag("ndarray", name="n", dtype="<f4"),
    "scalar without bytes": tag("scalar", "", dtype="<i4"),
    "scalar of too few bytes": tag("scalar", "00", dtype="<i4"),
    "scalar of an object": tag("scalar", "00" * 8, dtype="O"),
    "scalar of an odd type": tag("scalar", "", dtype="(1,2"),
    "scalar of another odd type": tag("scalar", "00", dtype="f4,("),
    "scalar of a huge type": tag("scalar", "", dtype="(99999,99999,99999)f4"),
    "scalar of no type": tag("scalar", "00"),
    "scalar of no digits": tag("scalar", "zz", dtype="<i4"),
}

TEXTS: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"{a}",
    "not UTF-8": b'"\xff"',
    "two values": b"1 2",
    "NaN": b'{"a":NaN}',
    "duplicate keys": b'{"a":1,"a":2}',
    "giant integer": b"9" * 5000,
    "deep lists": b"[" * 100_000 + b"]" * 100_000,
    "deep dicts": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep tuples": b'{"$":"tuple","of":[' * 50_000 + b"]}" * 50_000,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.safetensors"


@pytest.mark.parametrize("value", REFUSED.values(), ids=REFUSED.keys())
def test_a_value_that_cannot_be_is_refused(value: Any, path: Path) -> None:
    for nested in (value, [1, {"a": value}], tag("tuple", [value]), tag("dict", [[1, value]])):
        path.write_bytes(with_values(BASE, json.dumps(nested)))
        with bounded():
            found = raised(lambda: perdure.load_checkpoint(path))
        assert type(found) in (CorruptError, ProtocolError), repr(found)
        assert str(path) in str(found) and len(str(found)) < 2000


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_text_that_is_no_value_is_refused(text: bytes, path: Path) -> None:
    path.write_bytes(with_values(BASE, text))
    with bounded():
        found = raised(lambda: perdure.load_checkpoint(path))
    assert type(found) in (CorruptError, LimitError), repr(found)
    assert str(path) in str(found) and len(str(found)) < 2000


NESTS = [("[", "]"), ('{"a":', "}"), ('{"$":"tuple","of":[', "]}"), ('{"$":"dict","of":[[1,', "]]}")]


@pytest.mark.parametrize("open_, close", NESTS)
def test_depth_is_a_value_or_a_typed_error_whatever_it_is(open_: str, close: str, path: Path) -> None:
    for depth in (*range(50, 1100, 50), *range(940, 1000, 6)):
        path.write_bytes(with_values(BASE, open_ * depth + "1" + close * depth))
        found = raised(lambda: perdure.load_checkpoint(path))
        assert found is None or isinstance(found, FileError), (depth, repr(found))


WRAPS: tuple[Callable[[Any], Any], ...] = (
    lambda state: [state],
    lambda state: (state,),
    lambda state: {"a": state},
    lambda state: {1: state},
    lambda state: {(1, "$"): state},
)


def test_what_is_saved_can_be_loaded_however_deep(path: Path) -> None:
    """Whatever depth saving accepts, loading takes, also when the caller is deep down himself."""
    wraps: list[Callable[[Any], Any]] = [
        lambda s: [s],
        lambda s: (s,),
        lambda s: {"a": s},
        lambda s: {1: s},
        lambda s: {(1, "$"): s},
    ]
    for wrap in wraps:
        state: Any = torch.ones(1)
        n_saved = 0
        for depth in range(1, 400):
            state = wrap(state)
            if depth % 20:
                continue
            try:
                perdure.save_checkpoint(state, path)
            except UnsupportedValueError:
                break
            n_saved += 1
            found = at_depth(300, lambda: perdure.load_checkpoint(path))
            for _ in range(depth):
                found = next(iter(found.values())) if isinstance(found, dict) else found[0]
            assert torch.equal(found, torch.ones(1))
        assert n_saved >= 5


def at_depth(depth: int, call: Callable[[], Any]) -> Any:
    return call() if depth == 0 else at_depth(depth - 1, call)


BOMBS = {
    "lists": b"[" + b"[]," * (80 * MIB) + b"1]",
    "dicts": b"[" + b"{}," * (80 * MIB) + b"1]",
    "numbers": b"[" + b"1," * (120 * MIB) + b"1]",
    "tensors": b"[" + b'{"$":"tensor","name":"a"},' * (9 * MIB) + b"1]",
    "tuples": b"[" + b'{"$":"tuple","of":[]},' * (11 * MIB) + b"1]",
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_small_file_does_not_become_a_great_many_values(kind: str, path: Path) -> None:
    path.write_bytes(with_values(BASE, BOMBS[kind]))
    assert path.stat().st_size < MIB
    with bounded(700 * MIB, 3):
        found = raised(lambda: perdure.load_checkpoint(path))
    assert type(found) is LimitError, repr(found)


def test_as_many_values_as_can_be_saved_can_be_loaded(path: Path) -> None:
    state = {"losses": [0.5] * 1_500_000}
    perdure.save_checkpoint(state, path)
    assert perdure.load_checkpoint(path) == state


# Extra states, versions, notes and the environment of a file of weights


class Keeper(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(1)
        self.kept: object = None

    def get_extra_state(self) -> object:
        return {"steps": 3, "scale": torch.ones(1)}

    def set_extra_state(self, state: object) -> None:
        self.kept = state


def keeper_with(manifest: dict[str, str]) -> bytes:
    """Return a saved keeper with fields of its manifest replaced by other JSON text."""
    header, data = header_of(saved(Keeper()))
    kept = json.loads(header["__metadata__"]["perdure"])
    fields = {name: json.dumps(value) for name, value in kept.items()} | manifest
    header["__metadata__"]["perdure"] = "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"
    return sealed(header, data)


MANIFESTS = {
    "extra state of an unknown tag": {"extra_state": '{"_extra_state":{"$":"wat"}}'},
    "extra state of a tensor that is not there": {"extra_state": '{"_extra_state":{"$":"tensor","name":"zz"}}'},
    "extra state of a device": {"extra_state": '{"_extra_state":{"$":"device","of":"x"}}'},
    "deep extra state": {"extra_state": '{"_extra_state":' + "[" * 900 + "]" * 900 + "}"},
    "very deep extra state": {"extra_state": '{"_extra_state":' + "[" * 90_000 + "]" * 90_000 + "}"},
    "versions of no object": {"versions": '[{"metadata":5,"modules":["norm",""]}]'},
    "version a text": {"versions": '[{"metadata":{"version":"x"},"modules":["norm",""]}]'},
    "version a list": {"versions": '[{"metadata":{"version":[]},"modules":["norm",""]}]'},
    "version of an unknown tag": {"versions": '[{"metadata":{"$":"wat"},"modules":["norm",""]}]'},
    "training of numbers": {"training": "[1,2]"},
    "overlaps of three": {"overlaps": '[["a","b","c"]]'},
    "environment a list": {"environment": "[]"},
    "environment of numbers": {"environment": '{"torch":2}'},
    "notes of an unknown tag": {"notes": '{"$":"wat"}'},
    "deep notes": {"notes": "[" * 900 + "]" * 900},
    "version of PyTorch of 5000 digits": {"environment": json.dumps({"torch": "9" * 5000})},
    "version of PyTorch of dots": {"environment": json.dumps({"torch": "." * 5000 + "٣.1"})},
    "100,000 packages": {"environment": json.dumps({"packages": {f"package{i}": "1" for i in range(100_000)}})},
    "packages of odd names": {
        "environment": json.dumps({"packages": dict.fromkeys(["", "..", "/etc", "a/b", "\0", "é", "-", "a b"], "1")})
    },
}


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_of_odd_values_is_read_or_refused(
    manifest: dict[str, str], path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_bytes(keeper_with(manifest))
    for call in (
        lambda: perdure.load_weights(Keeper(), path),
        lambda: perdure.load_weights(Keeper(), path, mode="saved"),
        lambda: dict(perdure.open(path)),
        lambda: perdure.open(path).specs,
        lambda: perdure.info(path),
        lambda: perdure.check(path),
    ):
        with bounded(256 * MIB, 2):
            found = raised(call)
        assert found is None or isinstance(found, PerdureError), repr(found)
        assert found is None or len(str(found)) < 2000
    assert all(len(record.getMessage()) < 4000 for record in caplog.records)


def test_a_checkpoint_does_not_alias_what_its_values_do_not_name(path: Path) -> None:
    """Aliases beyond their owner, met through the values of a checkpoint."""
    content = perdure_file(
        {"a": ("F32", [2], struct.pack("<2f", 1, 2))},
        kind="checkpoint",
        features=["aliases", "values"],
        aliases={"b": {"of": "a", "shape": [3], "stride": [1]}},
    )
    path.write_bytes(with_values(content, json.dumps(tag("tensor", name="b"))))
    assert type(raised(lambda: perdure.load_checkpoint(path))) is CorruptError
    assert not perdure.check(path).ok
