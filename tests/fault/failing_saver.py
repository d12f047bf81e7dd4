"""A process whose system calls fail: every call of a save in turn, and what became of the file each time.

Prints one line of JSON for each save: what failed, what was raised, and what lay there afterwards.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import perdure
from fault.shim import Shim

LARGE_ELEMENTS = 8_500_000


@dataclasses.dataclass
class Outcome:
    """One save with one failing call."""

    kind: str
    call: str
    nth: int
    error: str
    always: bool
    raised: str = ""
    bases: tuple[str, ...] = ()
    message: str = ""
    old: bool = False
    """What lies there afterwards is the old model, byte for byte."""
    new: bool = False
    """What lies there afterwards is the new model, whole."""
    tidy: bool = False
    """Nothing lies beside the one or the other."""
    retried: bool = False
    """The next save worked, and nothing lay beside its files."""


def tensors(kind: str, value: int) -> dict[str, torch.Tensor]:
    large = {"large": torch.full((LARGE_ELEMENTS,), float(value))} if kind == "large" else {}
    return {"a": torch.full((30,), value), "b": torch.full((20,), value), "c": torch.full((5, 5), value), **large}


def content(path: Path) -> dict[str, bytes]:
    """Return all files that lie beside a file, or in a folder."""
    folder = path.parent if path.suffix else path
    return {entry.name: entry.read_bytes() for entry in sorted(folder.iterdir())} if folder.exists() else {}


def whole(path: Path, kind: str, value: int) -> bool:
    """Tell whether a path holds the model of this value."""
    if not path.exists() or not perdure.check(path).ok:
        return False
    with perdure.open(path) as weights:
        return all(torch.equal(weights[name], tensor) for name, tensor in tensors(kind, value).items())


def tidy(path: Path) -> bool:
    """Tell whether a path holds a model and nothing else."""
    n_files = 1 if path.suffix else 1 + len(perdure.info(path).files)
    return len(content(path)) == n_files


def save(path: Path, kind: str, value: int) -> None:
    perdure.save_weights(tensors(kind, value), path, shard_bytes=None if path.suffix else 200)


def attempt(shim: Shim, path: Path, outcome: Outcome) -> bool:
    """Save with one failing call; tells whether there was such a call."""
    kind = outcome.kind
    before = content(path)
    shim.arm(path.parent, outcome.call, outcome.nth, error=getattr(errno, outcome.error), always=outcome.always)
    try:
        save(path, kind, 2)
    except BaseException as error:
        outcome.raised = type(error).__name__
        outcome.bases = tuple(base.__name__ for base in type(error).__mro__)
        outcome.message = str(error)
    happened = shim.disarm() >= outcome.nth
    after = content(path)
    outcome.old = bool(before) and all(after.get(name) == value for name, value in before.items())
    outcome.new = not outcome.old and whole(path, kind, 2)
    outcome.tidy = tidy(path)
    save(path, kind, 1)
    outcome.retried = whole(path, kind, 1) and tidy(path)
    return happened


ERRORS = {
    "create": ("ENOSPC", "EMFILE", "EIO"),
    "flock": ("ENOLCK", "EWOULDBLOCK"),
    "posix_fallocate": ("ENOSPC", "EIO", "EOPNOTSUPP"),
    "pwrite": ("EIO", "ENOSPC", "EINTR", "EINVAL"),
    "ftruncate": ("EIO",),
    "fchmod": ("EPERM",),
    "fsync": ("EIO", "EDQUOT"),
    "rename": ("EIO", "EXDEV", "ENOSPC"),
    "open": ("EMFILE", "EIO"),
    "statvfs": ("EIO",),
    "unlink": ("EIO",),
}


def sweep(shim: Shim, path: Path, kind: str) -> Iterator[Outcome]:
    save(path, kind, 1)
    for call, errors in ERRORS.items():
        for error in errors:
            for always in (False, True):
                if always and (kind == "large" or error in ("EINTR", "EWOULDBLOCK")):
                    continue  # a large file takes its time; a system that always says so gets nowhere
                for nth in range(1, 100):
                    outcome = Outcome(kind, call, nth, error, always)
                    if not attempt(shim, path, outcome):
                        break
                    yield outcome
                    if kind == "large" and error != "EIO" and nth == 2:
                        break


def calls(shim: Shim, path: Path, kind: str) -> list[str]:
    """Return the calls of a save in order, each with the path that it concerns."""
    reading, writing = os.pipe()
    shim.log(writing)
    shim.arm(path.parent, "any", 10**6)
    save(path, kind, 3)
    shim.disarm()
    shim.log(-1)
    os.close(writing)
    with open(reading) as lines:
        return lines.read().splitlines()


def main(disk: Path, ram: Path) -> None:
    shim = Shim()
    perdure.save_weights({"a": torch.ones(1)}, io.BytesIO())  # gathers the environment, which opens files too
    for kind, folder in (("small", ram), ("large", disk), ("folder", ram)):
        path = folder / kind / ("model" if kind == "folder" else "model.safetensors")
        path.parent.mkdir()
        for outcome in sweep(shim, path, kind):
            print(json.dumps(dataclasses.asdict(outcome)))
        print(json.dumps({"kind": kind, "calls": calls(shim, path, kind)}))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
