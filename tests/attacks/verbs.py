"""What a user may do with a file that somebody sent, and what all of it answered."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch

import perdure
from perdure.errors import PerdureError
from perdure.summaries.files import summarize_file


def read_all(path: Path) -> None:
    """Open a file, read every tensor of it, and everything else."""
    with perdure.open(path) as weights:
        for name in weights:
            weights[name]
        _ = weights.extra


def target_of(path: Path) -> Path:
    """Return where a file is converted to: outside of the folder that it is in, or that it is."""
    return path.parent.parent / "converted.safetensors"


def _convert(path: Path) -> None:
    target = target_of(path)
    target.unlink(missing_ok=True)
    perdure.convert(path, target)


def _check(path: Path) -> str:
    return perdure.check(path).verdict


VERBS: dict[str, Callable[[Path], object]] = {
    "open": read_all,
    "info": perdure.info,
    "summarize": summarize_file,
    "load_weights": lambda path: perdure.load_weights(torch.nn.Linear(2, 2), path, strict=False),
    "load_checkpoint": perdure.load_checkpoint,
    "load": perdure.load,
    "convert": _convert,
    "diff": lambda path: perdure.diff(path, path),
    "check": _check,
}


def answer(verb: str, path: Path) -> tuple[object, float]:
    """Return what a verb answered, or the error that it raised, and the seconds of the processor that it took."""
    begun = time.process_time()
    try:
        given = VERBS[verb](path)
    except PerdureError as error:
        given = error
    return given, time.process_time() - begun
