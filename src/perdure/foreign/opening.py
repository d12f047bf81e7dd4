"""Files of every kind are opened by what they hold, not by how they are called; folders by what lies in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from perdure.disk.faults import enough_memory, translated
from perdure.disk.sources import ByteSource, open_source, usable_path
from perdure.disk.stored import Stored, StoredTensors, with_stored
from perdure.errors import CorruptError, FileError, FormatError, UnsafeError
from perdure.foreign.gguf.files import MAGIC as GGUF_MAGIC
from perdure.foreign.gguf.files import read_gguf
from perdure.foreign.inert import Content, Use
from perdure.foreign.numpy_files import MAGIC as NPY_MAGIC
from perdure.foreign.numpy_files import npz_folder, read_npy, read_npz
from perdure.foreign.pickles.files import is_pickle, may_be_old_pickle, read_pickle
from perdure.foreign.pickles.verdicts import judge
from perdure.foreign.placed import ForeignStored
from perdure.foreign.pytorch.distributed import METADATA_NAME, distributed_folder, read_distributed
from perdure.foreign.pytorch.distributed_safetensors import chunk_files, read_distributed_safetensors
from perdure.foreign.pytorch.exported import program_folder, read_exported
from perdure.foreign.pytorch.legacy_files import is_torch_legacy, read_torch_legacy
from perdure.foreign.pytorch.packages import package_folder, read_torch_package
from perdure.foreign.pytorch.script import read_torch_script, script_folder
from perdure.foreign.pytorch.script_json import json_script_folder, read_json_script
from perdure.foreign.pytorch.sharded_bin import INDEX_ENDING, find_pickled, read_sharded_bin
from perdure.foreign.pytorch.tar_files import is_torch_tar, read_torch_tar
from perdure.foreign.pytorch.zip_files import folder_of, read_torch_zip
from perdure.foreign.zips.archives import Archive, read_zip
from perdure.foreign.zips.other_members import look_into

T = TypeVar("T")
_FIRST_BYTES = 512


def open_stored(origin: object, *, sealed: bool = True) -> StoredTensors:
    """Open the tensors of a file or a folder of any kind that is read, headers alone, without running anything.

    Args:
        origin: a path, bytes, or a seekable binary file.
        sealed: see `disk.stored.Stored`.

    Raises:
        FormatError: of no kind that is read.
        CorruptError: damaged, or made to deceive.
        UnsafeError: unpickling it would run something.
        MissingFileError, StorageError: the system has no such file, or refused.
    """
    folder = _folder(origin)
    if folder is not None:
        return _open_folder(folder, sealed)
    source = open_source(origin)
    try:
        if not is_foreign(source):
            return Stored(source, sealed=sealed)
        return _placed(partial(read_content, source), source.where)
    except BaseException:
        source.close()
        raise


def with_any(origin: object, use: Callable[[StoredTensors], T], *, sealed: bool = True) -> T:
    """Open a file of any kind, use it and close it; see `disk.stored.with_stored`."""
    return with_stored(origin, use, partial(open_stored, sealed=sealed))


def _folder(origin: object) -> Path | None:
    """Return the path of a folder, or of what stands for one: an index, or the metadata of a distributed checkpoint."""
    if not isinstance(origin, str | os.PathLike):
        return None
    path = usable_path(origin)
    with translated("reading", str(path)):
        is_index = path.name.endswith(".index.json") or path.name == METADATA_NAME
        return path if is_index or path.is_dir() else None


def _open_folder(path: Path, sealed: bool) -> StoredTensors:
    read = folder_reader(path)
    if read is not None:
        return _placed(read, str(path))
    lone = _pickled_in(path)
    return open_stored(lone, sealed=sealed) if lone else Stored(path, sealed=sealed)


def folder_reader(path: Path) -> Callable[[list[Use]], Content] | None:
    """Return what reads a folder, or an index, whose files belong together; None for safetensors files, or a lone file.

    Raises:
        PathError: several models are in it.
    """
    with translated("reading", str(path)):
        distributed = distributed_folder(path)
        if distributed is not None:
            return partial(read_distributed, distributed)
        chunked = chunk_files(path) if path.is_dir() else []
        if chunked:
            return lambda uses: read_distributed_safetensors(path, chunked)
        pickled = _pickled_in(path)
        if pickled is not None and pickled.name.endswith(INDEX_ENDING):
            return lambda uses: read_sharded_bin(pickled, uses, read_content)
        return None


def _pickled_in(path: Path) -> Path | None:
    """Return the index, or the lone file, of a folder of pickles; where there are safetensors files too, those count."""
    if not path.is_dir():
        return path if path.name.endswith(INDEX_ENDING) else None
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in os.listdir(path)):
        return None
    return find_pickled(path)


def _placed(read: Callable[[list[Use]], Content], where: str) -> ForeignStored:
    """Read a file, and take what is in it unless it would run something; that is said first, whatever else is wrong."""
    uses: list[Use] = []
    try:
        with translated("reading", where), enough_memory(where):
            content = read(uses)
    except FileError:
        refuse_dangerous(uses, where)
        raise
    content.uses = tuple(dict.fromkeys(uses))
    try:
        refuse_dangerous(uses, where)
        with enough_memory(where):
            return ForeignStored(content, where)
    except BaseException:
        for source in content.sources:
            source.close()
        raise


def refuse_dangerous(uses: list[Use], where: str) -> None:
    """Refuse a file that would run something.

    Raises:
        UnsafeError: naming what it would call.
    """
    found = [finding for finding in judge(list(dict.fromkeys(uses))) if finding.severity == "dangerous"]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        said = "; ".join(finding.sentence for finding in found[:3])
        raise UnsafeError(
            f"reading {where}: unpickling it would run code: {said}{more}. Nothing was run, and nothing of it is used. Take "
            f"the file from somebody you trust; `perdure check` lists all that it names."
        )


def is_foreign(source: ByteSource) -> bool:
    """Tell a file of another kind from a safetensors file, and from what is none at all."""
    return _reader_of(source) is not None


def read_content(source: ByteSource, uses: list[Use]) -> Content:
    """Read a file of another kind than safetensors.

    Args:
        source: the file.
        uses: receives what its pickles name, also where reading fails.

    Raises:
        FormatError, CorruptError, LimitError: as `open_stored`.
    """
    read = _reader_of(source)
    if read is None:
        raise FormatError(f"reading {source.where}: it begins like no kind of file that is read.")
    with enough_memory(source.where):
        content = read(source, uses)
    content.sources = (source,)
    return content


_Read = Callable[[ByteSource, list[Use]], Content]


def _reader_of(source: ByteSource) -> _Read | None:
    """Tell from a file's first bytes which reader takes it; none takes a safetensors file, or what is of no kind."""
    first = source.read(0, min(_FIRST_BYTES, source.n_bytes))
    header_bytes = int.from_bytes(first[:8], "little")
    if first[8:9] == b"{" and header_bytes < source.n_bytes:
        return None  # safetensors, though its length may begin like something else
    for takes, read in _KINDS:
        if takes(first):
            return read
    return _read_old_pickle if may_be_old_pickle(first) and header_bytes > source.n_bytes else None


def _read_old_pickle(source: ByteSource, uses: list[Use]) -> Content:
    """Read what may be a pickle of protocol 0 or 1, which nothing but its opcodes tells from any text."""
    try:
        return read_pickle(source, uses)
    except CorruptError:
        if uses:
            raise
        raise FormatError(
            f"reading {source.where}: it is of no kind that is read; it begins with "
            f"{source.read(0, min(20, source.n_bytes))!r}. Name a file of weights."
        ) from None


ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")


def _read_zip(source: ByteSource, uses: list[Use]) -> Content:
    archive = read_zip(source, source.where)
    try:
        content = _read_archive(archive, source, uses)
    except FileError:
        look_into(archive, (), uses)
        raise
    content.unread += look_into(archive, content.members, uses)
    return content


def _read_archive(archive: Archive, source: ByteSource, uses: list[Use]) -> Content:
    for find_folder, read in _IN_ZIPS:
        folder = find_folder(archive)
        if folder is not None:
            return read(archive, folder, source.where, uses)
    raise FormatError(
        f"reading {source.where}: a zip archive of no kind that is read (of torch.save, TorchScript, .pt2, .npz …); it "
        f"holds {', '.join(list(archive.members)[:5]) or 'nothing'}."
    )


_IN_ZIPS: tuple[tuple[Callable[[Archive], str | None], Callable[[Archive, str, str, list[Use]], Content]], ...] = (
    (script_folder, read_torch_script),
    (folder_of, read_torch_zip),
    (program_folder, read_exported),
    (package_folder, read_torch_package),
    (json_script_folder, read_json_script),
    (npz_folder, lambda archive, folder, where, uses: read_npz(archive)),
)
"""What archives hold, in the order in which it is looked for: where in an archive it is, and its reader."""

_KINDS: tuple[tuple[Callable[[bytes], bool], _Read], ...] = (
    (lambda first: first.startswith(ZIP_BEGINNINGS), _read_zip),
    (lambda first: first.startswith(GGUF_MAGIC), lambda source, uses: read_gguf(source, source.where)),
    (lambda first: first.startswith(NPY_MAGIC), lambda source, uses: read_npy(source, source.where)),
    (is_torch_tar, read_torch_tar),
    (is_torch_legacy, read_torch_legacy),
    (is_pickle, read_pickle),
)
"""The kinds of single files, in the order in which they are looked for: what tells one by its beginning, and its reader."""
