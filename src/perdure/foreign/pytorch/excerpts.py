"""Files within files: a stretch of a source as a source of its own, and archives of `torch.save` that lie in one."""

from __future__ import annotations

import msgspec

from perdure.disk.sources import ByteSource
from perdure.errors import FormatError
from perdure.foreign.inert import Content, Use
from perdure.foreign.pytorch.zip_files import folder_of, read_torch_zip
from perdure.foreign.zips.archives import Archive, Member, read_zip


class Excerpt(ByteSource):
    """A stretch of another source.

    Args:
        source: the other one; it stays the caller's.
        position: where the stretch begins; a caller has seen that the source has all of it.
        n_bytes: its length.
        where: names it in messages.
    """

    def __init__(self, source: ByteSource, position: int, n_bytes: int, where: str) -> None:
        self.where, self.n_bytes, self.parallel = where, n_bytes, source.parallel
        self._source, self._position = source, position

    def read_some(self, offset: int, views: list[memoryview]) -> int:
        n_bytes = min(len(views[0]), self.n_bytes - offset)
        return self._source.read_some(self._position + offset, [views[0][:n_bytes]]) if n_bytes > 0 else 0


def read_inner_zip(source: ByteSource, position: int, n_bytes: int, where: str, uses: list[Use]) -> Content:
    """Read an archive of `torch.save` that lies within another file.

    Args:
        source: the file.
        position: where the archive begins in it.
        n_bytes: its length; a caller has seen that the file has all of it.
        where: names it in messages.
        uses: receives what its pickle names, also where reading fails.

    Returns:
        What it holds; its tensors lie in `source` itself wherever they are not compressed, so that they can be mapped.

    Raises:
        FormatError: it is no archive of `torch.save`.
        CorruptError, UnsafeError, LimitError: as `read_zip` and `read_torch_zip`.
    """
    excerpt = Excerpt(source, position, n_bytes, where)
    if excerpt.read(0, min(4, n_bytes)) != b"PK\x03\x04":
        raise FormatError(f"reading {where}: it should be a zip archive of torch.save, and is none.")
    archive = read_zip(excerpt, where)
    members = {name: _rooted(member, excerpt, source, position) for name, member in archive.members.items()}
    folder = folder_of(archive)
    if folder is None:
        raise FormatError(f"reading {where}: a zip archive of torch.save was expected, and it has no data.pkl.")
    archive = Archive(source, where, members)
    content = read_torch_zip(archive, folder, where, uses)
    content.archives = (archive,)
    return content


def _rooted(member: Member, excerpt: Excerpt, source: ByteSource, position: int) -> Member:
    if member.source is not excerpt:
        return member
    return msgspec.structs.replace(member, source=source, position=position + member.position)
