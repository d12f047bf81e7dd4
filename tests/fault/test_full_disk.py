"""A full disk, a read-only folder, no folder, the wrong kind of thing in place: a typed error, and nothing changed."""

from __future__ import annotations

import errno
import gc
import io
import os
import re
import resource
import shutil
import stat
import subprocess
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import perdure
from fault.test_headers import raised
from perdure.disk import capabilities
from perdure.errors import (
    DiskFullError,
    MissingFileError,
    PathError,
    PerdureError,
    StorageError,
)

MB = 1_000_000
OLD = {"weight": torch.full((500_000,), 1.0), "bias": torch.full((11,), 1.0)}


def new(n_bytes: int) -> dict[str, torch.Tensor]:
    quarter = n_bytes // 16
    return {**{f"weight.{number}": torch.full((quarter,), 2.0) for number in range(4)}, "bias": torch.full((11,), 2.0)}


def size_of(model: dict[str, torch.Tensor]) -> int:
    file = io.BytesIO()
    return perdure.save_weights(model, file).n_bytes


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return all that lies in a folder and below it, with contents, modes and inodes."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        changed = status.st_mtime_ns if stat.S_ISREG(status.st_mode) else 0
        found[str(path.relative_to(folder))] = (status.st_ino, status.st_mode, changed, content)
    return found


def holds(path: Path, model: dict[str, torch.Tensor]) -> bool:
    with perdure.open(path, map=False) as weights:
        return perdure.check(path).ok and all(torch.equal(weights[name], model[name]) for name in model)


# Room


def _can_mount() -> bool:
    if os.geteuid() != 0:
        return False
    probe = (
        "mkdir -p /tmp/perdure-mount && mount -t tmpfs -o size=1m none /tmp/perdure-mount && umount /tmp/perdure-mount"
    )
    return subprocess.run(["unshare", "-m", "sh", "-c", probe], capture_output=True, check=False).returncode == 0


MOUNTS = _can_mount()


class Room:
    """A folder with little room, of which more can be made."""

    def __init__(self, folder: Path, more: Callable[[], None]) -> None:
        self.folder, self.more = folder, more


@contextmanager
def small_tmpfs(tmp_path: Path) -> Iterator[Room]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=12m", "none", str(folder))
    try:
        yield Room(folder, lambda: mount("-o", "remount,size=200m", str(folder)))
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextmanager
def limited_files(tmp_path: Path, n_bytes: int = 4 * MB) -> Iterator[Room]:
    """No file of this process may become larger than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield Room(tmp_path, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


ROOMS = {"RLIMIT_FSIZE": limited_files, **({"tmpfs": small_tmpfs} if MOUNTS else {})}


@pytest.fixture(params=ROOMS.keys())
def room(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Room]:
    with ROOMS[request.param](tmp_path) as made:
        yield made


@pytest.mark.parametrize("preallocated", [True, False], ids=["allocated before", "found out while writing"])
@pytest.mark.parametrize("n_bytes", [25 * MB, 60 * MB], ids=["plain", "direct"])
def test_a_full_disk_is_a_typed_error_and_the_old_file_stays(
    n_bytes: int, preallocated: bool, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not preallocated:
        monkeypatch.setattr(capabilities, "PREALLOCATION", False)
    path = room.folder / "model.safetensors"
    perdure.save_weights(OLD, path)
    before = tree(room.folder)
    model = new(n_bytes)
    needed = size_of(model)
    for _ in range(2):
        with pytest.raises(DiskFullError) as caught:
            perdure.save_weights(model, path)
        message = str(caught.value)
        assert str(path) in message and f"{needed} bytes are needed" in message
        assert tree(room.folder) == before
        with pytest.raises(DiskFullError):
            perdure.save_weights(model, room.folder / "other.safetensors")
        assert tree(room.folder) == before
    assert holds(path, OLD)
    room.more()
    perdure.save_weights(model, path)
    assert holds(path, model) and os.listdir(room.folder) == [path.name]


@pytest.mark.parametrize("shard_bytes", [30 * MB, 7 * MB, 5 * MB])
def test_a_full_disk_leaves_the_old_shards(shard_bytes: int, room: Room) -> None:
    path = room.folder / "model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    perdure.save_weights(OLD, path)
    before = tree(room.folder)
    model = new(25 * MB)
    with pytest.raises(DiskFullError) as caught:
        perdure.save_weights(model, path, shard_bytes=shard_bytes)
    (needed,) = re.findall(r"(\d+) bytes are needed", str(caught.value))
    assert str(path) in str(caught.value) and int(needed) >= 6 * MB
    assert tree(room.folder) == before and holds(path, OLD)
    with pytest.raises(DiskFullError):
        perdure.save_weights(model, room.folder / "fresh", shard_bytes=shard_bytes)
    assert tree(room.folder) == before  # a folder that did not exist does not exist
    room.more()
    perdure.save_weights(model, path, shard_bytes=shard_bytes)
    assert holds(path, model) and (path / "config.json").read_text() == "{}"
    assert len(os.listdir(path)) == 2 + len(perdure.info(path).files)


def test_a_disk_that_has_room_for_all_but_the_headers(room: Room) -> None:
    """The tensors alone would fit, so it fails in the middle: at a shard, or at the index."""
    path = room.folder / "model"
    perdure.save_weights(OLD, path)
    before = tree(room.folder)
    if os.path.ismount(room.folder):
        status = os.statvfs(room.folder)
        free = status.f_bavail * status.f_frsize
    else:
        free = 3 * resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    shard = free // 3 // 4096 * 4096
    model = {f"weight.{number}": torch.full((shard,), 2, dtype=torch.uint8) for number in range(3)}
    assert sum(map(len, model.values())) <= free
    with pytest.raises(DiskFullError):
        perdure.save_weights(model, path, shard_bytes=shard)
    assert tree(room.folder) == before and holds(path, OLD)
    room.more()
    perdure.save_weights(model, path, shard_bytes=shard)
    assert holds(path, model)


def test_a_checkpoint_for_which_there_is_no_room(room: Room) -> None:
    path = room.folder / "state.safetensors"
    perdure.save_checkpoint({"epoch": 1}, path)
    before = tree(room.folder)
    with pytest.raises(DiskFullError, match=r"\d+ bytes are needed"):
        perdure.save_checkpoint({"epoch": 2, "weights": new(25 * MB)}, path)
    assert tree(room.folder) == before and perdure.load_checkpoint(path) == {"epoch": 1}
    room.more()
    perdure.save_checkpoint({"epoch": 2, "weights": new(25 * MB)}, path)
    assert perdure.load_checkpoint(path)["epoch"] == 2


def test_a_small_file_on_a_disk_without_a_byte(tmp_path: Path) -> None:
    with limited_files(tmp_path, 1000):
        with pytest.raises(DiskFullError, match=r"\d+ bytes are needed"):
            perdure.save_weights(OLD, tmp_path / "model.safetensors")
        assert os.listdir(tmp_path) == []


def test_a_full_device_behind_an_open_file() -> None:
    with open("/dev/full", "wb", buffering=0) as file:
        found = raised(lambda: perdure.save_weights(OLD, file))
    assert isinstance(found, PerdureError), repr(found)
    assert "full" in str(found) and "free" not in str(found)


def test_a_full_disk_under_a_folder_of_shards_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DiskFullError) as caught:
        perdure.save_weights(OLD, tmp_path / "shards")
    assert f"saving {tmp_path / 'shards'}:" in str(caught.value) and "10 are free" in str(caught.value)


# Folders that cannot be written to


def refused(call: Callable[[], object], error: type[PerdureError], folder: Path, says: str = "") -> str:
    """See that a call raises exactly this error, names the path, and changes nothing in a folder."""
    before = tree(folder)
    found = raised(call)
    assert type(found) is error, repr(found)
    assert says in str(found), str(found)
    assert tree(folder) == before
    return str(found)


MODELS = [new(MB), new(60 * MB)]


def check_that_nothing_can_be_written(folder: Path, says: str = "permissions") -> None:
    for path in (folder / "model.safetensors", folder / "fresh.safetensors", folder / "shards", folder / "fresh"):
        for model in MODELS:
            message = refused(lambda: perdure.save_weights(model, path), StorageError, folder, says)  # noqa: B023
            assert str(path) in message
        refused(lambda: perdure.save_checkpoint({"a": 1}, path), StorageError, folder, says)  # noqa: B023
    assert holds(folder / "model.safetensors", OLD) and holds(folder / "shards", OLD)


@contextmanager
def open_folder() -> Iterator[Path]:
    """Give a folder that any user may read; those of pytest are private."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def unprivileged(call: Callable[[], None]) -> None:
    """Run a call in a process without root's rights, for which permissions mean something."""
    perdure.info, perdure.check, perdure.load_checkpoint  # noqa: B018 - imported while that may be done
    process = os.fork()
    if process == 0:
        status = 1
        try:
            torch.set_num_threads(1)  # its others did not come along
            if os.geteuid() == 0:
                os.setgid(65534)
                os.setuid(65534)
            call()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    assert os.waitpid(process, 0)[1] == 0


def test_a_folder_without_permission_to_write_is_a_typed_error() -> None:
    with open_folder() as folder:
        perdure.save_weights(OLD, folder / "model.safetensors")
        perdure.save_weights(OLD, folder / "shards")
        folder.chmod(0o555)
        (folder / "shards").chmod(0o555)
        unprivileged(lambda: check_that_nothing_can_be_written(folder))
        folder.chmod(0o777)
        (folder / "shards").chmod(0o777)

        def retry() -> None:
            perdure.save_weights(MODELS[0], folder / "model.safetensors")
            perdure.save_weights(MODELS[0], folder / "shards")

        unprivileged(retry)
        assert holds(folder / "model.safetensors", new(MB)) and holds(folder / "shards", new(MB))


def test_a_folder_without_permission_to_enter_is_a_typed_error() -> None:
    with open_folder() as folder:
        inner = folder / "private"
        inner.mkdir()
        perdure.save_weights(OLD, inner / "model.safetensors")
        perdure.save_weights(OLD, inner / "shards")
        inner.chmod(0o700)

        def attempt() -> None:
            inner.chmod(0o000) if os.geteuid() == inner.stat().st_uid else None
            for path in (inner / "model.safetensors", inner / "shards", inner / "other", inner / "other.safetensors"):
                for call in (
                    lambda: perdure.open(path),  # noqa: B023
                    lambda: perdure.load_weights(torch.nn.Identity(), path),  # noqa: B023
                    lambda: perdure.load_checkpoint(path),  # noqa: B023
                    lambda: perdure.info(path),  # noqa: B023
                    lambda: perdure.check(path),  # noqa: B023
                    lambda: perdure.save_weights(OLD, path),  # noqa: B023
                ):
                    found = raised(call)
                    assert type(found) is StorageError, (path, repr(found))
                    assert str(path) in str(found) and "permissions" in str(found)

        unprivileged(attempt)
        inner.chmod(0o700)


def test_a_file_without_permission_to_read_is_a_typed_error() -> None:
    with open_folder() as folder:
        path = folder / "model.safetensors"
        perdure.save_weights(OLD, path)
        path.chmod(0o000)

        def attempt() -> None:
            for call in (perdure.open, perdure.info, perdure.check, perdure.load_checkpoint):
                found = raised(lambda: call(path))  # noqa: B023
                assert type(found) is StorageError and "permissions" in str(found), repr(found)

        unprivileged(attempt)


@pytest.mark.parametrize("mount_", [mount] * MOUNTS)
def test_a_read_only_file_system_is_a_typed_error(mount_: Callable[..., None], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    perdure.save_weights(OLD, folder / "model.safetensors")
    perdure.save_weights(OLD, folder / "shards")
    mount_("--bind", str(folder), str(folder))
    try:
        mount_("-o", "remount,bind,ro", str(folder))
        check_that_nothing_can_be_written(folder, "read-only")
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
    perdure.save_weights(new(MB), folder / "model.safetensors")
    assert holds(folder / "model.safetensors", new(MB))


# The wrong thing in place


def test_no_folder_is_a_typed_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "model.safetensors", tmp_path / "none" / "model", tmp_path / "a" / "b" / "c"):
        for n_bytes in (MB, 60 * MB):
            message = refused(lambda: perdure.save_weights(new(n_bytes), path), MissingFileError, tmp_path)  # noqa: B023
            assert str(path) in message and "the folder does not exist" in message
        for call in (perdure.open, perdure.check, perdure.info, perdure.load_checkpoint):
            assert str(path) in refused(lambda: call(path), MissingFileError, tmp_path)  # noqa: B023


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.mkdir()
    (path / "inside").write_text("kept")
    for n_bytes in (MB, 60 * MB):
        refused(lambda: perdure.save_weights(new(n_bytes), path), PathError, tmp_path, "it is a folder")  # noqa: B023
    refused(lambda: perdure.open(path), MissingFileError, tmp_path, str(path))


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_text("kept")
    refused(lambda: perdure.save_weights(OLD, path), PathError, tmp_path, "it is a file")
    refused(lambda: perdure.save_weights(OLD, path / "below.safetensors"), MissingFileError, tmp_path, str(path))
    refused(lambda: perdure.save_weights(OLD, path / "below"), MissingFileError, tmp_path, str(path))


ENDINGS = ["pt", "pth", "bin", "ckpt", "pkl", "onnx", "safetensor", "SAFETENSORS", "json", "0", "tar.gz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_endings_are_refused_and_the_right_one_proposed(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"model.{ending}"
    for save in (perdure.save_weights, perdure.save_checkpoint):
        message = refused(lambda: save(OLD, path), PathError, tmp_path, str(path))  # noqa: B023
        assert re.search(r"\.safetensors\b", message)


@pytest.mark.parametrize("text", ["", ".", "/", "model\0.safetensors", "model\0", "\ud800.safetensors", "\ud800"])
def test_names_that_are_none_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for call in (
        lambda: perdure.save_weights(OLD, text),
        lambda: perdure.save_checkpoint({"a": 1}, text),
        lambda: perdure.open(text),
        lambda: perdure.check(text),
        lambda: perdure.info(text),
        lambda: perdure.load_weights(torch.nn.Linear(1, 1), text),
    ):
        found = raised(call)
        assert isinstance(found, PerdureError), repr(found)
        assert os.listdir(tmp_path) == []


def test_names_that_are_too_long_are_refused_and_those_that_just_fit_are_taken(tmp_path: Path) -> None:
    for text in ("x" * 300, "x" * 300 + ".safetensors", "x" * 256):
        path = tmp_path / text
        refused(lambda: perdure.save_weights(OLD, path), StorageError, tmp_path, "too long")  # noqa: B023
        for call in (perdure.open, perdure.check, perdure.info):
            assert isinstance(raised(lambda: call(path)), StorageError)  # noqa: B023
    for text in ("x" * 243, "漢" * 81, "é" * 121, "🦀" * 60):
        path = tmp_path / f"{text}.safetensors"
        perdure.save_weights(OLD, path)
        assert holds(path, OLD)
        path.unlink()
        assert os.listdir(tmp_path) == []


def test_links_that_lead_in_a_circle_are_refused(tmp_path: Path) -> None:
    for one, two in (("a.safetensors", "b.safetensors"), ("a", "b")):
        (tmp_path / one).symlink_to(two)
        (tmp_path / two).symlink_to(one)
        for path in (tmp_path / one, tmp_path / one / "below.safetensors"):
            for call in (
                lambda: perdure.save_weights(OLD, path),  # noqa: B023
                lambda: perdure.open(path),  # noqa: B023
                lambda: perdure.check(path),  # noqa: B023
            ):
                found = raised(call)
                assert isinstance(found, StorageError | PathError), (path, repr(found))


def test_a_single_file_that_would_hide_a_sharded_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    perdure.save_weights(OLD, path / "model.safetensors")
    message = refused(lambda: perdure.save_weights(new(MB), path, shard_bytes=MB), PathError, tmp_path, str(path))
    assert "model.safetensors" in message and "Move it away" in message
    refused(lambda: perdure.save_checkpoint({"a": 1}, path), PathError, tmp_path, "Move it away")
    (path / "model.safetensors").rename(path / "other.safetensors")
    perdure.save_weights(new(MB), path)
    assert holds(path / "model.safetensors.index.json", new(MB))


def test_an_index_that_cannot_be_understood_is_replaced_or_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "model"
    index = path / "model.safetensors.index.json"
    for content in (
        b"",
        b"garbage",
        b"[]",
        b'{"weight_map":{"a":"../../x"}}',
        b'{"weight_map":{"a":"mine.safetensors"}}',
    ):
        path.mkdir(exist_ok=True)
        (path / "mine.safetensors").write_bytes(b"mine")
        index.write_bytes(content)
        perdure.save_weights(new(MB), path)
        assert holds(index, new(MB)) and (path / "mine.safetensors").read_bytes() == b"mine"
        assert perdure.check(path).verdict == "damaged"  # since that file cannot be read
    index.unlink()
    index.mkdir()
    found = raised(lambda: perdure.save_weights(OLD, path))
    assert isinstance(found, PathError) and str(found).startswith("saving"), repr(found)
    assert index.is_dir()


# Few open files


@contextmanager
def no_descriptors_left(n_left: int) -> Iterator[None]:
    """Let this process open only so many files more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    kept = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (kept[0] + 1 + n_left, before[1]))
    try:
        while True:  # those below the limit that are free
            try:
                kept.append(os.dup(0))
            except OSError as error:
                assert error.errno == errno.EMFILE
                break
        for _ in range(n_left):
            os.close(kept.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in kept:
            os.close(descriptor)


def test_too_many_open_files_is_a_typed_error_and_passes(tmp_path: Path) -> None:
    path, single = tmp_path / "model", tmp_path / "one.safetensors"
    model = {f"t{n}": torch.full((10,), n) for n in range(40)}
    perdure.save_weights(model, path, shard_bytes=80)
    perdure.save_weights(OLD, single)
    calls = (
        lambda: perdure.save_weights(OLD, single),
        lambda: perdure.save_weights(model, path, shard_bytes=80),
        lambda: dict(perdure.open(path)),
        lambda: perdure.load_weights(torch.nn.Identity(), path, strict=False),
        lambda: perdure.check(path),
    )
    assert [raised(call) for call in calls] == [None] * 5
    n_before = len(os.listdir("/proc/self/fd"))
    for n_left in range(4):
        for call in calls:
            with no_descriptors_left(n_left):
                error = raised(call)
                assert error is None or type(error) is StorageError, repr(error)
                assert n_left or "Too many open files" in str(error)
                error = None  # it holds what the call held
                gc.collect()
            assert holds(single, OLD) and holds(path, model)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == n_before
    perdure.save_weights(OLD, single)
    perdure.save_weights(model, path, shard_bytes=80)
    assert len(os.listdir(path)) == 41 and len(os.listdir(tmp_path)) == 2
