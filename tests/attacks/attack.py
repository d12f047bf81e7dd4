"""What an attack is: a file that somebody means harm with, and how everybody has to answer it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from perdure.errors import PerdureError, UnsafeError

DANGEROUS, DAMAGED, NEEDS_CODE = "dangerous", "damaged", "needs code"


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an attack may write its files, and the file that its payload would make.

    Attributes:
        folder: an empty folder.
        marker: a path outside of it where nothing is.
    """

    folder: Path
    marker: Path

    @property
    def command(self) -> str:
        """Touches the marker, for a shell."""
        return f"touch {self.marker}"

    @property
    def source(self) -> str:
        """Touches the marker, in Python; a statement that is an expression too."""
        return f"open({str(self.marker)!r}, 'w').close()"

    def write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def script(self, name: str = "payload.py") -> Path:
        """Write a script whose run touches the marker."""
        return self.write(name, self.source.encode() + b"\n")


@dataclasses.dataclass(frozen=True)
class Attack:
    """A hostile file.

    Attributes:
        name: names it, once among all.
        group: its class.
        after: the published advisory or technique that it is modelled on.
        write: writes it and returns what is to be opened.
        verdicts: what check may say of it.
        errors: what the verbs may raise; none where they may succeed.
        runs: with which loader, if any, the marker is touched: `pickle`, `torch`, `numpy`.
    """

    name: str
    group: str
    after: str
    write: Callable[[Place], Path]
    verdicts: tuple[str, ...] = (DANGEROUS,)
    errors: tuple[type[PerdureError], ...] = (UnsafeError,)
    runs: str = ""


Writer = Callable[[Place], Path]


class Corpus:
    """Attacks in the order in which they were defined."""

    def __init__(self) -> None:
        self.attacks: dict[str, Attack] = {}

    def add(self, attack: Attack) -> None:
        assert attack.name not in self.attacks, attack.name
        self.attacks[attack.name] = attack
