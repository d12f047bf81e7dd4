"""How commands show that they are at work: a bar on a terminal, for what takes longer than a moment."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

_MOMENT_SECONDS = 1.0

Progress = Callable[[int, int], None]
"""Told, from any thread, how many bytes or images are done anew, and how many there are in all: 0 where nobody knows."""


@contextlib.contextmanager
def shown_progress(unit: Literal["bytes", "images"] = "bytes") -> Iterator[Progress | None]:
    """Show a bar where errors go to a terminal, once the work has taken a second; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as shown:
        yield _Progress(shown, unit).add


class _Progress:
    """What is done so far, and the bar that shows it, once there is one."""

    def __init__(self, shown: contextlib.ExitStack, unit: str) -> None:
        self._shown = shown
        self._unit = unit
        self._lock = threading.Lock()
        self._due = time.monotonic() + _MOMENT_SECONDS
        self._done = 0
        self._bar: Any = None
        self._task: Any = None

    def add(self, n_done: int, n_total: int) -> None:
        with self._lock:
            self._done += n_done
            if self._bar is None and time.monotonic() >= self._due:
                self._bar = self._shown.enter_context(_bar(self._unit))
                self._task = self._bar.add_task("", total=n_total or None)
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done, total=n_total or None)


def _bar(unit: str) -> Any:
    from rich import progress
    from rich.console import Console

    if unit == "bytes":
        figures = (progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn())
    else:
        figures = (progress.MofNCompleteColumn(), progress.TextColumn(unit))
    columns = (progress.BarColumn(), *figures, progress.TimeRemainingColumn())
    return progress.Progress(*columns, console=Console(stderr=True), transient=True)
