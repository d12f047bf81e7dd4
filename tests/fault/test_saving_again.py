"""Saves over what is there already: nothing of others is lost, nobody reads what they may not, readers see no damage."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import perdure
from fault.test_headers import raised
from perdure.disk import atomic, capabilities
from perdure.disk import folder as folders
from perdure.disk.sources import PathSource
from perdure.errors import ConflictError, CorruptError, PathError, PerdureError

INDEX = "model.safetensors.index.json"
OLD = {f"t{n}": torch.full((10,), float(n)) for n in range(5)}
NEW = {f"t{n}": torch.full((10,), float(-n)) for n in range(6)}


def same(path: object, tensors: dict[str, torch.Tensor]) -> bool:
    with perdure.open(path) as found:  # type: ignore[arg-type]
        return found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_another_model_in_the_folder_we_change_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, model in (("a", OLD), ("b", NEW)):
        (tmp_path / place).mkdir()
        perdure.save_weights(model, tmp_path / place / "model", shard_bytes=40)
    monkeypatch.chdir(tmp_path / "a")
    opened = perdure.open("model")
    monkeypatch.chdir(tmp_path / "b")
    assert torch.equal(opened["t1"], OLD["t1"])
    assert opened.path == "model"


def test_shards_of_other_writers_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import save_file

    for place, value in (("a", 1.0), ("b", 2.0)):
        (tmp_path / place / "model").mkdir(parents=True)
        save_file({"w": torch.full((2,), value)}, tmp_path / place / "model" / "one.safetensors")
        (tmp_path / place / "model" / INDEX).write_text(json.dumps({"weight_map": {"w": "one.safetensors"}}))
    monkeypatch.chdir(tmp_path / "a")
    opened = perdure.open("model")
    monkeypatch.chdir(tmp_path / "b")
    assert opened["w"].tolist() == [1.0, 1.0]


def test_a_save_into_a_folder_goes_on_where_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    write_file = folders.write_file

    def leaving(*arguments: object, **options: object) -> object:
        monkeypatch.chdir(tmp_path / "b")
        return write_file(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(folders, "write_file", leaving)
    perdure.save_weights(OLD, "model", shard_bytes=40)
    assert same(tmp_path / "a" / "model", OLD) and os.listdir(tmp_path / "b" / "model") == []


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_pipe_or_a_socket_is_not_replaced(
    kind: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("it.safetensors")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
    target = Path("link.safetensors") if linked else path
    if linked:
        target.symlink_to(path)
    mode = path.stat().st_mode
    with pytest.raises(PathError, match="pipe"):
        perdure.save_weights(OLD, target)
    assert path.stat().st_mode == mode and len(os.listdir()) == 1 + linked


def test_nothing_is_removed_while_no_index_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    kept = path / "kept"
    os.rename(path / INDEX, kept)
    n_old = len(os.listdir(path)) - 1
    replacing = folders.replacing

    def hiding(target: Path, *arguments: object) -> object:
        """The index is not to be seen for a moment once it was committed."""
        manager = replacing(target, *arguments)  # type: ignore[arg-type]
        leave = manager.__exit__

        class Hiding:
            __enter__ = staticmethod(manager.__enter__)

            @staticmethod
            def __exit__(*error: object) -> object:
                done = leave(*error)  # type: ignore[arg-type]
                os.rename(target, path / "hidden")
                return done

        return Hiding()

    monkeypatch.setattr(folders, "replacing", hiding)
    perdure.save_weights(NEW, path, shard_bytes=40)
    shards = [name for name in os.listdir(path) if name.endswith(".safetensors")]
    assert len(shards) == n_old + len(NEW)
    os.rename(path / "hidden", path / INDEX)
    assert same(path, NEW)
    os.rename(kept, path / INDEX)
    assert same(path, OLD)


def test_a_model_under_another_index_keeps_its_shards(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    os.rename(path / INDEX, path / "ema.safetensors.index.json")
    perdure.save_weights(NEW, path, shard_bytes=40)
    perdure.save_weights(NEW, path, shard_bytes=40)
    assert same(path / "ema.safetensors.index.json", OLD) and same(path / INDEX, NEW)
    shards = [name for name in os.listdir(path) if name.endswith(".safetensors")]
    assert len(shards) == len(OLD) + len(NEW)


def test_a_reader_is_told_that_the_model_was_saved_anew(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    early, late = perdure.open(path, map=False), perdure.open(path, map=False)
    assert torch.equal(late["t0"], OLD["t0"])
    perdure.save_weights(NEW, path, shard_bytes=40)
    for opened in (early, late):
        with pytest.raises(ConflictError, match="saved anew meanwhile"):
            opened["t1"]
    assert torch.equal(late["t0"], OLD["t0"])
    next(file for file in path.iterdir() if file.suffix == ".safetensors").unlink()
    assert any(isinstance(raised(lambda: perdure.open(path)[name]), CorruptError) for name in NEW)  # noqa: B023


SAVER = """
import sys, torch, perdure
for n in range(10_000):
    perdure.save_weights({f"t{k}": torch.full((10,), float(n)) for k in range(5)}, sys.argv[1], shard_bytes=40)
"""


def test_readers_beside_a_saver_see_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    model = torch.nn.Module()
    for name, tensor in OLD.items():
        model.register_buffer(name, torch.zeros_like(tensor))
    saver = subprocess.Popen([sys.executable, "-c", SAVER, str(path)])
    try:
        begun, n_digests = time.time(), set()
        while time.time() - begun < 5 or len(n_digests) < 3:
            assert perdure.check(path).ok
            n_digests.add(perdure.info(path).digest)
            found = raised(lambda: perdure.load_weights(model, path))
            assert found is None or isinstance(found, ConflictError), repr(found)
            assert time.time() - begun < 60
    finally:
        saver.kill()
        saver.wait()


@pytest.mark.parametrize("shard_bytes", [None, 40])
def test_a_tensor_with_the_name_of_the_seal(shard_bytes: int | None, tmp_path: Path) -> None:
    tensors = {"perdure.digest": torch.ones(3), "perdure": torch.ones(2), "w": torch.zeros(10)}
    for path in (tmp_path / "model", tmp_path / "model.safetensors"):
        if shard_bytes is None or path.suffix == "":
            perdure.save_weights(tensors, path, shard_bytes=shard_bytes)
            assert same(path, tensors) and perdure.check(path).ok


def test_the_seal_of_an_index_stands_in_its_metadata(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    index = json.loads((path / INDEX).read_text())
    digest = index["metadata"]["perdure.digest"]
    moved = {"weight_map": {"perdure.digest": digest, **index["weight_map"]}, "metadata": index["metadata"]}
    (path / INDEX).write_text(json.dumps(moved, separators=(",", ":")))
    assert isinstance(raised(lambda: perdure.open(path)), CorruptError)
    del moved["metadata"]
    (path / INDEX).write_text(json.dumps(moved, separators=(",", ":")))
    assert isinstance(raised(lambda: perdure.open(path)), CorruptError)


@pytest.mark.parametrize("n_elements", [10, 5_000_000])
def test_a_private_file_is_private_while_it_is_replaced(
    n_elements: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "it.safetensors"
    perdure.save_weights(OLD, path)
    path.chmod(0o600)
    modes = []
    create = atomic._Temporary.create

    def watched(self: atomic._Temporary, *arguments: int) -> None:
        create(self, *arguments)
        modes.append(stat.S_IMODE(os.fstat(self.descriptor).st_mode))

    monkeypatch.setattr(atomic._Temporary, "create", watched)
    perdure.save_weights({"w": torch.zeros(n_elements)}, path)
    assert modes == [0o600] and stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o664)
    perdure.save_weights({"w": torch.zeros(n_elements)}, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_new_shards_have_the_mode_of_the_old_index(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    for file in path.iterdir():
        file.chmod(0o600)
    perdure.save_weights(NEW, path, shard_bytes=40)
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o600}


def test_without_locks_a_living_savers_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "FILE_LOCKS", False)
    path = tmp_path / "it.safetensors"
    young, old = (tmp_path / f".it.safetensors.{letter * 16}.perdure-tmp" for letter in "ab")
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    perdure.save_weights(OLD, path)
    assert sorted(os.listdir(tmp_path)) == [young.name, path.name]
    folder = tmp_path / "model"
    perdure.save_weights(OLD, folder, shard_bytes=40)
    young, old = (folder / f"model-{letter * 12}-00001-of-00001.safetensors" for letter in "ab")
    young.touch()
    old.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    perdure.save_weights(NEW, folder, shard_bytes=40)
    assert young.exists() and not old.exists() and len(os.listdir(folder)) == len(NEW) + 2
    assert same(folder, NEW)


def test_a_shard_that_is_opened_again_is_the_same_file(tmp_path: Path) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"old content")
    source = PathSource(path, one_of_many=True)
    source._let_go()
    assert source.read(0, 3) == b"old"
    source._let_go()
    other = tmp_path / "other"
    other.write_bytes(b"new content")
    os.replace(other, path)
    with pytest.raises(ConflictError, match="saved anew"):
        source.read(0, 3)
    path.unlink()
    with pytest.raises(ConflictError, match="saved anew"):
        source.read(0, 3)
    source.close()
    with pytest.raises(PerdureError, match="closed"):
        source.read(0, 3)


def test_links_that_lead_nowhere(tmp_path: Path) -> None:
    loop, lost = tmp_path / "loop", tmp_path / "lost"
    loop.symlink_to(loop)
    lost.symlink_to(tmp_path / "nowhere")
    for path in (loop, lost):
        with pytest.raises(PathError, match="link"):
            perdure.save_weights(OLD, path)
    assert isinstance(raised(lambda: perdure.open(loop)), PerdureError)


def test_shards_without_an_index(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(OLD, path, shard_bytes=40)
    (path / INDEX).unlink()
    with pytest.raises(PerdureError, match="5 shards but no index"):
        perdure.open(path)
