"""Where these tests put their files, and what several of them share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def ram_folder(otherwise: Path) -> Iterator[Path]:
    """Give a folder in memory, where there is one: for tests that write some ten thousand small files."""
    if not os.access("/dev/shm", os.W_OK):
        yield otherwise
        return
    folder = Path(tempfile.mkdtemp(dir="/dev/shm"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[], str]) -> str:
    """Return a text that the first process of a parallel run to ask for it makes."""
    folder = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with open(folder / f"{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = folder / name
        with contextlib.suppress(FileNotFoundError):
            return kept.read_text()
        text = make()
        kept.write_text(text)
    return text
