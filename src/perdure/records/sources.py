"""Where the code of a model came from: a fingerprint of each class and module, and their text where that was asked for."""

from __future__ import annotations

import msgspec

from perdure.errors import CorruptError


class Source(msgspec.Struct, frozen=True, omit_defaults=True):
    """The code of one class or function.

    Attributes:
        fingerprint: BLAKE3 of its syntax, comments, layout and docstrings left aside; empty where no source was found.
        bases: the classes that it inherits from, PyTorch's and Python's own left out, by their dotted names.
        modules: the Python modules outside of installed packages that its own module reaches.
        origin: the distribution and version, or the commit, that it came from; empty where that is not known.
        text: its source, where that was asked for.
        file: BLAKE3 of the text of the module that it stands in.
    """

    fingerprint: str = ""
    bases: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    origin: str = ""
    text: str = ""
    file: str = ""


class Sources(msgspec.Struct, frozen=True, omit_defaults=True):
    """The code of a model: its classes with their bases, its functions, and the modules that these reach."""

    code: dict[str, Source] = {}
    modules: dict[str, Source] = {}


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Sources)


def encode(sources: Sources) -> bytes:
    """Return the record as JSON."""
    return _encoder.encode(sources)


def decode(content: bytes, where: str) -> Sources:
    """Read the record; `where` names the file in messages.

    Raises:
        CorruptError: it is none.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its record of sources cannot be read ({str(error)[:200]}).") from None


def changed(saved: Sources, present: Sources) -> tuple[str, ...]:
    """Name the classes, functions and modules whose code is not what it was, in the order in which they were saved."""
    found = [
        name
        for then, now in ((saved.code, present.code), (saved.modules, present.modules))
        for name, source in then.items()
        if source.fingerprint and name in now and now[name].fingerprint not in ("", source.fingerprint)
    ]
    return tuple(dict.fromkeys(found))


def unseen(saved: Sources, present: Sources) -> tuple[str, ...]:
    """Name the classes, functions and modules whose code cannot be compared: one of the two has no source."""
    return tuple(
        name
        for then, now in ((saved.code, present.code), (saved.modules, present.modules))
        for name, source in then.items()
        if not source.fingerprint or name not in now or not now[name].fingerprint
    )
