"""`open`: a lazy mapping, parts of tensors, and shards that stay closed."""

from __future__ import annotations

import gc
import io
import json
import os
import struct
import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import perdure
from perdure.errors import CorruptError, DigestError, InputError, MissingTensorError, PathError, UnsafeError

SHAPES = [(), (7,), (5, 4), (3, 4, 5), (1, 6), (0, 3), (4, 0)]
TENSORS = {
    f"{dtype} {shape}": torch.arange(torch.Size(shape).numel()).reshape(shape).to(getattr(torch, dtype))
    for shape in SHAPES
    for dtype in ("int64", "float32", "bool", "complex64", "bfloat16")
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("opening") / "w.safetensors"
    whole = torch.arange(60.0).view(6, 10)
    perdure.save_weights({**TENSORS, "whole": whole, "tied": whole[1:5, ::2]}, path)
    return path


whole_numbers = st.integers(-8, 8)
slices = st.builds(slice, st.none() | whole_numbers, st.none() | whole_numbers, st.none() | st.integers(1, 4))
parts = st.one_of(
    whole_numbers, slices, slices, st.just(...), st.none(), st.booleans(), st.lists(st.integers(-4, 3), max_size=3),
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(torch.tensor), whole_numbers.map(np.int64),
)  # fmt: skip
indexes = st.one_of(parts, st.lists(parts, max_size=4).map(tuple))


def indexed(tensor: torch.Tensor, index: Any) -> torch.Tensor | None:
    """Return what brackets give, or None where they give an error."""
    try:
        return tensor[index]
    except (IndexError, TypeError, ValueError):
        return None


@settings(max_examples=600)
@given(st.sampled_from([*TENSORS, "whole", "tied"]), indexes)
def test_reading_a_part_is_indexing(path: Path, name: str, index: Any) -> None:
    weights = perdure.open(path)
    expected = indexed(weights[name].clone(), index)
    if expected is None:
        with pytest.raises(InputError, match=f"reading .*{name[:4]}"):
            weights.read(name, index)
        return
    found = weights.read(name, index)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert torch.equal(found, expected)


@given(st.sampled_from(["int64 (7,)", "float32 (5, 4)", "whole"]), st.none() | whole_numbers, st.none() | whole_numbers,
       st.integers(-4, -1), st.booleans())  # fmt: skip
def test_steps_backwards_on_the_first_axis(path: Path, name: str, start: Any, stop: Any, step: int, more: bool) -> None:
    """torch's own brackets cannot do this; NumPy's are the reference."""
    weights = perdure.open(path)
    array = weights[name].numpy()
    index = (slice(start, stop, step), 1) if more and array.ndim > 1 else slice(start, stop, step)
    assert np.array_equal(weights.read(name, index).numpy(), array[index])


def test_parts_have_memory_of_their_own(path: Path) -> None:
    weights = perdure.open(path)
    for name, index in (("whole", slice(1, 3)), ("whole", 2), ("whole", (slice(0, 2), 3)), ("tied", 0), ("whole", ...)):
        before = weights[name].clone()
        found = weights.read(name, index)
        found.fill_(-5)
        assert torch.equal(weights[name], before)
    for index in (slice(0, 3), slice(2, None), slice(None, None, 2), ...):
        assert weights.read("whole", index).data_ptr() % 64 == 0


def test_a_part_is_all_that_is_read(tmp_path: Path) -> None:
    """Ten rows of a big tensor: not much more than their bytes are read, by what the system counts."""
    path = tmp_path / "big.safetensors"
    perdure.save_weights({"x": torch.zeros(2**14, 2**8)}, path)
    weights = perdure.open(path, map=False)

    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))

    before = bytes_read()
    weights.read("x", slice(100, 110))
    assert bytes_read() - before < 64 * 1024
    before = bytes_read()
    weights.read("x")
    assert bytes_read() - before >= 2**24


def test_a_mapping_of_names_to_tensors(path: Path) -> None:
    weights = perdure.open(path)
    assert list(weights) == [*TENSORS, "whole", "tied"] and len(weights) == len(TENSORS) + 2
    assert "whole" in weights and "nothing" not in weights and 3 not in weights
    assert weights.keys() >= {"whole"} and weights.get("nothing", 1) == 1
    assert repr(weights) == f"<perdure.Weights of {path}: {len(weights)} tensors>"
    assert weights.path == str(path)
    assert len(weights.digest) == 64 and weights.environment == weights.manifest.environment  # type: ignore[union-attr]
    with pytest.raises(MissingTensorError, match="'nothing'"):
        weights["nothing"]


def test_prefix(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    tensors = {
        "a.x": torch.ones(1),
        "a.y": torch.ones(2),
        "ab.x": torch.ones(3),
        "a": torch.ones(4),
        "b.x": torch.ones(5),
    }
    tensors["a.tie"] = tensors["b.x"]
    perdure.save_weights(tensors, path)
    weights = perdure.open(path, prefix="a")
    assert set(weights) == {"x", "y", "tie"}
    assert weights["tie"].shape == (5,) and weights.spec("tie").name in ("tie", "a.tie")
    assert weights.read("y", slice(0, 1)).shape == (1,)
    assert set(perdure.open(path, prefix="")) == set(tensors)
    with pytest.raises(MissingTensorError, match=r"'c\.'"):
        perdure.open(path, prefix="c")


def test_tensors_outlive_what_gave_them(path: Path) -> None:
    for options in ({}, {"map": False}):
        with perdure.open(path, **options) as weights:
            whole, tied = weights["whole"], weights["tied"]
        del weights
        gc.collect()
        assert torch.equal(whole, torch.arange(60.0).view(6, 10))
        assert torch.equal(tied, whole[1:5, ::2])
        tied[0, 0] = -1
        assert whole[1, 0] == -1


def test_closing_gives_back_descriptors_and_memory(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    perdure.save_weights({"whole": torch.arange(64.0).view(8, 8)}, path)

    def state() -> tuple[int, bool]:
        return len(os.listdir("/proc/self/fd")), str(path) in Path("/proc/self/maps").read_text()

    gc.collect()
    before = state()
    weights = perdure.open(path)
    tensor = weights["whole"]
    assert state()[1]
    weights.close()
    assert state() <= (before[0] + 1, True) and tensor[0, 1] == 1  # the map keeps a descriptor of its own
    del tensor
    gc.collect()
    assert state() == before
    with pytest.raises(perdure.errors.PerdureError):
        perdure_after_close = perdure.open(path)
        perdure_after_close.close()
        perdure_after_close.read("whole")


def test_what_is_read_is_verified_and_what_is_mapped_on_request(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    perdure.save_weights({"a": torch.ones(100), "b": torch.zeros(100), "c": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    content[start + header["b"]["data_offsets"][0] + 5] ^= 1
    path.write_bytes(content)
    mapped = perdure.open(path)
    assert mapped["b"].shape == (100,)
    mapped.verify(["a", "c"])
    for full in (False, True):
        with pytest.raises(DigestError, match="'b'"):
            mapped.verify(full=full)
    for weights in (perdure.open(path, map=False), perdure.open(bytes(content)), perdure.open(io.BytesIO(content))):
        assert torch.equal(weights["a"], torch.ones(100))
        with pytest.raises(DigestError, match="'b'"):
            weights["b"]
    with pytest.raises(DigestError, match="'b'"):
        mapped.read("b")


# Shards

PARTS = {f"layer{number}.weight": torch.full((8, 4), float(number)) for number in range(6)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tensors = {**PARTS, "tie": PARTS["layer2.weight"][1:3]}
    perdure.save_weights(tensors, tmp_path / "model", shard_bytes=150)
    return tmp_path / "model"


def shard_of(folder: Path, name: str) -> str:
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][name]


def opened_files() -> set[str]:
    if sys.platform != "linux":
        return set()
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        except OSError:
            continue
    return {name for name in found if name.endswith(".safetensors")}


@pytest.mark.parametrize("damage", ["deleted", "garbage", "empty", "folder"])
def test_one_tensor_of_a_sharded_model_needs_one_shard(folder: Path, damage: str) -> None:
    wanted = shard_of(folder, "layer2.weight")
    for shard in folder.glob("model-*.safetensors"):
        if shard.name != wanted:
            shard.unlink()
            if damage in ("garbage", "empty"):
                shard.write_bytes(b"nothing of a model" * (damage == "garbage"))
            elif damage == "folder":
                shard.mkdir()
    gc.collect()
    before = opened_files()
    weights = perdure.open(folder)
    assert set(weights) == {*PARTS, "tie"}
    assert torch.equal(weights["layer2.weight"], PARTS["layer2.weight"])
    assert torch.equal(weights.read("layer2.weight"), PARTS["layer2.weight"])
    assert torch.equal(weights.read("layer2.weight", slice(2, 5)), PARTS["layer2.weight"][2:5])
    assert torch.equal(weights["tie"], PARTS["layer2.weight"][1:3])
    assert weights.spec("layer2.weight").shape == (8, 4)
    weights.verify(["layer2.weight", "tie"])
    assert opened_files() - before == {wanted}
    with pytest.raises(perdure.errors.PerdureError, match=shard_of(folder, "layer0.weight")):
        weights["layer0.weight"]
    with pytest.raises(perdure.errors.PerdureError):
        _ = weights.specs


def test_only_the_asked_shard_is_opened(folder: Path) -> None:
    gc.collect()
    before = opened_files()
    weights = perdure.open(folder)
    assert opened_files() == before
    weights.read("layer3.weight", 0)
    assert opened_files() - before == {shard_of(folder, "layer3.weight")}
    weights.close()
    assert opened_files() == before


def test_a_shard_of_another_save_is_refused(folder: Path, tmp_path: Path) -> None:
    perdure.save_weights({name: tensor + 1 for name, tensor in PARTS.items()}, tmp_path / "other", shard_bytes=150)
    shard = folder / shard_of(folder, "layer0.weight")
    shard.write_bytes((tmp_path / "other" / shard_of(tmp_path / "other", "layer0.weight")).read_bytes())
    with pytest.raises(DigestError, match="another save"):
        perdure.open(folder)["layer0.weight"]
    assert torch.equal(perdure.open(folder)["layer5.weight"], PARTS["layer5.weight"])


def test_a_folder_can_be_named_by_its_index_or_a_shard(folder: Path) -> None:
    assert set(perdure.open(folder / "model.safetensors.index.json")) == {*PARTS, "tie"}
    single = perdure.open(folder / shard_of(folder, "layer1.weight"))
    assert torch.equal(single["layer1.weight"], PARTS["layer1.weight"])


def test_a_folder_with_one_file_or_several(tmp_path: Path) -> None:
    perdure.save_weights({"a": torch.ones(1)}, tmp_path / "one.safetensors")
    assert set(perdure.open(tmp_path)) == {"a"}
    perdure.save_weights({"b": torch.ones(1)}, tmp_path / "two.safetensors")
    with pytest.raises(PathError, match=r"one\.safetensors, two\.safetensors"):
        perdure.open(tmp_path)


def test_an_index_that_names_what_a_shard_has_not(folder: Path) -> None:
    """Another writer's index, which nothing seals."""
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["metadata"] = {"total_size": 1}
    content["weight_map"]["layer0.weight"] = content["weight_map"]["layer5.weight"]
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptError, match=r"layer0\.weight"):
        perdure.open(folder)["layer0.weight"]


@pytest.mark.parametrize("header_bytes", [0x80, 0x180, 0x280, 0x580, 0x4B50])
def test_a_length_that_begins_like_another_kind_of_file(header_bytes):
    entry = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    content = struct.pack("<Q", header_bytes) + entry + b" " * (header_bytes - len(entry) - 1) + b"}" + b"\x07"
    assert perdure.open(content)["w"].tolist() == [7]


def test_a_file_object_stays_where_it_was(path: Path) -> None:
    with path.open("rb") as file:
        for _ in range(2):
            assert perdure.check(file).verdict == "safe"
            assert perdure.open(file).read("whole").shape == (6, 10)
            assert file.tell() == 0


def test_info_names_what_a_pickled_model_would_need(tmp_path):
    torch.save({"model": torch.nn.Sequential(torch.nn.Linear(2, 2)), "epoch": 1}, tmp_path / "whole.pt")
    info = perdure.info(tmp_path / "whole.pt")
    assert info.names == ("torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear")
    assert (info.prefix, info.rest, info.n_unnamed) == ("model", {"epoch": 1}, 0)
    assert info.classes == {"": "torch.nn.modules.container.Sequential", "0": "torch.nn.modules.linear.Linear"}


@pytest.mark.parametrize(
    "name, content, verdict",
    [
        ("archive/code/a.py", b"import os", "needs code"),
        ("archive/code/a.pkl", b"cos\nsystem\n(S'true'\ntR.", "dangerous"),
        ("archive/.data/a", b"\x80\x02cos\nsystem\nX\x04\x00\x00\x00true\x85R.", "dangerous"),
        ("archive/notes.txt", b"trained on Monday", "safe"),
    ],
)
def test_members_beside_those_of_torch_save_are_looked_into(name, content, verdict):
    written = io.BytesIO()
    torch.save({"w": torch.ones(2)}, written)
    with ZipFile(written, "a") as archive:
        archive.writestr(name, content)
    assert perdure.check(io.BytesIO(written.getvalue())).verdict == verdict
    if verdict == "dangerous":
        with pytest.raises(UnsafeError):
            perdure.open(written.getvalue())
    else:
        assert perdure.open(written.getvalue())["w"].tolist() == [1, 1]
