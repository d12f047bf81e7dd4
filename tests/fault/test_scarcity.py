"""Threads, memory and descriptors that the system does not give, and file objects that cannot be used."""

from __future__ import annotations

import _thread
import io
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import perdure
from fault.test_headers import raised
from perdure.disk import faults, memory
from perdure.disk.crew import Crew, finish
from perdure.disk.sources import BytesSource
from perdure.errors import InputError, StorageError

LARGE = {"w": torch.arange(3_000_000.0)}


@pytest.mark.parametrize("n_given", [0, 1, 5])
def test_fewer_threads_than_were_asked_for(n_given: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, left = _thread.start_new_thread, [n_given]

    def starting(*arguments: Any) -> int:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", starting)
    n_before = _thread._count()
    path = tmp_path / "it.safetensors"
    perdure.save_weights(LARGE, path)
    left[0] = n_given
    model = torch.nn.Module()
    model.register_buffer("w", torch.zeros(3_000_000))
    perdure.load_weights(model, path)
    assert torch.equal(model.w, LARGE["w"])
    left[0] = n_given
    assert perdure.check(path).ok
    assert _thread._count() == n_before


def test_threads_are_told_to_stop_when_starting_them_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    start, left = _thread.start_new_thread, [2]

    def starting(*arguments: Any) -> int:
        if not left[0]:
            time.sleep(0.5)  # those before it are there by then
            raise KeyboardInterrupt
        left[0] -= 1
        return start(*arguments)

    monkeypatch.setattr(_thread, "start_new_thread", starting)
    n_before = _thread._count()
    with pytest.raises(KeyboardInterrupt), Crew(4):
        pass
    assert _thread._count() == n_before


def test_a_job_without_a_thread_says_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    def starting(*arguments: Any) -> int:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", starting)
    done: list[int] = []
    with pytest.raises(ZeroDivisionError), Crew(2) as crew:
        finish([crew.submit(lambda: done.append(1)), crew.submit(lambda: done.append(1 // 0))])
    assert done == [1]


def test_memory_that_is_not_there_is_a_storage_error() -> None:
    with pytest.raises(StorageError, match=r"reading here: .*memory"):
        BytesSource(b"", "here").read(0, 2**62)
    with pytest.raises(StorageError, match=r"reading here: more memory"), faults.enough_memory("here"):
        raise MemoryError
    with pytest.raises(StorageError, match=r"saving there: \d+ bytes of memory .*Free memory\.$"):
        memory.allocate(2**62, "there", "saving")


def test_what_a_save_says_without_memory(tmp_path: Path) -> None:
    script = """
import resource, sys, torch, perdure
tensors = {"w": torch.zeros(3_000_000)}
perdure.save_weights(tensors, sys.argv[1])
used = int(open("/proc/self/statm").read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (used + 2 * 2**20,) * 2)
try:
    perdure.save_weights(tensors, sys.argv[1])
except perdure.errors.StorageError as error:
    print(error)
"""
    path = tmp_path / "it.safetensors"
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)
    assert f"saving {path}: " in done.stdout and "memory" in done.stdout, done
    assert os.listdir(tmp_path) == [path.name]


SHARDS = """
import resource, sys, torch, perdure
resource.setrlimit(resource.RLIMIT_NOFILE, (140, 140))
model = torch.nn.Module()
for n in range(300):
    model.register_buffer(f"t{n}", torch.zeros(10))
assert perdure.check(sys.argv[1]).ok
assert perdure.info(sys.argv[1]).n_bytes
perdure.load_weights(model, sys.argv[1])
assert all(float(model.get_buffer(f"t{n}")[0]) == n for n in range(300))
opened = perdure.open(sys.argv[1], map=False)
assert all(float(opened[f"t{n}"][0]) == n for n in range(300)) and float(opened["t3"][1]) == 3
"""


def test_more_shards_than_files_may_be_open(tmp_path: Path) -> None:
    perdure.save_weights({f"t{n}": torch.full((10,), float(n)) for n in range(300)}, tmp_path / "model", shard_bytes=40)
    command = [sys.executable, "-c", SHARDS, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_limit_of_open_files_is_named(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    perdure.save_weights({"w": torch.ones(1)}, path)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        found = raised(lambda: perdure.open(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert isinstance(found, StorageError) and "at most 3 files open" in str(found)


# File objects


def test_info_and_check_of_bytes_and_file_objects(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    perdure.save_weights({"w": torch.ones(1)}, path)
    content = path.read_bytes()
    for verb in (perdure.info, perdure.check):
        assert verb(content).path == "bytes"  # type: ignore[arg-type]
        assert verb(io.BytesIO(content)).path == "<BytesIO>"  # type: ignore[arg-type]
        with path.open("rb") as file:
            assert verb(file).path == str(path)  # type: ignore[arg-type]


def test_file_objects_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    perdure.save_weights({"w": torch.ones(1)}, path)
    with path.open("rb") as reading:
        found = raised(lambda: perdure.save_weights({"w": torch.ones(1)}, reading))
        assert type(found) is InputError and "opened for reading" in str(found)
    for call in (perdure.open, perdure.load_checkpoint, lambda file: perdure.save_weights({"w": torch.ones(1)}, file)):
        found = raised(lambda: call(reading))  # noqa: B023
        assert type(found) is InputError and "closed" in str(found)
    with (tmp_path / "new").open("wb") as writing:
        found = raised(lambda: perdure.open(writing))
        assert type(found) is InputError and "opened for writing" in str(found)
    with path.open("rb") as reading:
        opened = perdure.open(reading)
    found = raised(lambda: opened["w"])
    assert type(found) is InputError and "closed" in str(found)


@pytest.mark.parametrize(
    ("name", "proposed"),
    [
        ("model-v1.5", "model-v1.5.safetensors"),
        ("model.pt", "model.safetensors"),
        ("model.safetensors.index.json", "model.safetensors"),
    ],
)
def test_the_name_that_is_proposed(name: str, proposed: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        perdure.save_weights({"w": torch.ones(1)}, tmp_path / name)
    assert f"Name it {tmp_path / proposed} for one file" in str(caught.value)


@pytest.mark.parametrize(
    "page",
    [b"\n\n<!DOCTYPE html><html></html>", b"<?xml version='1.0'?><Error/>", b'{"error":"Not Found"}', b"  <HTML><body>no</body>",
     b'{"message": "API rate limit exceeded"}'],
)  # fmt: skip
def test_the_answer_of_a_server_is_recognised(page: bytes) -> None:
    found = raised(lambda: perdure.open(page + b" " * 50))
    assert type(found) is perdure.errors.FormatError and "download" in str(found), found


def test_gzip_is_recognised() -> None:
    import gzip

    found = raised(lambda: perdure.open(gzip.compress(bytes(100))))
    assert type(found) is perdure.errors.FormatError and "gzip" in str(found), found
