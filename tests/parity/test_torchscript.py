"""TorchScript archives give what `state_dict` of the model gives that PyTorch itself loads from them."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import perdure
from perdure.errors import FileError, LimitError
from perdure.foreign.pytorch import script as torch_script

OLD = sorted((Path(__file__).parents[1] / "compat/torch-1.13").glob("*.jit.pt"))


class Everything(nn.Module):
    """Parameters, buffers and attributes of every kind, some tied, some frozen, some in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.listed = nn.ParameterList([torch.ones(2), torch.zeros(2)])
        self.register_buffer("volatile", torch.arange(2.0), persistent=False)
        self.attribute = torch.arange(3.0)
        self.tied = self.linear.weight
        self.frozen = nn.Parameter(torch.full((5,), 2.0), requires_grad=False)
        self.names = ["a", "b"]
        self.table = {"k": torch.ones(1)}
        self.blocks = nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Linear(4, 4, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.blocks(self.norm(self.linear(x))) + self.attribute.sum() + self.volatile.sum() + self.listed[0].sum()
        return y + torch.tensor([1.5, 2.5]).sum() + self.frozen.sum() + self.table["k"]


def saved(model: Any) -> bytes:
    file = io.BytesIO()
    torch.jit.save(model, file)
    return file.getvalue()


def assert_same(weights: perdure.Weights, model: Any) -> None:
    expected = model.state_dict()
    assert set(weights) == set(expected)
    for name, tensor in expected.items():
        assert weights[name].dtype == tensor.dtype
        assert torch.equal(weights[name], tensor), name


KINDS = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, torch.ones(2, 3)),
    "frozen": lambda model: torch.jit.freeze(torch.jit.script(model)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_is_that_of_the_loaded_model(kind: str) -> None:
    content = saved(KINDS[kind](Everything().eval()))
    model = torch.jit.load(io.BytesIO(content))
    with perdure.open(content) as weights:
        assert_same(weights, model)
        roles = {name: weights._stored.state.roles.get(name) for name in weights}
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    assert all(roles[name] == "parameter" for name in parameters)
    assert all(roles[name] == "buffer" for name in buffers)


def test_tensors_that_no_state_dict_has_come_beside_it() -> None:
    with perdure.open(saved(torch.jit.script(Everything().eval()))) as weights:
        found = weights.extra["attributes"]
        assert weights["tied"].data_ptr() == weights["linear.weight"].data_ptr()
    assert torch.equal(found["attribute"], torch.arange(3.0))
    assert torch.equal(found["table"]["k"], torch.ones(1))
    assert found["names"] == ["a", "b"]
    assert not any("training" in name for name in found)


def test_constants_of_the_code_come_beside_it() -> None:
    with perdure.open(saved(torch.jit.trace(Everything().eval(), torch.ones(2, 3)))) as weights:
        constants = weights.extra["constants"]
    assert any(torch.equal(constant, torch.tensor([1.5, 2.5])) for constant in constants)


def test_info_names_classes_and_code_is_listed() -> None:
    content = saved(torch.jit.script(Everything().eval()))
    info = perdure.info(content)
    assert info.format == "TorchScript archive"
    assert re.fullmatch(
        r"__torch__\.torch\.nn\.modules\.linear\.(___torch_mangle_\d+\.)?Linear", info.classes["linear"]
    )


def test_quantized_weights_are_found_beside_the_state_dict() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    quantized = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    content = saved(torch.jit.script(quantized))
    weight = quantized[0].weight()
    with perdure.open(content) as weights:
        assert len(weights) == 0
        packed = weights.extra["attributes"]["0._packed_params._packed_params"]
    found = [part for part in _tensors(packed) if part.dtype == weight.dtype]
    assert torch.equal(found[0].int_repr(), weight.int_repr())
    assert found[0].q_scale() == weight.q_scale()


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for part in value for tensor in _tensors(part)]
    state = getattr(value, "state", None)
    return [] if state is None else _tensors(state)


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.name)
def test_files_of_pytorch_1_13_are_read(path: Path) -> None:
    with perdure.open(path) as weights:
        assert_same(weights, torch.jit.load(path))


def numbered(name: str, number: int, **facts: Any) -> dict[str, Any]:
    return {"name": name, "tensorId": str(number), "isBuffer": False, **facts}


def tensor_in(member: int, tensor: torch.Tensor, **facts: Any) -> dict[str, Any]:
    kinds = {torch.float32: "FLOAT", torch.int64: "INT64"}
    sizes = {"dims": [str(n) for n in tensor.shape], "strides": [str(n) for n in tensor.stride()]}
    place = {"offset": str(tensor.storage_offset()), "data": {"key": f"tensors/{member}"}, "device": "cpu"}
    return {**sizes, **place, "requiresGrad": False, "dataType": kinds[tensor.dtype], **facts}


def written_by_pytorch_1_0(**changes: Any) -> bytes:
    """Write an archive as PyTorch 1.0 did, from its protocol buffer's definition."""
    model = {
        "protoVersion": "1",
        "producerName": "pytorch",
        "producerVersion": "1.0",
        "mainModule": {
            "name": "Net",
            "optimize": True,
            "parameters": [numbered("scale", 2), numbered("count", 3, isBuffer=True)],
            "submodules": [
                {"name": "fc", "optimize": True, "parameters": [numbered("weight", 0), numbered("tied", 0)]},
                {"name": "half", "optimize": True, "parameters": [numbered("weight", 1)]},
            ],
        },
        "tensors": [
            tensor_in(0, WEIGHT, requiresGrad=True),
            tensor_in(0, WEIGHT[:, 1], requiresGrad=True),
            tensor_in(1, torch.tensor(2.5)),
            tensor_in(2, torch.tensor(7)),
        ],
        **changes,
    }
    file = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(file)
    for number, tensor in enumerate((WEIGHT, torch.tensor(2.5), torch.tensor(7))):
        octets = tensor.numpy().tobytes()
        writer.write_record(f"tensors/{number}", octets, len(octets))
    octets = json.dumps(model).encode()
    writer.write_record("model.json", octets, len(octets))
    writer.write_end_of_file()
    return file.getvalue()


WEIGHT = torch.arange(6.0).reshape(2, 3)


def test_archives_of_pytorch_1_0_are_read() -> None:
    """PyTorch 2.13 reads them no more, so the values are those that were written."""
    content = written_by_pytorch_1_0()
    expected = {
        "scale": torch.tensor(2.5),
        "count": torch.tensor(7),
        "fc.weight": WEIGHT,
        "fc.tied": WEIGHT,
        "half.weight": WEIGHT[:, 1],
    }
    with perdure.open(content) as weights:
        assert set(weights) == set(expected)
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
        assert weights["fc.weight"].data_ptr() == weights["fc.tied"].data_ptr()
        assert weights._stored.state.roles["count"] == "buffer"
    assert perdure.info(content).facts["producer_version"] == "1.0"


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"tensors": []}, "there are 0"),
        ({"tensors": [tensor_in(9, WEIGHT)] * 4}, "not there"),
        ({"tensors": [tensor_in(0, WEIGHT, dims=["2", "4"])] * 4}, "impossible"),
        ({"tensors": [tensor_in(0, WEIGHT, strides=["-1", "1"])] * 4}, "impossible"),
        ({"tensors": [tensor_in(0, WEIGHT, dataType="STRING")] * 4}, "of the type 'STRING'"),
        ({"mainModule": 3}, "describes no model"),
        ({"protoVersion": "6"}, "nobody wrote"),
    ],
)
def test_archives_of_pytorch_1_0_that_contradict_themselves_are_refused(changes: Any, fault: str) -> None:
    with pytest.raises(FileError, match=fault):
        perdure.open(written_by_pytorch_1_0(**changes))


def test_extra_files_and_the_mobile_format_change_nothing(tmp_path: Path) -> None:
    model = torch.jit.script(Everything().eval())
    torch.jit.save(model, str(tmp_path / "extra.pt"), _extra_files={"labels.txt": b"cat dog"})
    model._save_for_lite_interpreter(str(tmp_path / "mobile.ptl"))
    for path in tmp_path.iterdir():
        with perdure.open(path) as weights:
            assert_same(weights, model)


def test_code_beyond_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved(torch.jit.script(Everything().eval()))
    monkeypatch.setattr(torch_script, "MAX_CODE_BYTES", 100)
    with pytest.raises(LimitError, match="code"):
        perdure.open(content)


def test_class_without_its_code_gives_all_its_tensors() -> None:
    content = saved(torch.jit.script(nn.BatchNorm1d(3).eval()))
    stripped = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(stripped, "w") as new:
        for name in old.namelist():
            if "/code/" not in name:
                new.writestr(name, old.read(name))
    with perdure.open(stripped.getvalue()) as weights:
        assert {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"} <= set(weights)
