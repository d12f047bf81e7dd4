"""Opens all attacks in one process, in which every import, call of code, process, connection and write is noted."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from attacks.attack import Place
from attacks.benign import write_benign
from attacks.corpus import ATTACKS
from attacks.verbs import VERBS, answer

_RUNNING = (
    *("import", "exec", "compile", "marshal.", "pickle.find_class", "code.__new__", "function.__new__"),
    *("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile", "pty.spawn"),
    *("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "ssl.", "webbrowser.", "sqlite3."),
    *("ctypes.dlopen", "ctypes.dlsym", "ctypes.call_function"),
    *("os.putenv", "os.unsetenv", "os.kill", "signal.", "sys.settrace", "sys.setprofile"),
)
_CHANGING = (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate"),
    *("shutil.", "tempfile."),
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_ROOM_BYTES = 768 * 2**20


class Watch:
    """Notes events while something is being watched; `writes` where it is what writes a file."""

    def __init__(self) -> None:
        self.subject = ""
        self.writes = False
        self.noted: list[tuple[str, str, str]] = []

    def __call__(self, event: str, args: Sequence[Any]) -> None:
        changes = event.startswith(_CHANGING) or (event == "open" and _writes(args))
        if self.subject and (event.startswith(_RUNNING) or (changes and not self.writes)):
            self.noted.append((self.subject, event, ascii(args)[:200]))


def _writes(args: Sequence[Any]) -> bool:
    _, mode, flags = args
    return (isinstance(mode, str) and any(letter in mode for letter in "wax+")) or bool(flags & _WRITING)


def main(folder: Path) -> None:
    for path in write_benign(folder):
        for verb in VERBS:
            answer(verb, path)
    places = {name: Place(folder / str(n) / "in", folder / f"{n}.touched") for n, name in enumerate(ATTACKS)}
    paths: dict[str, Path] = {}
    for name, place in places.items():
        place.folder.mkdir(parents=True)
        paths[name] = ATTACKS[name].write(place)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _ROOM_BYTES,) * 2)
    watch = Watch()
    sys.addaudithook(watch)
    for name, path in paths.items():
        watch.subject = name
        for verb in VERBS:
            watch.writes = verb == "convert"
            answer(verb, path)
        watch.subject = ""
    touched = [name for name, place in places.items() if os.path.lexists(place.marker)]
    print(json.dumps({"n_attacks": len(paths), "events": watch.noted, "touched": touched}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
