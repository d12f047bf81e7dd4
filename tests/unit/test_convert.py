"""`convert`: what each kind of file keeps, what it refuses, and that no damage goes through."""

from __future__ import annotations

import collections
import json
import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import perdure
from perdure.disk import writing
from perdure.disk.writing import Item
from perdure.errors import DigestError, InputError, MissingTensorError, PathError, StorageError, UnsupportedTensorError
from perdure.foreign.zips import writing as zip_writing


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(9, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 9, bias=False)
        self.head.weight = self.embedding.weight


@pytest.fixture
def source(tmp_path: Path) -> Path:
    perdure.save_weights(Net(), tmp_path / "source.safetensors", notes={"epoch": 3})
    return tmp_path / "source.safetensors"


def test_a_file_of_perdure_s_says_the_same_about_itself(source: Path, tmp_path: Path) -> None:
    report = perdure.convert(source, tmp_path / "new.safetensors")
    old, new = perdure.info(source), perdure.info(tmp_path / "new.safetensors")
    assert report.warnings == () and report.digest == new.digest
    assert report.n_bytes == os.path.getsize(tmp_path / "new.safetensors")
    assert new.notes == {"epoch": 3} and new.tensors == old.tensors and new.environment == old.environment
    assert old.manifest and new.manifest
    for field in ("aliases", "tensors", "versions", "training", "features"):
        assert getattr(new.manifest, field) == getattr(old.manifest, field)
    assert new.manifest.parents == (old.digest,)
    net = Net().train()
    assert perdure.load_weights(net, tmp_path / "new.safetensors").fraction_loaded == 1.0


@pytest.mark.parametrize("ending", ["pth", "pt", "bin", "ckpt", "PTH"])
def test_a_state_dict_for_torch(source: Path, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"new.{ending}"
    perdure.convert(source, path)
    expected = Net().state_dict()
    for options in ({}, {"mmap": True}):
        loaded = torch.load(path, weights_only=True, **options)
        assert type(loaded) is collections.OrderedDict and loaded.keys() == expected.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in expected.items())
        assert dict(loaded._metadata) == dict(expected._metadata)  # type: ignore[attr-defined]
        assert loaded["head.weight"].data_ptr() == loaded["embedding.weight"].data_ptr()
    Net().load_state_dict(torch.load(path, weights_only=True))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        names = [info.filename for info in archive.infolist()]
        assert names[:4] == [f"archive/{n}" for n in ("data.pkl", ".format_version", ".storage_alignment", "byteorder")]
        assert archive.read("archive/version") == b"3\n" and archive.read("archive/byteorder") == b"little"
        for info in archive.infolist():
            start = info.header_offset
            n_name, n_extra = struct.unpack("<2H", path.read_bytes()[start + 26 : start + 30])
            assert (start + 30 + n_name + n_extra) % 64 == 0 and info.compress_type == zipfile.ZIP_STORED


def test_equal_sources_give_equal_bytes(source: Path, tmp_path: Path) -> None:
    for name in ("a.pth", "b.pth", "a.npz", "b.npz"):
        perdure.convert(source, tmp_path / name)
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_sparse_and_quantized_tensors_reach_torch(tmp_path: Path) -> None:
    dense = torch.tensor([[0.0, 1.5], [2.5, 0.0]])
    tensors = {
        "coo": dense.to_sparse(),
        "csr": dense.to_sparse_csr(),
        "csc": dense.to_sparse_csc(),
        "bsr": dense.to_sparse_bsr((1, 1)),
        "one": torch.quantize_per_tensor(dense, 0.5, 3, torch.qint8),
        "many": torch.quantize_per_channel(dense, torch.tensor([0.5, 0.25]), torch.tensor([0, 1]), 0, torch.quint8),
        "floats": torch.quantize_per_channel(dense, torch.tensor([0.5, 0.25]), torch.tensor([0.5, 1]), 0, torch.quint8),
        "half": torch.tensor([1 + 2j], dtype=torch.complex32),
        "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 3),
    }
    perdure.save_weights(tensors, tmp_path / "a.safetensors")
    perdure.convert(tmp_path / "a.safetensors", tmp_path / "a.pth")
    perdure.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="float16")
    loaded = torch.load(tmp_path / "a.pth", weights_only=True)
    assert loaded.keys() == tensors.keys()
    for name in ("coo", "csr", "csc", "bsr"):
        assert loaded[name].layout == tensors[name].layout and torch.equal(loaded[name].to_dense(), dense)
    for name in ("one", "many"):
        assert loaded[name].qscheme() == tensors[name].qscheme() and loaded[name].dtype == tensors[name].dtype
        assert torch.equal(loaded[name].int_repr(), tensors[name].int_repr())
        assert torch.equal(loaded[name].dequantize(), tensors[name].dequantize())
    assert loaded["half"].view(torch.int16).tolist() == tensors["half"].view(torch.int16).tolist()
    assert loaded["scalar"] == 3.0 and loaded["empty"].shape == (0, 3)
    with perdure.open(tmp_path / "b.safetensors") as cast:
        assert cast["coo"].dtype == torch.float16 and torch.equal(cast["coo"].to_dense().float(), dense)
        assert torch.equal(cast["many"].dequantize(), tensors["many"].dequantize())
        assert cast["half"].dtype == torch.complex32
    for target, options in (("a.npz", {}), ("p.safetensors", {"plain": True})):
        with pytest.raises(UnsupportedTensorError, match=r"'\w+'.*\.pth"):
            perdure.convert(tmp_path / "a.safetensors", tmp_path / target, **options)
        assert not (tmp_path / target).exists()


def test_what_numpy_and_safetensors_have_no_type_for(tmp_path: Path) -> None:
    perdure.save_weights({"x": torch.ones(3).bfloat16()}, tmp_path / "a.safetensors")
    with pytest.raises(UnsupportedTensorError, match=r"'x'.*bfloat16.*--dtype float32"):
        perdure.convert(tmp_path / "a.safetensors", tmp_path / "a.npz")
    perdure.convert(tmp_path / "a.safetensors", tmp_path / "a.npz", dtype="float32")
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [1.0] * 3
    perdure.save_weights({"x": torch.ones(3, dtype=torch.complex128)}, tmp_path / "b.safetensors")
    with pytest.raises(UnsupportedTensorError, match=r"'x'.*complex128"):
        perdure.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", plain=True)
    perdure.convert(tmp_path / "b.safetensors", tmp_path / "b.npz")
    assert np.load(tmp_path / "b.npz")["x"].dtype == np.complex128


def test_a_cast_changes_floating_point_numbers_only(source: Path, tmp_path: Path) -> None:
    perdure.convert(source, tmp_path / "small.safetensors", dtype=torch.bfloat16)
    expected = Net().state_dict()
    with perdure.open(tmp_path / "small.safetensors") as cast:
        for name, tensor in expected.items():
            wanted = tensor.bfloat16() if tensor.is_floating_point() else tensor
            assert cast[name].dtype == wanted.dtype and torch.equal(cast[name], wanted)
        assert cast["norm.num_batches_tracked"].dtype == torch.int64
        assert cast["head.weight"].data_ptr() == cast["embedding.weight"].data_ptr()
    assert perdure.check(tmp_path / "small.safetensors").ok


def test_values_beyond_the_type_are_counted(tmp_path: Path) -> None:
    values = torch.tensor([1.0, 1e6, -65520.0, float("inf"), float("nan"), 65504.0, 65519.0])
    assert values.half().isinf().sum() == 3
    perdure.save_weights({"x": values, "y": torch.ones(2)}, tmp_path / "a.safetensors")
    report = perdure.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors", dtype="float16")
    assert len(report.warnings) == 1 and report.warnings[0].startswith("2 finite values of 'x'")
    assert perdure.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", dtype="bfloat16").warnings == ()
    report = perdure.convert(tmp_path / "a.safetensors", tmp_path / "d.safetensors", dtype="float8_e4m3fn")
    assert report.warnings[0].startswith("4 finite values of 'x'")


@pytest.mark.parametrize("dtype", ["int8", "complex64", "nonsense", "float4_e2m1fn_x2", 3, torch.int64, "qint8"])
def test_no_type_to_cast_to(source: Path, tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(InputError, match="floating-point type"):
        perdure.convert(source, tmp_path / "x.safetensors", dtype=dtype)
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("target", "options", "error"),
    [
        ("x.h5", {}, PathError), ("x.pth", {"plain": True}, InputError), ("x.npz", {"shard_bytes": 9}, InputError),
        ("x", {"plain": True}, PathError), ("x.safetensors", {"shard_bytes": 0}, InputError), (3, {}, InputError),
        (".safetensors", {}, PathError), ("", {}, PathError),
    ],
)  # fmt: skip
def test_calls_that_make_no_sense(source: Path, tmp_path: Path, target: Any, options: Any, error: type) -> None:
    with pytest.raises(error):
        perdure.convert(
            source, os.path.join(tmp_path, target) if target and isinstance(target, str) else target, **options
        )
    assert os.listdir(tmp_path) == [source.name]


def test_the_source_may_be_the_target(source: Path) -> None:
    before = Net().state_dict()
    perdure.convert(source, source, dtype="float64")
    with perdure.open(source) as weights:
        assert all(torch.equal(weights[name], tensor.double()) for name, tensor in before.items())
    folder = source.with_name("folder")
    perdure.convert(source, folder, shard_bytes=100)
    perdure.convert(folder, folder, dtype="float32", shard_bytes=100)
    assert perdure.check(folder).ok
    with perdure.open(folder) as weights:
        assert all(torch.equal(weights[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("target", ["new.safetensors", "new.pth", "new.npz", "new"])
@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}])
def test_a_damaged_source_gives_nothing(tmp_path: Path, target: str, options: Any) -> None:
    perdure.save_weights({"x": torch.arange(300.0), "y": torch.ones(7)}, tmp_path / "a.safetensors")
    content = bytearray((tmp_path / "a.safetensors").read_bytes())
    content[-900] ^= 1
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(DigestError):
        perdure.convert(tmp_path / "a.safetensors", tmp_path / target, **options)
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("target", ["new.safetensors", "new.pth", "new.npz", "new"])
@pytest.mark.parametrize("n_elements", [100, 3_000_000])
def test_what_the_disk_gives_back_is_compared(
    tmp_path: Path, target: str, n_elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    perdure.save_weights({"x": torch.ones(n_elements)}, tmp_path / "a.safetensors")
    whole = writing.write_all

    def damaging(descriptor: int, views: list[memoryview], offset: int) -> None:
        copies = [bytearray(view) for view in views]
        copies[-1][-1] ^= 4
        whole(descriptor, [memoryview(copy) for copy in copies], offset)

    for module in (writing, zip_writing):
        monkeypatch.setattr(module, "write_all", damaging)
    monkeypatch.setattr("perdure.disk.files.write_all", damaging)
    with pytest.raises(StorageError, match="read back and is not what was written"):
        perdure.convert(tmp_path / "a.safetensors", tmp_path / target)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_a_file_of_another_writer(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.arange(7, dtype=torch.int16), "c": torch.tensor(True)}
    safetensors.torch.save_file(tensors, tmp_path / "plain.safetensors", {"by": "me"})
    report = perdure.convert(tmp_path / "plain.safetensors", tmp_path / "own.safetensors")
    info = perdure.info(tmp_path / "own.safetensors")
    assert info.digest == report.digest != "" and info.environment and info.environment.torch == torch.__version__
    perdure.convert(tmp_path / "own.safetensors", tmp_path / "back.safetensors", plain=True)
    with safetensors.safe_open(tmp_path / "back.safetensors", "pt") as back:
        assert back.metadata() == {"format": "pt"}
        assert all(torch.equal(back.get_tensor(name), tensor) for name, tensor in tensors.items())


def test_a_checkpoint_of_another_writer(tmp_path: Path) -> None:
    state = {"w": torch.ones(2)}
    torch.save(
        {"model": state, "optimizer": {"state": {0: {"m": torch.ones(9)}}, "param_groups": []}}, tmp_path / "a.pt"
    )
    report = perdure.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert list(perdure.open(tmp_path / "a.safetensors")) == ["w"]
    assert report.warnings == ("what stands beside the state dict was left out: optimizer.",)
    torch.save({"layers": [state, state]}, tmp_path / "lists.pt")
    with pytest.raises(MissingTensorError, match=r"no state dict is in it, only layers.*load_checkpoint"):
        perdure.convert(tmp_path / "lists.pt", tmp_path / "b.safetensors")
    assert not (tmp_path / "b.safetensors").exists()


def test_tensors_that_no_state_dict_has_are_not_dropped_in_silence(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.table = torch.ones(3)  # type: ignore[assignment]
    torch.save(model, tmp_path / "a.pt")
    report = perdure.convert(tmp_path / "a.pt", tmp_path / "a.safetensors")
    assert "tensors that modules hold as other attributes (1)" in report.warnings[0]
    torch.save(torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(2, 2))), tmp_path / "q.pt")
    with pytest.raises(MissingTensorError, match="only tensors that modules hold as other attributes"):
        perdure.convert(tmp_path / "q.pt", tmp_path / "b.safetensors")


def test_only_a_part(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    tensors = {
        "encoder.w": shared,
        "decoder.w": shared,
        "decoder.v": shared,
        "decoder.t": shared.t(),
        "other": torch.ones(1),
    }
    perdure.save_weights(tensors, tmp_path / "a.safetensors")
    for target in ("b.safetensors", "b.pth"):
        perdure.convert(tmp_path / "a.safetensors", tmp_path / target, prefix="decoder")
    for found in (perdure.open(tmp_path / "b.safetensors"), torch.load(tmp_path / "b.pth", weights_only=True)):
        assert set(found) == {"w", "v", "t"}
        assert torch.equal(found["w"], shared) and torch.equal(found["t"], shared.t())
        assert found["w"].data_ptr() == found["v"].data_ptr() == found["t"].data_ptr()
    with perdure.open(tmp_path / "a.safetensors", prefix="encoder") as weights:
        perdure.convert(weights, tmp_path / "c.safetensors")
        with pytest.raises(InputError, match="opened already"):
            perdure.convert(weights, tmp_path / "d.safetensors", prefix="x")
    assert [spec.name for spec in perdure.info(tmp_path / "c.safetensors").tensors] == ["w"]


def test_a_whole_model_stays_one_unless_its_type_changes(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    batch = torch.ones(2, 3)
    saved = perdure.save(net, tmp_path / "a.safetensors", example=batch, labels=["cat", "dog"])
    report = perdure.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert report.forms == saved.forms and report.warnings == ()
    perdure.convert(tmp_path / "b.safetensors", tmp_path / "folder", shard_bytes=40)
    for path in (tmp_path / "b.safetensors", tmp_path / "folder"):
        again = perdure.load(path)
        assert torch.equal(again(batch), net(batch)) and perdure.info(again).labels == ["cat", "dog"]
    report = perdure.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", dtype="float64")
    assert report.forms == ("weights",) and "model" in report.warnings[0]
    assert perdure.info(tmp_path / "c.safetensors").forms == ("weights",)


def test_a_checkpoint_stays_one_unless_its_type_changes(tmp_path: Path) -> None:
    state = {"epoch": 3, "model": {"w": torch.ones(2)}, "array": np.arange(3.0)}
    perdure.save_checkpoint(state, tmp_path / "a.safetensors")
    perdure.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    again = perdure.load_checkpoint(tmp_path / "b.safetensors")
    assert (
        again["epoch"] == 3 and torch.equal(again["model"]["w"], torch.ones(2)) and again["array"].tolist() == [0, 1, 2]
    )
    report = perdure.convert(tmp_path / "a.safetensors", tmp_path / "c.safetensors", dtype="bfloat16")
    assert "checkpoint" in report.warnings[0]
    assert perdure.open(tmp_path / "c.safetensors")["model.w"].dtype == torch.bfloat16


class Counting(nn.Module):
    def __init__(self, state: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.state = state

    def get_extra_state(self) -> Any:
        return self.state

    def set_extra_state(self, state: Any) -> None:
        self.state = state


def test_extra_states(tmp_path: Path) -> None:
    state = {"n": 7, "big": 2**70, "list": [1.5, None, True, ("x", -3)], "deep": {"é": ""}}
    perdure.save_weights(Counting(state), tmp_path / "a.safetensors")
    report = perdure.convert(tmp_path / "a.safetensors", tmp_path / "a.pth")
    assert report.warnings == ()
    assert torch.load(tmp_path / "a.pth", weights_only=True)["_extra_state"] == state
    perdure.save_weights(Counting({"seen": torch.ones(3)}), tmp_path / "b.safetensors")
    report = perdure.convert(tmp_path / "b.safetensors", tmp_path / "b.pth")
    assert len(report.warnings) == 1 and "'_extra_state'" in report.warnings[0]
    assert list(torch.load(tmp_path / "b.pth", weights_only=True)) == ["weight"]
    perdure.convert(tmp_path / "b.safetensors", tmp_path / "c.safetensors", dtype="float16")
    again = Counting(None)
    perdure.load_weights(again, tmp_path / "c.safetensors")
    assert again.state["seen"].dtype == torch.float32 and torch.equal(again.state["seen"], torch.ones(3))
    perdure.convert(tmp_path / "b.safetensors", tmp_path / "b.npz")
    assert list(np.load(tmp_path / "b.npz")) == ["weight"]


def test_progress_and_bounded_pieces(tmp_path: Path) -> None:
    perdure.save_weights({"x": torch.ones(5_000_000), "y": torch.ones(9)}, tmp_path / "a.safetensors")
    seen: list[tuple[int, int]] = []
    perdure.convert(tmp_path / "a.safetensors", tmp_path / "b.pth", progress=lambda n, total: seen.append((n, total)))
    assert {total for _, total in seen} == {20_000_036} and sum(n for n, _ in seen) == 20_000_036
    assert max(n for n, _ in seen) <= writing.SEGMENT_BYTES


class TestZips:
    """The archive's records, for sizes that no test writes."""

    def items(self, *sizes: int) -> list[Item]:
        return [Item(f"m{number}", "", (), size, list) for number, size in enumerate(sizes)]

    def test_beyond_four_gigabytes(self, tmp_path: Path) -> None:
        """A sparse file with nothing but the records is what the standard library takes for an archive."""
        members = zip_writing.place(self.items(10, 2**32 + 5, 3), 64)
        end = members[-1].stop
        path = tmp_path / "large.zip"
        with path.open("wb") as file:
            for member in members:
                file.seek(member.start)
                file.write(zip_writing._local_header(member))
            file.seek(end)
            file.write(zip_writing._directory(members, end))
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            assert [(info.filename, info.file_size) for info in infos] == [("m0", 10), ("m1", 2**32 + 5), ("m2", 3)]
            assert [info.header_offset for info in infos] == [member.start for member in members]
            assert all(member.data_start % 64 == 0 for member in members)
            for member in members:
                with archive.open(member.item.name) as stream:
                    stream._expected_crc = None  # type: ignore[attr-defined]  # its bytes are all nought here
                    assert stream.read(3) == b"\0\0\0"

    def test_many_members(self, tmp_path: Path) -> None:
        zip_writing.write_archive(tmp_path / "many.zip", self.items(*[0] * 66000))
        with zipfile.ZipFile(tmp_path / "many.zip") as archive:
            assert len(archive.infolist()) == 66000 and archive.infolist()[-1].filename == "m65999"

    @pytest.mark.parametrize("name", ["", "a\0b", "x" * 70000, "\ud800"])
    def test_names_that_no_zip_file_has(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError):
            zip_writing.write_archive(tmp_path / "x.zip", [Item(name, "", (), 0, list)])
        assert os.listdir(tmp_path) == []


def test_names_of_any_kind(tmp_path: Path) -> None:
    tensors = {
        "": torch.ones(1),
        "é/ü": torch.ones(2),
        "a b": torch.ones(3),
        "x" * 300: torch.ones(4),
        "file": torch.ones(5),
    }
    perdure.save_weights(tensors, tmp_path / "a.safetensors")
    for target in ("a.pth", "a.npz"):
        perdure.convert(tmp_path / "a.safetensors", tmp_path / target)
    assert set(torch.load(tmp_path / "a.pth", weights_only=True)) == tensors.keys()
    with np.load(tmp_path / "a.npz") as arrays:
        assert set(arrays) == tensors.keys() and arrays["é/ü"].tolist() == [1.0, 1.0]


def test_an_empty_file(tmp_path: Path) -> None:
    perdure.save_weights({}, tmp_path / "a.safetensors")
    for target in ("a.pth", "a.npz", "b.safetensors", "folder"):
        perdure.convert(tmp_path / "a.safetensors", tmp_path / target)
    assert torch.load(tmp_path / "a.pth", weights_only=True) == {} and list(np.load(tmp_path / "a.npz")) == []
    assert json.dumps(perdure.info(tmp_path / "folder").forms) == '["weights"]'


def test_a_pth_file_has_the_order_of_its_source(tmp_path):
    shared = torch.ones(3, 2)
    state = {
        "head": shared,
        "a": torch.zeros(1),
        "turned": shared.t(),
        "sparse": torch.ones(2).to_sparse(),
        "z": torch.zeros(2),
    }
    torch.save(state, tmp_path / "a.pt")
    perdure.convert(tmp_path / "a.pt", tmp_path / "b.pt")
    assert list(torch.load(tmp_path / "b.pt", weights_only=True)) == list(state)
