"""How commands show that they are at work: a bar on a terminal, for what takes longer than a moment."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_MOMENT_SECONDS = 1.0

Progress = Callable[[int, int], None]
"""Told, from any thread, how many bytes are done anew and how many there are in all."""


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress | None]:
    """Show a bar where errors go to a terminal, once the work has taken a second; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as shown:
        yield _Progress(shown).add


class _Progress:
    """What is done so far, and the bar that shows it, once there is one."""

    def __init__(self, shown: contextlib.ExitStack) -> None:
        self._shown = shown
        self._lock = threading.Lock()
        self._due = time.monotonic() + _MOMENT_SECONDS
        self._done = 0
        self._bar: Any = None
        self._task: Any = None

    def add(self, n_bytes: int, total_bytes: int) -> None:
        with self._lock:
            self._done += n_bytes
            if self._bar is None and time.monotonic() >= self._due:
                self._bar = self._shown.enter_context(_bar())
                self._task = self._bar.add_task("", total=total_bytes)
            if self._bar is not None:
                self._bar.update(self._task, completed=self._done, total=total_bytes)


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)
