"""System calls that fail, or kill the process, at the n-th time: `shim.c`, compiled by the test and preloaded.

Where there is no C compiler, Python's own functions for these calls are wrapped instead.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

KILLS = {"": 0, "before": 1, "after": 2}


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a process in which the shim is loaded; it is compiled into `folder`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return dict(os.environ)
    library = folder / "shim.so"
    source = Path(__file__).with_name("shim.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return {**os.environ, "LD_PRELOAD": str(library)}


class Shim:
    """The shim as seen from within the process."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self._library: Any = library if hasattr(library, "shim_arm") else Wrapped()

    def arm(self, folder: Path, call: str, nth: int, *, error: int = 0, always: bool = False, kill: str = "") -> None:
        """From now on the n-th such call on files below a folder fails, or kills; `"any"` is any call."""
        self._library.shim_arm(str(folder).encode(), call.encode(), nth, error, always, KILLS[kill])

    def disarm(self) -> int:
        """Let all calls pass again; returns how many there were."""
        n_calls = self._library.shim_count()
        self._library.shim_arm(b"", b"", 0, 0, False, 0)
        return n_calls

    def log(self, descriptor: int) -> None:
        """Write a line with the name and the path of each call on files below the folder."""
        self._library.shim_log(descriptor)


class Wrapped:
    """The same in Python."""

    def __init__(self) -> None:
        self._folder, self._call, self._count, self._log = "", "", 0, -1
        for name, call in {
            "open": "open", "posix_fallocate": "posix_fallocate", "pwritev": "pwrite", "pwrite": "pwrite",
            "write": "write", "fsync": "fsync", "ftruncate": "ftruncate", "fchmod": "fchmod", "replace": "rename",
            "unlink": "unlink", "mkdir": "mkdir",
        }.items():  # fmt: skip
            setattr(os, name, self._wrap(call, getattr(os, name)))

    def _wrap(self, call: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            creates = call == "open" and len(arguments) > 1 and arguments[1] & os.O_CREAT
            dies = self._meets("create" if creates else call, arguments[1 if call == "rename" else 0])
            result = real(*arguments, **named)
            if dies:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    def _meets(self, call: str, file: Any) -> bool:
        path = os.readlink(f"/proc/self/fd/{file}") if isinstance(file, int) else os.fspath(file)
        if not self._folder or not path.startswith(self._folder):
            return False
        if self._log >= 0:
            os.writev(self._log, [f"{call} {path}\n".encode()])
        if self._call not in (call, "any"):
            return False
        self._count += 1
        if self._count != self._nth and not (self._always and self._count > self._nth):
            return False
        if self._kill == KILLS["before"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._error:
            raise OSError(self._error, os.strerror(self._error), path)
        return self._kill == KILLS["after"]

    def shim_arm(self, folder: bytes, call: bytes, nth: int, error: int, always: bool, kill: int) -> None:
        self._folder, self._call, self._nth = folder.decode(), call.decode(), nth
        self._error, self._always, self._kill, self._count = error, always, kill, 0

    def shim_count(self) -> int:
        return self._count

    def shim_log(self, descriptor: int) -> None:
        self._log = descriptor
