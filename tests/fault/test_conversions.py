"""Conversions on a disk without room, and interrupted ones: the old file stays whole and nothing is left beside it."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import perdure
from perdure.disk import capabilities
from perdure.errors import DiskFullError

MB = 2**20
TARGETS = ["new.safetensors", "new.pth", "new.npz"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.safetensors"
    perdure.save_weights({"x": torch.arange(6 * MB, dtype=torch.int32), "y": torch.ones(9)}, path)
    return path


@contextmanager
def limited(n_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("preallocated", [True, False])
@pytest.mark.parametrize("target", TARGETS)
def test_no_room(source: Path, target: str, preallocated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not preallocated:
        monkeypatch.setattr(capabilities, "PREALLOCATION", False)
    path = source.with_name(target)
    path.write_bytes(b"old")
    before = sorted(os.listdir(source.parent))
    with limited(10 * MB), pytest.raises(DiskFullError, match=r"\d{8} bytes are needed"):
        perdure.convert(source, path)
    assert path.read_bytes() == b"old" and sorted(os.listdir(source.parent)) == before
    perdure.convert(source, path)
    assert path.stat().st_size > 24 * MB and sorted(os.listdir(source.parent)) == before


@pytest.mark.parametrize("after", [1, 4, 6])
@pytest.mark.parametrize("target", [*TARGETS, "folder"])
def test_interrupted(source: Path, target: str, after: int) -> None:
    path = source.with_name(target)
    if target != "folder":
        path.write_bytes(b"old")
    before = sorted(os.listdir(source.parent))
    calls = iter(range(1, 100))

    def interrupt(n_bytes: int, total_bytes: int) -> None:
        if next(calls) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        perdure.convert(source, path, progress=interrupt)
    assert sorted(os.listdir(source.parent)) == before and (target == "folder" or path.read_bytes() == b"old")
    perdure.convert(source, path)


def test_a_source_that_is_cut_meanwhile(source: Path) -> None:
    size = source.stat().st_size

    def cut(n_bytes: int, total_bytes: int) -> None:
        os.truncate(source, size // 2)

    with pytest.raises(perdure.errors.CorruptError, match="it ends at byte"):
        perdure.convert(source, source.with_name("new.pth"), progress=cut)
    assert os.listdir(source.parent) == [source.name]


def test_the_mode_of_the_old_file_is_kept(source: Path) -> None:
    path = source.with_name("new.pth")
    path.write_bytes(b"old")
    path.chmod(0o640)
    perdure.convert(source, path)
    assert path.stat().st_mode & 0o777 == 0o640
