"""Odd values of checkpoints and odd tensors: kept as they are, or refused by name."""

from __future__ import annotations

import datetime
import io
import os
import zoneinfo
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import perdure
from fault.forging import manifest_of, with_manifest
from perdure.errors import CorruptError, InputError, UnsupportedTensorError, UnsupportedValueError


def round_trip(state: Any) -> Any:
    file = io.BytesIO()
    perdure.save_checkpoint(state, file)
    return perdure.load_checkpoint(file.getvalue())


def test_large_bytes_are_kept_beside_the_header() -> None:
    content = os.urandom(20_000_000)
    state = {"tokens": content, "array": bytearray(content[:70_000]), "small": content[:10], "again": content}
    found = round_trip(state)
    assert found == state
    assert [type(value) for value in found.values()] == [bytes, bytearray, bytes, bytes]


def test_keys_of_numpys_and_torchs_types() -> None:
    state = {np.int64(3): 1, np.float32(0.5): 2, torch.float16: "half", (np.int8(1), 2): 3}
    found = round_trip(state)
    assert found == state and [type(key) for key in found] == [type(key) for key in state]
    with pytest.raises(UnsupportedValueError, match="Tensor cannot be a key"):
        round_trip({torch.ones(1): 1})


def test_a_time_of_a_zone_without_a_date() -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    with pytest.raises(UnsupportedValueError, match="depends on the date"):
        round_trip({"at": datetime.time(12, tzinfo=berlin)})
    when = datetime.datetime(2026, 7, 1, 12, tzinfo=berlin)
    assert round_trip(when) == when and round_trip(when).utcoffset() == when.utcoffset()


def test_a_sparse_tensor_at_many_places_is_kept_once() -> None:
    sparse = torch.eye(200).to_sparse()
    one, many = io.BytesIO(), io.BytesIO()
    perdure.save_checkpoint([sparse], one)
    perdure.save_checkpoint([sparse] * 50, many)
    assert len(many.getvalue()) < len(one.getvalue()) + 8192
    found = perdure.load_checkpoint(many.getvalue())
    assert all(tensor is found[0] for tensor in found) and torch.equal(found[0].to_dense(), torch.eye(200))


@pytest.mark.parametrize("length", [1, 3])
def test_text_of_numpys_that_is_none(length: int) -> None:
    """NumPy believes whatever stands in an array of text, and falls over it later."""
    file = io.BytesIO()
    perdure.save_checkpoint({"a": np.array(["abc"] * length), "b": np.str_("x")}, file)
    assert round_trip({"a": np.array(["abc"])})["a"].tolist() == ["abc"]
    from perdure.weights.nested import TensorRestorer

    tensors = {"a": torch.full((12 * length,), 255, dtype=torch.uint8)}
    restorer = TensorRestorer(tensors.__getitem__, "f")
    with pytest.raises(CorruptError, match="no letters"):
        restorer.hook({"$": "ndarray", "name": "a", "dtype": "<U3", "shape": [length]})
    with pytest.raises(CorruptError, match="no letters"):
        restorer.hook({"$": "scalar", "dtype": "<U1", "of": "ffffffff"})


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:.*deprecated")
def test_quantized_tensors_without_values_are_refused() -> None:
    make = torch._make_per_tensor_quantized_tensor  # type: ignore[attr-defined]
    for scale in (float("inf"), float("nan")):
        tensor = make(torch.ones(3, dtype=torch.int8), scale, 0)
        with pytest.raises(UnsupportedTensorError, match=r"'q'.*its scale is"):
            perdure.save_weights({"q": tensor}, io.BytesIO())


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:.*deprecated")
def test_the_integers_of_quantized_tensors_are_made_in_blocks(tmp_path: Any) -> None:
    """Not all at once: ten of 16 MiB take far less than 160 MiB."""
    tensors = {f"q{i}": torch.quantize_per_tensor(torch.randn(16 * 2**20), 0.1, 0, torch.qint8) for i in range(10)}
    perdure.save_weights(tensors, tmp_path / "q.safetensors")  # PyTorch and the threads' stacks take memory once
    before = _memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    perdure.save_weights(tensors, tmp_path / "q.safetensors")
    assert _memory("VmHWM") - before < 64 * 2**20
    with perdure.open(tmp_path / "q.safetensors") as weights:
        assert torch.equal(weights["q3"].int_repr(), tensors["q3"].int_repr())


def _memory(key: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(key))


@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:Sparse", "ignore:.*deprecated")
def test_parts_of_odd_tensors() -> None:
    """Types that PyTorch cannot copy, and layouts that have no such part."""
    file = io.BytesIO()
    tiny = torch.arange(6, dtype=torch.uint8).view(torch.uint4).view(2, 3)
    dense = torch.randn(5, 6)
    sparse = torch.eye(4).to_sparse()
    perdure.save_weights({"tiny": tiny, "dense": dense, "sparse": sparse}, file)
    weights = perdure.open(file.getvalue())
    assert weights.read("tiny", (..., 0)).view(torch.uint8).tolist() == [0, 3]
    for name, index in (("sparse", (slice(0, 4, 2), 0)), ("dense", slice(None, None, -(10**30)))):
        try:
            weights.read(name, index)
        except InputError as error:
            assert name in str(error)


def test_a_record_of_a_type_that_no_tensor_is_made_of() -> None:
    """A sealed file that says qint8 for stored bytes would crash PyTorch."""
    file = io.BytesIO()
    perdure.save_weights({"w": torch.arange(4, dtype=torch.uint8).view(torch.uint4)}, file)
    records = manifest_of(file.getvalue())["tensors"]
    assert records["w"]["dtype"] == "uint4"
    forged = with_manifest(file.getvalue(), tensors={"w": {**records["w"], "dtype": "qint8"}})
    with pytest.raises(perdure.errors.FileError, match="qint8"):
        perdure.open(forged)["w"]


def test_a_state_dict_that_takes_no_arguments() -> None:
    """And hooks that need detached tensors, as `torch.save(model.state_dict())` gives them."""

    class Own(nn.Linear):
        def state_dict(self) -> Any:  # type: ignore[override]
            return {"weight": self.weight.detach()}

    model = nn.Linear(2, 2)
    model.register_state_dict_post_hook(
        lambda _, state, prefix, __: state.update(sum=state["bias"] + 0, n=_numbers(state))
    )
    content = io.BytesIO()
    perdure.save_weights(Own(2, 2), content)
    assert list(perdure.open(content.getvalue())) == ["weight"]
    content = io.BytesIO()
    perdure.save_weights(model, content)
    manifest = perdure.open(content.getvalue()).manifest
    assert manifest is not None
    assert {name: record.role for name, record in manifest.tensors.items()} == {
        "weight": "parameter", "bias": "parameter", "sum": "", "n": "",
    }  # fmt: skip


def _numbers(state: Any) -> torch.Tensor:
    return torch.from_numpy(state["weight"].numpy().copy())
