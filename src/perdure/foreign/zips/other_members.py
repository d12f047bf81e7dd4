"""Members of an archive that its reader has no use for: what somebody else's reader would unpickle is looked into."""

from __future__ import annotations

import re
from collections.abc import Collection

from perdure.errors import FileError
from perdure.foreign.inert import Use
from perdure.foreign.pickles.files import interpret_whole, is_pickle
from perdure.foreign.zips.archives import Archive, Member

_PICKLE_ENDINGS = (".pkl", ".pickle", ".p", ".pt", ".pth", ".bin", ".ckpt", ".joblib")
_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"7z\xbc\xaf\x27\x1c", b"\x1f\x8b", b"Rar!", b"BZh", b"\xfd7zXZ")
_CODE_ENDINGS = (".py", ".pyc", ".so", ".dll", ".pyd", ".dylib")
_STORAGE = re.compile(r"(?:.*/)?(?:data|constants|tensors|storages|weights)/(?:\d+|[\w.]*weight_\d+)")
"""Names under which archives keep the bytes of tensors."""


def look_into(archive: Archive, read: Collection[str], uses: list[Use]) -> tuple[str, ...]:
    """Interpret the pickles among the members that were not read.

    Args:
        archive: it.
        read: the members that were, or will be.
        uses: receives what the others name.

    Returns:
        A sentence for each member of which nothing can be said.
    """
    said = [
        _look_into(member, uses)
        for name, member in archive.members.items()
        if name not in read and not _STORAGE.fullmatch(name)
    ]
    return tuple(filter(None, said))


def _look_into(member: Member, uses: list[Use]) -> str:
    name = ascii(member.name[:200])
    if member.name.endswith(_CODE_ENDINGS):
        return f"its member {name} is code."
    try:
        first = member.source.read(member.position, min(16, member.n_bytes))
        if first.startswith(_ARCHIVES):
            return f"its member {name} is an archive, which was not looked into."
        if is_pickle(first) or member.name.endswith(_PICKLE_ENDINGS):
            start, stop = member.position, member.position + member.n_bytes
            interpret_whole(member.source, start, stop, member.where, uses=uses)
    except FileError as error:
        if member.name.endswith(_PICKLE_ENDINGS):
            return f"its member {name} looks like a pickle and cannot be read ({error})."
    return ""
