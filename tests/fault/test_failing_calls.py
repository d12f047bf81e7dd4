"""Each system call of a save fails once, or from then on: a typed error, the old file whole, and the next save works."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fault import failing_saver, shim
from fault.places import once, ram_folder

KINDS = ("small", "large", "folder")
HARMLESS = {
    ("posix_fallocate", "EOPNOTSUPP"),  # the file system does not know it
    ("pwrite", "EINTR"),
    ("flock", "ENOLCK"),  # no locks here
    ("flock", "EWOULDBLOCK"),  # somebody else is just clearing up; on a folder it is another saver
}
FULL = ("ENOSPC", "EDQUOT", "EFBIG")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    text = once(tmp_path_factory, "failing_calls", lambda: _run(tmp_path_factory.mktemp("failing")))
    return [json.loads(line) for line in text.splitlines()]


def _run(folder: Path) -> str:
    with ram_folder(folder) as ram:
        command = [sys.executable, str(failing_saver.__file__), str(folder), str(ram)]
        done = subprocess.run(command, capture_output=True, text=True, env=shim.environment(folder), check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def outcomes(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line for line in lines if "calls" not in line]


def failed(outcome: dict[str, Any]) -> bool:
    return bool(outcome["raised"])


def goes_the_plain_way(outcome: dict[str, Any]) -> bool:
    """Tell whether the failing call tries out whether O_DIRECT works, or is told that it does not."""
    direct = (outcome["kind"], outcome["call"]) == ("large", "pwrite")
    return direct and (outcome["nth"] == 1 or outcome["error"] == "EINVAL")


def conflicts(outcome: dict[str, Any]) -> bool:
    """Tell whether the failing call is the lock of a folder, which another saver then has."""
    return [outcome[key] for key in ("kind", "call", "nth", "error")] == ["folder", "flock", 1, "EWOULDBLOCK"]


def test_each_call_of_a_save_was_made_to_fail(outcomes: list[dict[str, Any]]) -> None:
    for kind in KINDS:
        calls = {outcome["call"] for outcome in outcomes if outcome["kind"] == kind}
        assert calls >= {"create", "pwrite", "fsync", "rename", "posix_fallocate", "open", "flock"}, kind
    assert "ftruncate" in {outcome["call"] for outcome in outcomes}
    assert len(outcomes) > 150


def test_what_is_raised_is_a_storage_error(outcomes: list[dict[str, Any]]) -> None:
    (conflict,) = filter(conflicts, outcomes)
    assert conflict["raised"] == "ConflictError"
    odd = [
        outcome for outcome in outcomes
        if failed(outcome) and not conflicts(outcome) and "StorageError" not in outcome["bases"]
    ]  # fmt: skip
    assert odd == []
    odd = [
        outcome for outcome in outcomes
        if failed(outcome) and (outcome["raised"] == "DiskFullError") != (outcome["error"] in FULL)
    ]  # fmt: skip
    assert odd == []


def test_a_call_that_matters_does_not_fail_in_silence(outcomes: list[dict[str, Any]]) -> None:
    matters = ("create", "posix_fallocate", "pwrite", "ftruncate", "fsync", "rename")
    odd = [
        outcome for outcome in outcomes
        if not failed(outcome) and outcome["call"] in matters and not goes_the_plain_way(outcome)
        and (outcome["call"], outcome["error"]) not in HARMLESS
    ]  # fmt: skip
    assert odd == []


def test_what_the_system_merely_does_not_know_is_done_without(outcomes: list[dict[str, Any]]) -> None:
    found = [
        outcome for outcome in outcomes
        if (goes_the_plain_way(outcome) or (outcome["call"], outcome["error"]) in HARMLESS) and not conflicts(outcome)
    ]  # fmt: skip
    assert len(found) > 20
    assert [outcome for outcome in found if failed(outcome) or not outcome["new"]] == []


def test_a_save_that_failed_leaves_the_old_model_byte_for_byte(outcomes: list[dict[str, Any]]) -> None:
    """Only what fails after the renaming, the fsync of the folder, finds the new one in place, and that is whole."""
    odd = []
    for outcome in outcomes:
        if failed(outcome) and not (outcome["old"] and outcome["tidy"]):
            after_rename = outcome["call"] in ("fsync", "open") and outcome["new"]
            if not after_rename:
                odd.append(outcome)
    assert odd == []
    assert sum(failed(outcome) and outcome["old"] for outcome in outcomes) > 100


def test_a_message_that_says_nothing_was_changed_is_true(outcomes: list[dict[str, Any]]) -> None:
    odd = [outcome for outcome in outcomes if "Nothing was changed" in outcome["message"] and not outcome["old"]]
    assert odd == []


def test_a_save_that_worked_left_nothing_but_the_new_model(outcomes: list[dict[str, Any]]) -> None:
    worked = [outcome for outcome in outcomes if not failed(outcome)]
    assert [outcome for outcome in worked if not outcome["new"]] == []
    removed = [outcome for outcome in worked if outcome["call"] not in ("unlink", "open")]  # else it cannot clear up
    assert [outcome for outcome in removed if not outcome["tidy"]] == []


def test_the_next_save_works(outcomes: list[dict[str, Any]]) -> None:
    assert [outcome for outcome in outcomes if not outcome["retried"]] == []


def test_a_full_disk_says_how_many_bytes_are_needed(outcomes: list[dict[str, Any]]) -> None:
    full = [
        outcome
        for outcome in outcomes
        if outcome["raised"] == "DiskFullError" and "is in place" not in outcome["message"]
    ]
    assert len(full) > 30
    sizes = {"small": 4096, "large": failing_saver.LARGE_ELEMENTS * 4, "folder": 100}
    for outcome in full:
        (needed,) = re.findall(r"(\d+) bytes are needed", outcome["message"])
        least = sizes[outcome["kind"]]
        assert least < int(needed) < least + 10_000, outcome


# What survives a power cut follows from the order of the calls


def position(calls: list[str], call: str, path: str) -> list[int]:
    return [number for number, line in enumerate(calls) if re.fullmatch(f"{call} {path}", line)]


@pytest.mark.parametrize("kind", KINDS)
def test_files_are_flushed_before_they_are_named_and_names_after(lines: list[dict[str, Any]], kind: str) -> None:
    (calls,) = (line["calls"] for line in lines if line["kind"] == kind and "calls" in line)
    renames = [line.partition(" ")[2] for line in calls if line.startswith("rename")]
    assert len(renames) == (1 if kind != "folder" else 1 + 3)
    for target in renames:
        folder, _, name = target.rpartition("/")
        temporary = re.escape(f"{folder}/.{name}.") + r"\w+\.perdure-tmp"
        (renamed,) = position(calls, "rename", re.escape(target))
        writes = position(calls, "(?:pwrite|ftruncate|posix_fallocate)", temporary)
        (flushed,) = position(calls, "fsync", temporary)
        assert writes and max(writes) < flushed < renamed
        assert any(number > renamed for number in position(calls, "fsync", re.escape(folder)))
    if kind == "folder":
        # The index is named when all shards are durable, and the old ones go when the index is.
        (committed,) = position(calls, "rename", r".*/model\.safetensors\.index\.json")
        folder_flushes = position(calls, "fsync", re.escape(renames[0].rpartition("/")[0]))
        shards = position(calls, "rename", r".*/model-.*\.safetensors")
        removed = position(calls, "unlink", r".*/model-.*\.safetensors")
        assert any(max(shards) < number < committed for number in folder_flushes)
        assert removed and any(committed < number < min(removed) for number in folder_flushes)
