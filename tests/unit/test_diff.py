"""`diff`: what it finds, in which order, and what it takes on trust."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import perdure
from perdure.errors import CorruptError, DigestError, InputError, MissingFileError
from perdure.records.differences import Diff, TensorChange

INF, NAN = math.inf, math.nan


def change(a: torch.Tensor, b: torch.Tensor) -> TensorChange | None:
    return perdure.diff({"x": a}, {"x": b}).changed.get("x")


def test_names(tmp_path: Path) -> None:
    a = {"same": torch.ones(3), "gone": torch.zeros(2), "old.weight": torch.arange(4.0), "shape": torch.ones(2, 3)}
    b = {"same": torch.ones(3), "new": torch.zeros(5), "new.weight": torch.arange(4.0), "shape": torch.ones(3, 2)}
    perdure.save_weights(a, tmp_path / "a.safetensors")
    perdure.save_weights(b, tmp_path / "b")
    safetensors.torch.save_file(b, tmp_path / "plain.safetensors")
    for other in (tmp_path / "b", b, tmp_path / "plain.safetensors", perdure.open(tmp_path / "b")):
        found = perdure.diff(tmp_path / "a.safetensors", other)
        assert (found.added, found.removed, found.renamed) == (("new",), ("gone",), {"old.weight": "new.weight"})
        assert found.equal == ("same",) and list(found.changed) == ["shape"] and not found.same
        assert found.changed["shape"] == TensorChange(("float32",) * 2, ((2, 3), (3, 2)))
        back = perdure.diff(other, tmp_path / "a.safetensors")
        assert (back.added, back.removed, back.renamed) == (("gone",), ("new",), {"new.weight": "old.weight"})


def test_renames_of_equal_tensors_go_by_the_last_part_of_the_name() -> None:
    a = {"a.weight": torch.ones(3), "a.bias": torch.ones(3)}
    b = {"b.bias": torch.ones(3), "b.weight": torch.ones(3), "c.bias": torch.ones(3)}
    found = perdure.diff(a, b)
    assert found.renamed == {"a.weight": "b.weight", "a.bias": "b.bias"} and found.added == ("c.bias",)


def test_figures() -> None:
    found = change(torch.tensor([3.0, 4.0, 0.0]), torch.tensor([4.0, 3.0, 0.0]))
    assert found == TensorChange(
        ("float32", "float32"), ((3,), (3,)), 3, 2, 1.0, 0.25, 24 / 25, pytest.approx(math.sqrt(2) / 5)
    )
    opposite = change(torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0]))
    assert opposite and (opposite.max_rel, opposite.cosine, opposite.change) == (2.0, -1.0, 2.0)


@pytest.mark.parametrize(
    ("a", "b", "n_different", "max_abs", "cosine"),
    [
        ([0.0], [-0.0], 1, 0.0, 1.0),
        ([NAN, 1.0], [NAN, 2.0], 1, 1.0, 1.0),
        ([NAN, 1.0], [0.0, 1.0], 1, INF, 1.0),
        ([INF, 1.0], [INF, 2.0], 1, 1.0, 1.0),
        ([INF, 1.0], [-INF, 1.0], 1, INF, 1.0),
        ([0.0, 0.0], [1.0, 0.0], 1, 1.0, 0.0),
        ([1e300], [-1e300], 1, INF, None),
    ],
)
def test_numbers_that_need_care(a: list[float], b: list[float], n_different: int, max_abs: float, cosine: Any) -> None:
    found = change(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert found
    assert (found.n_different, found.cosine) == (n_different, cosine)
    assert found.max_abs == (2e300 if a == [1e300] else max_abs)


def test_nan_is_equal_to_nan_whatever_its_payload() -> None:
    a = torch.tensor([0x7FC00000, 0x3F800000], dtype=torch.int32).view(torch.float32)
    b = torch.tensor([0x7FC00001, 0x3F800000], dtype=torch.int32).view(torch.float32)
    assert perdure.diff({"x": a}, {"x": b}).equal == ("x",)
    assert perdure.diff({"x": a}, {"x": a.clone()}).equal == ("x",)


def test_types_are_compared_by_value() -> None:
    exact = change(torch.tensor([1.0, -0.0]), torch.tensor([1.0, -0.0], dtype=torch.bfloat16))
    assert exact and (exact.dtypes, exact.n_different, exact.max_abs) == (("float32", "bfloat16"), 0, 0.0)
    rounded = change(torch.tensor([1.0009765625]), torch.tensor([1.0], dtype=torch.bfloat16))
    assert rounded and rounded.max_abs == 2.0**-10
    assert change(torch.tensor([3], dtype=torch.uint8), torch.tensor([3.0])).n_different == 0  # type: ignore[union-attr]


def test_large_whole_numbers_are_told_apart() -> None:
    found = change(torch.tensor([2**62, 5]), torch.tensor([2**62 + 1, 5]))
    assert found and (found.n_different, found.max_abs) == (1, 1.0)
    far = change(torch.tensor([2**63 - 1]), torch.tensor([-(2**63)]))
    assert far and far.max_abs == 2.0**64


def test_tensors_that_are_not_plain(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 1.5], [2.5, 0.0]])
    a = {"s": dense.to_sparse(), "q": torch.quantize_per_tensor(dense, 0.5, 3, torch.qint8), "e": torch.empty(0, 2)}
    b = {
        "s": (dense * 2).to_sparse(),
        "q": torch.quantize_per_tensor(dense, 0.25, 3, torch.qint8),
        "e": torch.empty(0, 2),
    }
    perdure.save_weights(a, tmp_path / "a.safetensors")
    perdure.save_weights(b, tmp_path / "b.safetensors")
    assert perdure.diff(tmp_path / "a.safetensors", a).equal == ("e", "s", "q")
    found = perdure.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert set(found.changed) == {"s", "q"} and found.changed["s"].n_different is None
    assert found.changed["q"].n_different == 0 and found.changed["q"].max_abs == 0.0


def test_what_changed_most_comes_first() -> None:
    a = {name: torch.ones(4) for name in "abcd"}
    b = {"a": torch.ones(4) * 1.01, "b": torch.ones(4) * 2, "c": torch.tensor([1, 1, 1, NAN]), "d": torch.ones(4) * 1.5}
    assert list(perdure.diff(a, b).changed) == ["c", "b", "d", "a"]


def test_digests_are_believed_and_said_to_be(tmp_path: Path) -> None:
    tensors = {"x": torch.ones(300), "y": torch.zeros(300)}
    perdure.save_weights(tensors, tmp_path / "a.safetensors")
    perdure.save_weights(tensors, tmp_path / "b.safetensors")
    content = bytearray((tmp_path / "b.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "b.safetensors").write_bytes(content)
    found = perdure.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.same and found.n_by_digest == 2 and "by digest, not read" in str(found)
    with pytest.raises(DigestError):  # what is read is verified
        perdure.diff(tmp_path / "b.safetensors", tensors)


def test_without_values(tmp_path: Path) -> None:
    perdure.save_weights({"x": torch.ones(3), "y": torch.ones(2)}, tmp_path / "a.safetensors")
    perdure.save_weights({"x": torch.ones(3), "y": torch.zeros(2)}, tmp_path / "b.safetensors")
    safetensors.torch.save_file({"x": torch.ones(3), "y": torch.ones(4)}, tmp_path / "c.safetensors")
    known = perdure.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors", values=False)
    assert known.equal == ("x",) and known.changed == {"y": TensorChange(("float32",) * 2, ((2,), (2,)))}
    unknown = perdure.diff(tmp_path / "a.safetensors", tmp_path / "c.safetensors", values=False)
    assert unknown.equal == () and unknown.n_unread == 1 and list(unknown.changed) == ["y"]


class Tied(nn.Module):
    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if tied:
            self.b.weight = self.a.weight
        else:
            self.b.load_state_dict(self.a.state_dict())


def test_what_files_say_about_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    perdure.save_weights(Tied(True), tmp_path / "a.safetensors", notes={"epoch": 1})
    torch.manual_seed(0)
    perdure.save_weights(Tied(False).eval(), tmp_path / "b.safetensors", notes={"epoch": 2})
    found = perdure.diff(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert found.same and found.equal == ("a.weight", "b.weight")
    assert found.tied == {"b.weight": ("a.weight", "")}
    assert found.described == {"notes": ({"epoch": 1}, {"epoch": 2}), "training": (True, False)}
    model = nn.Sequential(nn.Linear(2, 2)).eval()
    perdure.save(model, tmp_path / "m.safetensors", labels=["x", "y"])
    perdure.save_weights(model, tmp_path / "w.safetensors")
    said = perdure.diff(tmp_path / "m.safetensors", tmp_path / "w.safetensors").described
    assert said["kind"] == ("model", "weights") and said["labels"] == (["x", "y"], None)
    assert said["classes"][0] and said["classes"][1] is None


def test_modules_and_files(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    perdure.save_weights(net, tmp_path / "a.safetensors")
    assert perdure.diff(net, tmp_path / "a.safetensors").same
    with torch.no_grad():
        net[0].bias += 1
    assert list(perdure.diff(tmp_path / "a.safetensors", net).changed) == ["0.bias"]


@pytest.mark.parametrize("wrong", [3, None, {"x": 3}, {"x": torch.ones(2, device="meta")}])
def test_what_cannot_be_compared(wrong: Any) -> None:
    with pytest.raises(InputError):
        perdure.diff({"x": torch.ones(2)}, wrong)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError):
        perdure.diff({}, tmp_path / "none.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00" * 9)
    with pytest.raises(CorruptError):
        perdure.diff({}, tmp_path / "cut.safetensors")


def test_strided_tensors_are_taken_in_blocks() -> None:
    big = torch.arange(1_200_000.0).view(1000, 1200)
    for view in (big.t(), big[:, ::3], big[::2].t(), big.view(10, 100, 1200).permute(2, 0, 1)):
        assert perdure.diff({"x": view}, {"x": view.contiguous()}).same
        changed = view.contiguous().clone()
        changed.view(-1)[-1] += 1
        found = change(view, changed)
        assert found and found.n_different == 1


def test_memory_stays_bounded(tmp_path: Path) -> None:
    """Measured in a process of its own, where nothing was big before."""
    import subprocess
    import sys

    safetensors.torch.save_file({"x": torch.zeros(48 * 2**20)}, tmp_path / "a.safetensors")
    safetensors.torch.save_file({"x": torch.full((48 * 2**20,), 0.5)}, tmp_path / "b.safetensors")
    code = f"""
import resource, perdure
perdure.diff({{}}, {{}})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = perdure.diff({str(tmp_path / "a.safetensors")!r}, {str(tmp_path / "b.safetensors")!r})
assert found.changed["x"].n_different == 48 * 2**20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100 * 1024


def test_text() -> None:
    a = {f"layers.{n}.w": torch.ones(2) for n in range(12)} | {"gone.0.w": torch.ones(3), "gone.1.w": torch.ones(3)}
    b = {f"layers.{n}.w": torch.ones(2) * 2 for n in range(12)}
    lines = str(perdure.diff(a, b)).splitlines()
    assert lines[0] == "<dict> → <dict>: 2 removed, 12 changed, 0 equal"
    assert lines[1:] == [
        "  - gone.{0..1}.w",
        "  layers.{0..11}.w  float32, [2], 2 of 2 differ, by ≤ 1 (0.5 relative), cosine 1, change 0.5",
    ]
    many = Diff(("a", "b"), added=tuple(f"x{number}" for number in range(100)))
    assert str(many).splitlines()[-1] == "  … and 60 more lines"


def test_the_record_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        perdure.diff({}, {}).equal = ()  # type: ignore[misc]
