"""What our own builder of a known name may answer to a call, apart from the value itself or `NotImplemented`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from perdure.foreign.inert import Made, Named

Builder = Callable[..., Any]
"""Takes the arguments that the file gives and returns an inert value; `NotImplemented` where the record of the call is
value enough. Raises ValueError, with a sentence, for arguments that no writer gives."""


class MisuseError(Exception):
    """A known name is called in another way than the one that is known to be harmless."""


@dataclasses.dataclass(frozen=True)
class Forward:
    """The call stands for another one.

    Attributes:
        what: what is called instead.
        args: its arguments.
        how: `"called"` or `"instance"`.
        state: given to the object that it makes.
        becomes: the class that the object would be turned into, where the file names one.
    """

    what: Any
    args: tuple[Any, ...]
    how: str = "called"
    state: Any = None
    becomes: Any = None


@dataclasses.dataclass(frozen=True)
class Later:
    """The value comes with the state; `finish` makes it from that, or returns `NotImplemented`."""

    finish: Callable[[Any], Any]


class Unfinished(Made):
    """A record whose value is made of the state that it gets; it stays what it is where no value can be made."""

    def __init__(self, what: Named, args: tuple[Any, ...], how: str, finish: Callable[[Any], Any]) -> None:
        super().__init__(what, args, called=how == "called")
        self.finish = finish
        self.value: Any = self


def keep(*_args: Any) -> Any:
    """Build nothing: the record of the call is kept. It is harmless, whatever the arguments."""
    return NotImplemented
