"""Killed while saving: the file is the old one or the new one, whole, and the next save clears what was left.

`PERDURE_KILLS` says how often the random tests kill: 20 times in the ordinary run, 200 by `make kill-loop`.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import perdure
from fault import killed_saver, shim
from perdure.errors import MissingFileError

N_KILLS = int(os.environ.get("PERDURE_KILLS", "20"))
LARGE_BYTES = 120_000_000
SHARD_BYTES = 30_000_000
FOREIGN = {"config.json": b'{"mine": true}', "notes.txt": b"", "other-00001-of-00002.safetensors": b"not ours"}


class Saver:
    """The process of `killed_saver.py`."""

    def __init__(self, n_bytes: int, environment: dict[str, str] | None = None) -> None:
        command = [sys.executable, str(killed_saver.__file__), str(n_bytes)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._names = set(killed_saver.shapes(n_bytes))
        self._small: set[int] = set()

    def __call__(self, path: Path, value: int, **order: Any) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        (self._small.add if order.get("small") else self._small.discard)(value)
        self._process.stdin.write(json.dumps({"path": str(path), "value": value, **order}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def names(self, value: int) -> set[str]:
        """Return the names of the tensors that have this value."""
        return set(killed_saver.SMALL) if value in self._small else self._names

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        assert self._process.wait() == 0


@pytest.fixture(scope="module")
def large() -> Iterator[Saver]:
    saver = Saver(LARGE_BYTES)
    yield saver
    saver.close()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saver]:
    saver = Saver(0, shim.environment(tmp_path_factory.mktemp("shim")))
    yield saver
    saver.close()


def value_of(path: Path, saver: Saver) -> int | None:
    """Return the value of the one model that a file or folder holds, verified; None where there is none."""
    try:
        weights = perdure.open(path)
    except MissingFileError:
        return None
    with weights:
        names = set(weights)
        samples = [tensor.flatten()[::4999] for tensor in weights.values()]  # check reads the rest
        found = {edge.item() for sample in samples for edge in sample.aminmax()}
    assert len(found) == 1, found
    value = int(found.pop())
    assert names == saver.names(value)
    report = perdure.check(path)
    assert report.ok and report.n_tensors == len(names), report
    return value


def is_temporary(name: str) -> bool:
    return name.endswith(".perdure-tmp")


def settled(path: Path) -> None:
    """See that a whole save left nothing behind: the file alone, or index, its shards and the files of others."""
    if path.suffix:
        assert os.listdir(path.parent) == [path.name]
        return
    index = json.loads((path / "model.safetensors.index.json").read_text())
    shards = set(index["weight_map"].values())
    assert set(os.listdir(path)) == {"model.safetensors.index.json", *shards, *FOREIGN}
    assert {name: (path / name).read_bytes() for name in FOREIGN} == FOREIGN


def target(tmp_path: Path, kind: str) -> Path:
    """Return the path to save to, in a folder that holds nothing else, or that holds files of others."""
    if kind == "file":
        return tmp_path / "model.safetensors"
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in FOREIGN.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_killed_at_random_while_saving_over_an_existing_model(large: Saver, tmp_path: Path, kind: str) -> None:
    path = target(tmp_path, kind)
    options = {"shard_bytes": SHARD_BYTES} if kind == "folder" else {}
    draw = random.Random(kind).uniform
    seconds = [large(path, value, **options)["seconds"] for value in (1, 2, 3)][-1]
    value, n_killed, n_left, n_new = 3, 0, 0, 0
    for number in range(N_KILLS):
        answer = large(path, value + 1, delay=draw(0, seconds), **options)
        seconds = 1.1 * seconds if answer["killed"] else answer["seconds"]
        n_killed += answer["killed"]
        n_left += any(map(is_temporary, os.listdir(path if kind == "folder" else path.parent)))
        found = value_of(path, large)
        assert found == value + 1 if answer["saved"] else found in (value, value + 1), (number, found)
        n_new += found == value + 1
        value += 2
        answer = large(path, value, small=number % 5 != 4, **options)
        assert answer["saved"]
        settled(path)
        assert value_of(path, large) == value
    print(f"\n{kind}: {N_KILLS} saves, {n_killed} killed, {n_left} left temporary files, {n_new} were new")
    assert n_killed >= N_KILLS // 3
    assert n_left >= N_KILLS // 5


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("first", [True, False], ids=["new", "over"])
def test_killed_at_every_call(small: Saver, tmp_path: Path, kind: str, moment: str, first: bool) -> None:
    """Killed before and after each call that a save makes on the file system, one after another."""
    path = target(tmp_path, kind)
    options = {"shard_bytes": 200} if kind == "folder" else {}
    value: int | None = None
    n_calls, seen = 0, set()
    while True:
        n_calls += 1
        new = (value or 0) + 1
        order = {"call": "any", "nth": n_calls, "kill": moment, "below": str(tmp_path)}
        answer = small(path, new, **options, **order)
        found = value_of(path, small)
        if not answer["killed"]:
            assert answer["saved"] and found == new
            break
        assert found in (value, new), n_calls
        seen.add(found == new)
        if first:
            remove(path)
            continue
        value = new + 1
        assert small(path, value, **options)["saved"]
        settled(path)
        assert value_of(path, small) == value
    settled(path)
    assert n_calls > (8 if kind == "file" else 25)
    assert seen == {True, False}


def remove(path: Path) -> None:
    """Remove the model that was saved; what a killed saver left stays, for the next one to clear or to live with."""
    if path.suffix:
        path.unlink(missing_ok=True)
        return
    (path / "model.safetensors.index.json").unlink(missing_ok=True)
