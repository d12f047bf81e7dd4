"""Archives of `torch.export.save` give what `state_dict` of the program gives that PyTorch itself loads from them."""

from __future__ import annotations

import io
import json
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._export.serde.serialize import serialize
from torch.export import Dim

import perdure
from perdure.errors import CorruptError


class Net(nn.Module):
    """Tied, half, turned, empty and volatile tensors, and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)
        self.tied = self.linear.weight
        self.constant = torch.arange(4.0)
        self.register_buffer("volatile", torch.ones(2), persistent=False)
        self.register_buffer("turned", torch.arange(6.0).half().reshape(2, 3).t().contiguous().t())
        self.register_buffer("empty", torch.ones(0, 3))
        self.register_buffer("whole", torch.arange(3, dtype=torch.uint8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.linear(x)) + self.constant + self.volatile.sum() + self.tied.sum()
        return y + self.turned.sum() + self.empty.sum() + self.whole.sum()


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    torch.manual_seed(0)
    shapes = ({0: Dim("batch", min=2, max=64)},)
    return torch.export.export(Net().eval(), (torch.randn(2, 3),), dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def content(program: torch.export.ExportedProgram) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file)
    return file.getvalue()


def old_layout(program: torch.export.ExportedProgram, ending: str) -> bytes:
    """Write a program as PyTorch 2.1 to 2.7 did."""
    parts = serialize(program)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("serialized_exported_program.json", parts.exported_program)
        archive.writestr(f"serialized_state_dict.{ending}", parts.state_dict)
        archive.writestr(f"serialized_constants.{ending}", parts.constants)
        archive.writestr("serialized_example_inputs.pt", parts.example_inputs)
        archive.writestr("version", "8.2")
    return file.getvalue()


def layout_of_2_8(program: torch.export.ExportedProgram, content: bytes) -> bytes:
    """Write a program as PyTorch 2.8 did: the layout of later ones, but with weights and constants pickled."""
    parts = serialize(program)

    def change(name: str, octets: bytes) -> tuple[str, bytes] | None:
        if name.endswith("model_weights_config.json"):
            return name.replace("model_weights_config.json", "model.pt"), parts.state_dict
        if name.endswith("model_constants_config.json"):
            return name.replace("model_constants_config.json", "model.pt"), parts.constants
        return None if "/weight_" in name or "/tensor_" in name else (name, octets)

    return rewritten(content, change)


def rewritten(content: bytes, change: Any) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            changed = change(name, old.read(name))
            if changed is not None:
                new.writestr(*changed)
    return file.getvalue()


def assert_same(content: Any, program: torch.export.ExportedProgram) -> None:
    with perdure.open(content) as weights:
        assert set(weights) == set(program.state_dict)
        for name, tensor in program.state_dict.items():
            assert weights[name].dtype == tensor.dtype
            assert weights[name].shape == tensor.shape
            assert torch.equal(weights[name], tensor), name
        constants = weights.extra["constants"]
        assert set(constants) == set(program.constants)
        assert all(torch.equal(constants[name], tensor) for name, tensor in program.constants.items())


def test_state_dict_and_constants_are_those_that_pytorch_loads(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.pt2").write_bytes(content)
    assert_same(tmp_path / "net.pt2", torch.export.load(tmp_path / "net.pt2"))
    with perdure.open(content) as weights:
        assert weights["tied"].data_ptr() == weights["linear.weight"].data_ptr()
        assert weights["turned"].stride() == (1, 2)
        (example,), _ = weights.extra["example_inputs"]
        assert example.shape == (2, 3)


@pytest.mark.parametrize("ending", ["pt", "json"])
def test_archives_before_2_8_are_read(program: torch.export.ExportedProgram, ending: str) -> None:
    assert_same(old_layout(program, ending), program)


def test_archives_of_2_8_are_read(program: torch.export.ExportedProgram, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(layout_of_2_8(program, content))
    assert_same(path, torch.export.load(path))


def test_several_models_of_an_archive_lie_under_their_names(
    program: torch.export.ExportedProgram, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.pt2_archive._package.package_pt2(
            tmp_path / "two.pt2", exported_programs={"first": program, "second": program}
        )
    with perdure.open(tmp_path / "two.pt2", prefix="second.state_dict") as weights:
        assert set(weights) == set(program.state_dict)
        assert torch.equal(weights["linear.weight"], program.state_dict["linear.weight"])


def test_info_says_who_wrote_it(content: bytes) -> None:
    info = perdure.info(content)
    assert info.format == "exported program"
    assert info.facts["torch"] == torch.__version__
    assert info.prefix == "state_dict"


def changed_config(content: bytes, change: Any) -> bytes:
    """Change the description of the weights."""

    def rewrite(name: str, octets: bytes) -> tuple[str, bytes]:
        if not name.endswith("model_weights_config.json"):
            return name, octets
        found = json.loads(octets)
        change(found["config"])
        return name, json.dumps(found).encode()

    return rewritten(content, rewrite)


FAULTS: dict[str, tuple[Any, str]] = {
    "a member that is not there": (lambda c: c["norm.bias"].update(path_name="weight_99"), "not there"),
    "a path out of the archive": (lambda c: c["norm.bias"].update(path_name="../../x"), "not there"),
    "a shape beyond the bytes": (lambda c: c["norm.bias"]["tensor_meta"].update(sizes=[{"as_int": 5}]), "impossible"),
    "a negative step": (lambda c: c["norm.bias"]["tensor_meta"].update(strides=[{"as_int": -1}]), "impossible"),
    "an offset beyond the bytes": (
        lambda c: c["norm.bias"]["tensor_meta"].update(storage_offset={"as_int": 1}),
        "impossible",
    ),
    "more sizes than steps": (lambda c: c["norm.bias"]["tensor_meta"].update(sizes=[{"as_int": 1}] * 2), "impossible"),
    "an unknown type": (lambda c: c["norm.bias"]["tensor_meta"].update(dtype=99), "not known"),
    "a layout that is not strided": (lambda c: c["norm.bias"]["tensor_meta"].update(layout=1), "not known"),
    "a size that is text": (
        lambda c: c["norm.bias"]["tensor_meta"].update(sizes=[{"as_int": "4"}]),
        "does not say where",
    ),
    "a size that is a symbol": (
        lambda c: c["norm.bias"]["tensor_meta"].update(sizes=[{"as_expr": "s0"}]),
        "does not say where",
    ),
    "an entry that is none": (lambda c: c.update({"norm.bias": 3}), "does not say where"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_weights_that_are_described_wrongly_are_refused(content: bytes, fault: str) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(CorruptError, match=message):
        perdure.open(changed_config(content, change))


def test_expressions_that_are_more_than_sizes_are_listed_as_code(content: bytes) -> None:
    def change(name: str, octets: bytes) -> tuple[str, bytes]:
        return name, octets.replace(b'"expr_str": "', b"\"expr_str\": \"__import__('os').system('x') + ", 1)

    assert perdure.check(content).verdict == "safe"
    report = perdure.check(rewritten(content, change))
    assert report.verdict == "needs code"
    assert "__import__" in str(report.findings)


def test_long_expressions_are_looked_through_in_good_time(content: bytes) -> None:
    long = b"A1" * 100_000 + b"AAAA" * 1000 + b"1" * 1000 + b";"

    def change(name: str, octets: bytes) -> tuple[str, bytes]:
        return name, octets.replace(b'"expr_str": "', b'"expr_str": "' + long, 1)

    begun = time.perf_counter()
    with perdure.open(rewritten(content, change)) as weights:
        assert "linear.weight" in weights
    assert time.perf_counter() - begun < 1


def test_compiled_parts_are_listed_as_code(content: bytes) -> None:
    names: list[str] = []

    def change(name: str, octets: bytes) -> tuple[str, bytes]:
        names.append(name)
        return name, octets

    changed = rewritten(content, change)
    file = io.BytesIO(changed)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{names[0].partition('/')[0]}/data/aotinductor/model/x.wrapper.so", b"\x7fELF")
    assert perdure.check(file.getvalue()).verdict == "needs code"
    with perdure.open(file.getvalue()) as weights:
        assert "linear.weight" in weights
