"""Saves that are interrupted, stopped, raced and refused half-way: the old file whole, or the new one, and no rest."""

from __future__ import annotations

import _thread
import gc
import io
import os
import random
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch

import perdure
from fault import interrupted_saver
from fault.interrupted_saver import N_LARGE, tensors
from perdure.disk.crew import run_in_threads
from perdure.disk.files import write_file
from perdure.disk.memory import Piece
from perdure.disk.writing import Item
from perdure.errors import ConflictError, InputError


def values_of(path: Path) -> set[float]:
    """Return the values of a model, which is whole."""
    report = perdure.check(path)
    assert report.ok, report
    with perdure.open(path) as weights:
        return {float(edge) for tensor in weights.values() for edge in tensor.aminmax()}


def temporary(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.endswith(".perdure-tmp")]


def files_in(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return inode, size and time of all files: a file that is the same in all three was not touched."""
    found = {entry.name: entry.stat() for entry in os.scandir(folder)}
    return {name: (status.st_ino, status.st_size, status.st_mtime_ns) for name, status in found.items()}


def folder_of(path: Path) -> Path:
    return path.parent if path.suffix else path


@contextmanager
def saver(verb: str, path: Path, *numbers: int) -> Iterator[subprocess.Popen[str]]:
    """Start a process of `interrupted_saver.py`; it has imported torch and made its model when the block begins."""
    command = [sys.executable, str(interrupted_saver.__file__), verb, str(path), *map(str, numbers)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def say(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin
    process.stdin.write(line + "\n")
    process.stdin.flush()


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    ready, _, _ = select.select([process.stdout], [], [], 60)
    assert ready, "it hangs"
    return process.stdout.readline().strip()


# Ctrl-C


@pytest.mark.parametrize("name", ["model.safetensors", "model"], ids=["file", "folder"])
def test_ctrl_c_ends_a_large_save_and_leaves_the_old_model(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    perdure.save_weights(tensors(1, N_LARGE), path, shard_bytes=None if path.suffix else 20_000_000)
    n_interrupted = 0
    with saver("interrupt", path) as process:
        say(process, "60")
        begun = time.perf_counter()
        first = hear(process).split()
        seconds = time.perf_counter() - begun
        assert first[0] == "saved" and values_of(path) == {2}
        draw = random.Random(name)
        for _ in range(15):
            perdure.save_weights(tensors(1, N_LARGE), path, shard_bytes=None if path.suffix else 20_000_000)
            before = files_in(folder_of(path))
            say(process, str(draw.uniform(0.002, seconds)))
            outcome, n_files, n_threads = hear(process).split()
            after = files_in(folder_of(path))
            assert temporary(folder_of(path)) == []
            if after == before:
                assert outcome == "interrupted"
                n_interrupted += 1
            else:  # it came after the renaming, or too late
                assert values_of(path) == {2}
            assert abs(int(n_files) - int(first[1])) <= 1 and abs(int(n_threads) - int(first[2])) <= 1
            seconds *= 1.0 if outcome == "interrupted" else 0.8
    assert n_interrupted >= 4


class Interrupter:
    """Raises KeyboardInterrupt when the n-th line of perdure's own code is about to run in this thread."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        # Python looks for signals after calls and jumps, so none comes between the lines of a descriptor's `close`.
        return self._lines if "/perdure/" in name and not name.endswith("/disk/held.py") else None

    def _lines(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_code.co_name != "__del__":  # where Python swallows what is raised
            self._left -= 1
            if self._left == 0:
                self.where = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno} {frame.f_code.co_name}"
                raise KeyboardInterrupt
        return self._lines


def interrupted_at(nth: int, call: Callable[[], object]) -> str:
    """Run a call with an interrupt at its n-th line; returns where that was, or nothing if it ended before."""
    interrupter = Interrupter(nth)
    before = sys.gettrace()
    sys.settrace(interrupter)
    try:
        call()
    except KeyboardInterrupt:
        return interrupter.where
    finally:
        sys.settrace(before)
    assert not interrupter.where, f"{interrupter.where}: the interrupt was swallowed"
    return ""


CLEARING = ("_clear_orphans", "_remove", "clear_stale", "read_index")


@pytest.mark.parametrize(
    "kind, stride",
    [
        ("small", 1),
        pytest.param("folder", 1, marks=pytest.mark.slow),
        pytest.param("large", 29, marks=pytest.mark.slow),
        pytest.param("large", 1, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_at_any_line_of_a_save_leaves_no_rest(kind: str, stride: int, tmp_path: Path) -> None:
    path = tmp_path / ("model" if kind == "folder" else "model.safetensors")
    n_large = 9 if kind == "large" else 0
    models = [{**tensors(value, n_large), "more": torch.full((9,), float(value))} for value in (1, 2)]
    options = {"shard_bytes": 30} if kind == "folder" else {}
    perdure.save_weights(models[1], path, **options)
    perdure.save_weights(models[0], path, **options)
    n_threads = threading.active_count()
    odd, old, new, nth = {}, 0, 0, 0
    while True:
        nth += stride
        before = files_in(folder_of(path))
        where = interrupted_at(nth, lambda: perdure.save_weights(models[1], path, **options))
        if not where:
            break
        after = files_in(folder_of(path))
        if after == before:
            old += 1
        else:
            new += 1
            allowed = set(after) - set(before) if where.endswith(CLEARING) else set()
            left = set(temporary(folder_of(path))) | (set(after) - set(before) - names_of(path) - allowed)
            if left or values_of(path) not in ({1}, {2}):
                odd[where] = sorted(left)
        assert threading.active_count() == n_threads, where
        if values_of(path) == {2}:
            perdure.save_weights(models[0], path, **options)
        for name in temporary(folder_of(path)):
            (folder_of(path) / name).unlink()
    assert odd == {}
    assert old > 100 // stride and (new >= 1 or stride > 1)


def names_of(path: Path) -> set[str]:
    """Return the files that a model consists of."""
    return {path.name} if path.suffix else {"model.safetensors.index.json", *perdure.info(path).files}


# Errors from inside


def broken_item(name: str, n_bytes: int, n_good: int, error: BaseException) -> Item:
    """Return a tensor that fails while it is materialised, after so many pieces."""
    content = torch.zeros(2**20, dtype=torch.uint8)

    def pieces() -> Iterator[Piece]:
        for _ in range(n_good):
            yield Piece(content.data_ptr(), 2**20, content)
        raise error

    return Item(name, "U8", (n_bytes,), n_bytes, pieces)


@pytest.mark.parametrize("n_bytes", [2 * 2**20, 20 * 2**20, 60 * 2**20], ids=["small", "plain", "direct"])
@pytest.mark.parametrize("error", [RuntimeError("out of memory"), MemoryError(), KeyboardInterrupt(), SystemExit(1)])
def test_a_tensor_that_fails_while_it_is_read_leaves_the_old_file(
    n_bytes: int, error: BaseException, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(1, 1), path)
    before = files_in(tmp_path)
    n_threads, n_files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for n_good in (0, 1, n_bytes // 2**20 - 1):
        item = broken_item("broken", n_bytes, n_good, error)
        with pytest.raises(type(error)) as caught:
            write_file(path, [item], lambda digests: {})
        assert caught.value is error
        assert files_in(tmp_path) == before
    assert (threading.active_count(), len(os.listdir("/proc/self/fd"))) == (n_threads, n_files)
    assert values_of(path) == {1}


def test_a_description_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(1, 1), path)
    before = files_in(tmp_path)
    content = torch.zeros(40 * 2**20, dtype=torch.uint8)
    item = Item("a", "U8", (len(content),), len(content), lambda: [Piece(content.data_ptr(), len(content), content)])
    calls = []

    def describe(digests: object) -> dict[str, str]:
        calls.append(digests)
        if len(calls) == 2:
            raise ZeroDivisionError
        return {}

    with pytest.raises(ZeroDivisionError):
        write_file(path, [item], describe)
    assert files_in(tmp_path) == before


# Several at once


def test_two_savers_at_once_on_one_file_both_finish_and_readers_see_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(0, 3), path)
    with saver("race", path, 1, 25) as one, saver("race", path, 2, 25) as two:
        say(one, "go")
        say(two, "go")
        seen = set()
        n_reads = 0
        while one.poll() is None or two.poll() is None:
            (value,) = values_of_any(path)
            seen.add(value)
            n_reads += 1
        assert hear(one).split() == ["25", "0"] and hear(two).split() == ["25", "0"]
    assert os.listdir(tmp_path) == ["model.safetensors"]
    assert values_of(path) in ({1}, {2})
    assert n_reads > 10 and seen & {1, 2}


def values_of_any(path: Path) -> set[float]:
    """Return the values of the file as it is at this moment, all of it verified."""
    with perdure.open(path, map=False) as weights:
        weights.verify(full=True)
        return {float(edge) for tensor in weights.values() for edge in tensor.aminmax()}


@pytest.mark.parametrize("n_bytes", [2**20, 12 * 2**20, 40 * 2**20])
def test_a_model_that_changes_while_it_is_saved_gives_a_whole_file(n_bytes: int, tmp_path: Path) -> None:
    """As one that other threads train. Some moment of each element is saved, and the file does not contradict itself."""
    path = tmp_path / "model.safetensors"
    model = {"a": torch.zeros(n_bytes // 8), "b": torch.zeros(n_bytes // 8)}
    done = threading.Event()

    def train() -> None:
        while not done.is_set():
            for tensor in model.values():
                tensor.add_(1)

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(5):
            perdure.save_weights(model, path)
            assert perdure.check(path).ok
    finally:
        done.set()
        thread.join()


def test_a_file_object_that_gets_a_tensor_while_it_changes_is_told() -> None:
    model = {"a": torch.zeros(9), "b": torch.zeros(9)}

    class Changing(io.BytesIO):
        def write(self, content: Any) -> int:
            model["b"].add_(1)
            return super().write(content)

    with pytest.raises(InputError, match="'b' changed while it was saved"):
        perdure.save_weights(model, Changing())


def test_two_savers_at_once_on_one_folder_take_turns_or_say_so(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(tensors(0, 3), path, shard_bytes=5_000_000)
    with saver("race", path, 1, 30) as one, saver("race", path, 2, 30) as two:
        say(one, "go")
        say(two, "go")
        results = [tuple(map(int, hear(process).split())) for process in (one, two)]
    assert [n_saved for n_saved, _ in results] == [30, 30]
    assert values_of(path) in ({1}, {2})
    assert set(os.listdir(path)) == names_of(path)


@contextmanager
def stopped(path: Path, value: int) -> Iterator[subprocess.Popen[str]]:
    """Give a process that is stopped in the middle of a save."""
    with saver("once", path, value) as process:
        say(process, "go")
        deadline = time.monotonic() + 30
        while not temporary(folder_of(path)) and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.05)
        assert temporary(folder_of(path)), "it was too fast"
        yield process


def test_a_living_savers_temporary_file_is_left_alone_and_a_dead_ones_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(1, 1), path)
    with stopped(path, 2) as process:
        held = temporary(tmp_path)
        perdure.save_weights(tensors(3, 1), path)
        assert temporary(tmp_path) == held
        assert values_of(path) == {3}
        process.send_signal(signal.SIGCONT)
        assert hear(process) == "saved"
    assert values_of(path) == {2} and os.listdir(tmp_path) == [path.name]
    with stopped(path, 4) as process:
        process.kill()
        process.wait()
        (left,) = temporary(tmp_path)
        perdure.save_weights(tensors(5, 1), tmp_path / "other.safetensors")
        assert temporary(tmp_path) == [left]  # another file's saver does not clear it
        perdure.save_weights(tensors(5, 1), path)
    assert sorted(os.listdir(tmp_path)) == ["model.safetensors", "other.safetensors"]
    assert values_of(path) == {5}


def test_a_folder_that_somebody_is_saving_into_is_a_conflict(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(tensors(1, N_LARGE), path, shard_bytes=20_000_000)
    before = files_in(path)
    with stopped(path, 2) as process:
        during = files_in(path)
        with pytest.raises(ConflictError) as caught:
            perdure.save_weights(tensors(3, 1), path)
        assert str(path) in str(caught.value) and "another process" in str(caught.value)
        assert files_in(path) == during and before.items() <= during.items()
        assert values_of(path) == {1}
        process.send_signal(signal.SIGCONT)
        assert hear(process) == "saved"
    assert values_of(path) == {2} and set(os.listdir(path)) == names_of(path)
    with stopped(path, 4) as process:
        process.kill()
        process.wait()
        assert values_of(path) == {2} and set(os.listdir(path)) > names_of(path)
        perdure.save_weights(tensors(5, 1), path)
    assert values_of(path) == {5} and set(os.listdir(path)) == names_of(path)


def test_threads_of_one_process_may_save_at_once(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(value: int) -> None:
        try:
            for _ in range(5):
                perdure.save_weights(tensors(value, 1), tmp_path / "one.safetensors")
                perdure.save_weights(tensors(value, 1), tmp_path / f"own{value}", shard_bytes=100)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert values_of(tmp_path / "one.safetensors") <= {0, 1, 2, 3}
    assert all(values_of(tmp_path / f"own{value}") == {value} for value in range(4))
    assert temporary(tmp_path) == []


# What stays as it was


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("n_large", [0, 9], ids=["small", "large"])
def test_the_mode_of_an_existing_file_is_kept(n_large: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    for mode in (0o640, 0o600, 0o444, 0o777, 0o644):
        perdure.save_weights(tensors(1, n_large), path)
        path.chmod(mode)
        perdure.save_weights(tensors(2, n_large), path)
        assert mode_of(path) == mode and values_of(path) == {2}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002, 0o000, 0o027])
def test_a_new_file_has_the_mode_that_the_umask_leaves(mask: int, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        perdure.save_weights(tensors(1, 0), tmp_path / "model.safetensors")
        perdure.save_weights(tensors(1, 0), tmp_path / "model")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "model.safetensors") == 0o666 & ~mask
    assert mode_of(tmp_path / "model") == 0o777 & ~mask
    assert {mode_of(path) for path in (tmp_path / "model").iterdir()} == {0o666 & ~mask}


def test_the_owner_of_an_existing_file_is_kept_where_that_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(1, 0), path)
    owner = (4321, 8765) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)
    path.chmod(0o640)
    perdure.save_weights(tensors(2, 0), path)
    assert (path.stat().st_uid, path.stat().st_gid) == owner and mode_of(path) == 0o640


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("n_large", [0, 9], ids=["small", "large"])
def test_a_link_is_followed_to_the_real_file(relative: bool, n_large: int, tmp_path: Path) -> None:
    real = tmp_path / "real" / "weights.safetensors"
    link = tmp_path / "links" / "latest.safetensors"
    real.parent.mkdir()
    link.parent.mkdir()
    link.symlink_to(Path("../real/weights.safetensors") if relative else real)
    second = tmp_path / "second.safetensors"
    second.symlink_to(link)
    for value, target in ((1, link), (2, link), (3, second)):  # the first time it leads to nothing
        perdure.save_weights(tensors(value, n_large), target)
        assert link.is_symlink() and second.is_symlink() and not real.is_symlink()
        assert values_of(real) == {value}
        assert os.listdir(real.parent) == ["weights.safetensors"] and os.listdir(link.parent) == ["latest.safetensors"]


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    for value in (1, 2):
        perdure.save_weights(tensors(value, 0), tmp_path / "link")
        assert values_of(tmp_path / "real") == {value} and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("n_large", [0, 9], ids=["small", "large"])
def test_who_has_mapped_the_old_file_keeps_its_values(n_large: int, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(1, n_large), path)
    weights = perdure.open(path)
    first = weights["small"]
    for value in (2, 3):
        perdure.save_weights(tensors(value, n_large), path)
    late = {name: weights[name] for name in weights}  # touched only now
    assert all(bool((tensor == 1).all()) for tensor in (first, *late.values()))
    weights.verify(full=True)
    weights.close()
    assert all(bool((tensor == 1).all()) for tensor in (first, *late.values()))
    assert values_of(path) == {3}


def test_a_folder_that_is_open_keeps_the_shards_that_it_has_opened(tmp_path: Path) -> None:
    path = tmp_path / "model"
    perdure.save_weights(tensors(1, 2), path, shard_bytes=5_000_000)
    weights = perdure.open(path)
    before = {name: weights[name] for name in weights}
    perdure.save_weights(tensors(2, 2), path, shard_bytes=5_000_000)
    assert all(bool((tensor == 1).all()) for tensor in before.values())
    assert all(bool((weights[name] == 1).all()) for name in weights)


def test_a_model_can_be_saved_over_the_file_that_its_own_tensors_map(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    perdure.save_weights(tensors(1, 9), path)
    with perdure.open(path) as weights:
        mapped = dict(weights)
        mapped["small"] += 1
        perdure.save_weights(mapped, path)
    with perdure.open(path) as weights:
        assert bool((weights["small"] == 2).all()) and bool((weights["large.8"] == 1).all())
    assert perdure.check(path).ok


def test_an_interrupt_at_any_line_of_a_crew_hangs_nothing() -> None:
    """Wherever it comes while threads are given work and told to stop; none may be waited for in vain."""
    ended: list[str] = []

    def sweep() -> None:
        nth = 0
        while interrupted_at(nth := nth + 1, lambda: run_in_threads([lambda: time.sleep(0.001)] * 12, 8)):
            pass
        ended.append("all")

    thread = threading.Thread(target=sweep, daemon=True)
    thread.start()
    thread.join(120)
    assert ended == ["all"]


def test_threads_go_where_an_interrupt_came_before_they_could_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    from perdure.disk.crew import Crew

    monkeypatch.setattr(Crew, "__exit__", interrupted)
    before = _thread._count()  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt), Crew(3) as crew:
        crew.submit(lambda: None)
    assert _thread._count() >= before  # type: ignore[attr-defined]
    del crew
    gc.collect()
    deadline = time.monotonic() + 10
    while _thread._count() > before and time.monotonic() < deadline:  # type: ignore[attr-defined]
        time.sleep(0.01)
    assert _thread._count() == before  # type: ignore[attr-defined]
