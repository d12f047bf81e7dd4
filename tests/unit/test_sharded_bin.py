"""Folders of pickled shards with an index, as transformers wrote them, and folders with one pickled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import perdure
from perdure.disk import sources
from perdure.errors import CorruptError, FormatError, MissingFileError, PathError, UnsafeError

SHARDS = {
    "pytorch_model-00001-of-00002.bin": {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)},
    "pytorch_model-00002-of-00002.bin": {
        "b.weight": torch.arange(4, dtype=torch.int64),
        "b.half": torch.ones(3).half(),
    },
}
TENSORS = {name: tensor for shard in SHARDS.values() for name, tensor in shard.items()}


def write(folder: Path, shards: dict[str, Any] = SHARDS, **options: Any) -> Path:
    """Write shards and their index."""
    for file, shard in shards.items():
        torch.save(shard, folder / file, **options)
    shard_of = {name: file for file, shard in shards.items() for name in shard}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 100}, "weight_map": shard_of}))
    return index


def change(index: Path, **changes: str | None) -> None:
    content = json.loads(index.read_text())
    for name, file in changes.items():
        content["weight_map"].pop(name.replace("__", "."), None)
        if file is not None:
            content["weight_map"][name.replace("__", ".")] = file
    index.write_text(json.dumps(content))


def assert_same(path: Path) -> None:
    with perdure.open(path) as weights:
        assert set(weights) == set(TENSORS)
        for name, tensor in TENSORS.items():
            assert weights[name].dtype == tensor.dtype
            assert torch.equal(weights[name], tensor)


@pytest.mark.parametrize("zipped", [True, False])
def test_shards_make_one_state_dict(tmp_path: Path, zipped: bool) -> None:
    index = write(tmp_path, _use_new_zipfile_serialization=zipped)
    assert_same(tmp_path)
    assert_same(index)


def test_transformers_own_folder_is_read(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    hub = pytest.importorskip("huggingface_hub")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=50
    )
    state = transformers.BertModel(config).state_dict()
    hub.save_torch_state_dict(state, tmp_path, safe_serialization=False, max_shard_size=4000)
    assert len(list(tmp_path.glob("*.bin"))) > 2
    with perdure.open(tmp_path) as weights:
        assert set(weights) == set(state)
        assert all(torch.equal(weights[name], tensor) for name, tensor in state.items())


def test_tied_tensors_of_a_shard_share_memory(tmp_path: Path) -> None:
    tied = torch.ones(3)
    write(tmp_path, {"pytorch_model-00001-of-00001.bin": {"a": tied, "b": tied}})
    with perdure.open(tmp_path) as weights:
        assert weights["a"].data_ptr() == weights["b"].data_ptr()


def test_thousands_of_shards_keep_few_files_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "MAX_OPEN_SHARDS", 4)
    shards = {f"pytorch_model-{n:05d}-of-00030.bin": {f"t{n}": torch.full((2,), float(n))} for n in range(1, 31)}
    write(tmp_path, shards)
    with perdure.open(tmp_path) as weights:
        assert [weights[f"t{n}"][0].item() for n in range(1, 31)] == list(range(1, 31))


def test_links_of_a_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write(tmp_path / "snapshot")
    for number, path in enumerate(sorted((tmp_path / "snapshot").iterdir())):
        path.rename(tmp_path / "blobs" / str(number))
        path.symlink_to(Path("..", "blobs", str(number)))
    assert_same(tmp_path / "snapshot")


def test_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(CorruptError, match=r"pytorch_model-00002-of-00002\.bin' is missing"):
        perdure.open(tmp_path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    first = "pytorch_model-00001-of-00002.bin"
    index = write(tmp_path)
    change(index, c=first)
    with pytest.raises(CorruptError, match="says that it holds 'c'; it does not"):
        perdure.open(tmp_path)
    change(index, c=None, a__bias=None)
    with pytest.raises(CorruptError, match=r"holds 'a\.bias', which is nowhere by the index"):
        perdure.open(tmp_path)
    change(index, a__bias="pytorch_model-00002-of-00002.bin")
    with pytest.raises(CorruptError, match=r"holds 'a\.bias', which is in pytorch_model-00002"):
        perdure.open(tmp_path)


@pytest.mark.parametrize("name", ["../up.bin", "/etc/passwd", "a\\b.bin", "", "..", "a\0b"])
def test_names_that_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    change(write(tmp_path), a__bias=name)
    with pytest.raises(CorruptError, match="shards lie beside their index"):
        perdure.open(tmp_path)


def test_shard_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    file = "pytorch_model-00001-of-00001.bin"
    index = write(tmp_path, {file: {"a": torch.ones(1)}})
    torch.save([torch.ones(1)], tmp_path / file)
    with pytest.raises(CorruptError, match="tensors by their names"):
        perdure.open(index)
    torch.save({"a": 3}, tmp_path / file)
    with pytest.raises(CorruptError, match="'a' is none"):
        perdure.open(index)
    (tmp_path / file).write_bytes(b"anything else, at some length")
    with pytest.raises(FormatError):
        perdure.open(index)


def test_shard_that_would_run_something_is_refused(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "marker",))

    write(tmp_path, {"pytorch_model-00001-of-00001.bin": {"a": Payload()}})
    with pytest.raises((UnsafeError, CorruptError)):
        perdure.open(tmp_path)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin", "last.ckpt", "net.pth"])
def test_lone_file_of_a_folder_is_opened(tmp_path: Path, name: str) -> None:
    torch.save(TENSORS, tmp_path / name)
    for beside in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth"):
        torch.save([1], tmp_path / beside)
    (tmp_path / "config.json").write_text("{}")
    assert_same(tmp_path)


def test_several_models_are_listed(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "one.pt")
    torch.save(TENSORS, tmp_path / "two.pt")
    with pytest.raises(PathError, match=r"several models \(one.pt, two.pt\)"):
        perdure.open(tmp_path)


def test_safetensors_beside_pickles_win(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    with perdure.open(tmp_path) as weights:
        assert torch.equal(weights["a"], torch.ones(2))


def test_shards_without_an_index_and_empty_folders_say_so(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no index of shards"):
        perdure.open(tmp_path)
    write(tmp_path).unlink()
    with pytest.raises(MissingFileError, match="2 shards but no index"):
        perdure.open(tmp_path)
