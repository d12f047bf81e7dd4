"""A sharded model: a folder in Hugging Face's layout, whose index names the shard of each tensor.

Shard names carry the id of the save, so shards of two saves never mix. Renaming the index into place commits a save;
the shards of the save before go afterwards, and files of others stay.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from perdure.disk import header as headers
from perdure.disk.atomic import clear_stale, is_old, locked_folder, replacing, sync_folder
from perdure.disk.blobs import check_added
from perdure.disk.digests import Digests
from perdure.disk.faults import enough_memory, translate, translated
from perdure.disk.files import Written, write_file
from perdure.disk.seal import BLANK, DIGEST_KEY, MANIFEST_KEY, check_seal, seal
from perdure.disk.sources import PathSource
from perdure.disk.writing import Item, write_all
from perdure.errors import CorruptError, LimitError, MissingFileError, PathError, PerdureError
from perdure.records.manifest import Manifest, ShardRecord, decode

_INDEX_SUFFIX = ".safetensors.index.json"
INDEX_NAME = "model.safetensors.index.json"
SINGLE_NAME = "model.safetensors"
DEFAULT_SHARD_BYTES = 5 * 10**9
ANY_SHARD = re.compile(r".*-\d{5,}-of-\d{5,}\.safetensors")
"""What files of models in several files are called; one that no index names is left over from a save."""

_SHARD = re.compile(r"model-([0-9a-f]{12})-\d{5,}-of-\d{5,}\.safetensors")


class Index(NamedTuple):
    """A validated index: the shard of each tensor, the shards in order, what perdure says in it, and its size."""

    shard_of: dict[str, str]
    files: tuple[str, ...]
    metadata: dict[str, str]
    manifest: Manifest | None
    digest: str
    n_bytes: int


def find_index(path: Path) -> Path | None:
    """Return the file to open for a path: a folder's index or its only safetensors file; None for a path that is a file.

    Raises:
        MissingFileError: the folder has neither.
        PathError: the folder has several models.
    """
    with translated("reading", str(path)):
        if not path.is_dir():
            return path if path.name.endswith(".index.json") else None
        names = sorted(os.listdir(path))
    indexes = [name for name in names if name.endswith(_INDEX_SUFFIX)]
    files = [name for name in names if name.endswith(".safetensors")]
    singles = [name for name in files if not ANY_SHARD.fullmatch(name)]
    found = indexes + [name for name in singles if not indexes or name == SINGLE_NAME]
    if not found and files:
        raise MissingFileError(
            f"reading {path}: the folder has {len(files)} shards but no index of them ({INDEX_NAME}). Restore the index "
            f"from a copy, or open one of the shards, such as {files[0]}."
        )
    if not found:
        raise MissingFileError(f"reading {path}: the folder has no index of shards and no .safetensors file.")
    if len(found) > 1:
        raise PathError(f"reading {path}: the folder has several models ({', '.join(found[:5])}). Name one of them.")
    return path / found[0]


def read_index(path: Path, *, sealed: bool = True) -> Index:
    """Read and validate an index.

    Raises:
        CorruptError: not an index, or one that names files outside its folder.
        LimitError: it is larger than a header may be.
    """
    with enough_memory(str(path)):
        return _parsed(path, _content(path), sealed)


def files_named_in(path: Path) -> set[str]:
    """Return the files that an index names, whoever wrote it and whatever else is wrong with it."""
    try:
        shard_of = headers.load_json(_content(path), str(path)).get("weight_map")
    except PerdureError:
        return set()
    return {file for file in shard_of.values() if type(file) is str} if type(shard_of) is dict else set()


def _content(path: Path) -> bytes:
    source = PathSource(path)
    try:
        if source.n_bytes > headers.MAX_HEADER_BYTES:
            raise LimitError(
                f"reading {path}: an index of {source.n_bytes} bytes; the limit is {headers.MAX_HEADER_BYTES}."
            )
        return source.read(0, source.n_bytes)
    finally:
        source.close()


def _parsed(path: Path, raw: bytes, sealed: bool) -> Index:
    content = headers.load_json(raw, str(path))
    shard_of, metadata = content.get("weight_map"), content.get("metadata", {})
    if type(shard_of) is not dict or not all(type(file) is str for file in shard_of.values()):
        raise CorruptError(f"reading {path}: its weight_map must map tensors to files.")
    if type(metadata) is not dict:
        raise CorruptError(f"reading {path}: its metadata must be an object.")
    files = tuple(dict.fromkeys(shard_of.values()))
    check_plain_names(files, str(path))
    text = {key: value for key, value in metadata.items() if type(value) is str}
    index = _sealed_index(raw, shard_of, files, text, str(path), sealed)
    if index.manifest:
        check_added(text, str(path))
    return index


def _sealed_index(
    raw: bytes, shard_of: dict[str, str], files: tuple[str, ...], metadata: dict[str, str], where: str, sealed: bool
) -> Index:
    try:
        digest = check_seal(raw, metadata, where)
    except CorruptError:
        if sealed:
            raise
        digest = None
    manifest = decode(metadata[MANIFEST_KEY], where) if digest else None
    if manifest:
        if not manifest.shards.keys() >= set(files):
            raise CorruptError(f"reading {where}: its weight_map names shards that its manifest does not.")
        files = tuple(manifest.shards)
        check_plain_names(files, where)
    return Index(shard_of, files, metadata, manifest, digest or "", len(raw))


def check_plain_names(files: tuple[str, ...], where: str) -> None:
    """See that files which lie beside what names them have the names of such.

    Raises:
        CorruptError: one would lead elsewhere.
    """
    odd = [file for file in files if not _is_plain_name(file)]
    if odd:
        shown = ", ".join(repr(file[:200]) for file in odd[:5])
        raise CorruptError(f"reading {where}: it names {shown}; shards lie beside their index. Restore it from a copy.")


def _is_plain_name(file: str) -> bool:
    plain = bool(file) and not set(file) & set("/\\:\0") and file not in (".", "..")
    return plain and not any("\ud800" <= letter <= "\udfff" for letter in file)


def plan_shards(items: list[Item], shard_bytes: int) -> list[list[Item]]:
    """Divide items, in their order, among shards of at most `shard_bytes`; a larger tensor has a shard of its own."""
    shards: list[list[Item]] = [[]]
    room = shard_bytes
    for item in items:
        if shards[-1] and item.n_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(item)
        room -= item.n_bytes
    return shards


def write_folder(
    folder: Path,
    items: list[Item],
    shard_bytes: int,
    describe_shard: Callable[[dict[str, Digests]], dict[str, str]],
    describe_model: Callable[[dict[str, ShardRecord]], dict[str, str]],
    *,
    verify: bool = False,
) -> Written:
    """Write a sharded model; the old one, if any, is whole until the new one is. With `verify` each shard is read back.

    Raises:
        PathError: the path is a file, or a single-file model in the folder would hide this one.
        ConflictError: another process is saving into the folder.
        StorageError: the system refused; the old model is whole.
    """
    where, folder = str(folder), folder.absolute()
    made = _make_folder(folder, where)
    try:
        with translated("saving", where), locked_folder(folder, where) as locked:
            written = _write_locked(folder, where, locked, items, shard_bytes, describe_shard, describe_model, verify)
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    return written


def _make_folder(folder: Path, where: str) -> bool:
    with translated("saving", where):
        there = _exists(folder)
        is_folder = there and folder.is_dir()
        hidden = is_folder and (folder / SINGLE_NAME).exists()
        index = folder / INDEX_NAME
        odd = is_folder and index.exists() and not index.is_file()
        lost = not there and folder.is_symlink()
    if lost:
        raise PathError(f"saving {where}: it is a link that leads nowhere, or in a circle. Mend it, or save elsewhere.")
    if there:
        if not is_folder:
            raise PathError(f"saving {where}: it is a file; a path without an ending is a folder. Add `.safetensors`.")
        if odd:
            raise PathError(f"saving {where}: {INDEX_NAME} in it is no file. Move it away, or save to another folder.")
        if hidden:
            raise PathError(
                f"saving {where}: the folder holds {SINGLE_NAME}, which other readers would take instead of this model. "
                f"Move it away, or save to another folder."
            )
        return False
    with translated("saving", where):
        folder.mkdir()
        sync_folder(folder.parent)
    return True


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except RuntimeError:  # what a circle of links is in some versions of Python
        return False


def _write_locked(
    folder: Path,
    where: str,
    locked: bool,
    items: list[Item],
    shard_bytes: int,
    describe_shard: Callable[[dict[str, Digests]], dict[str, str]],
    describe_model: Callable[[dict[str, ShardRecord]], dict[str, str]],
    verify: bool,
) -> Written:
    replaced = _named_shards(folder) or set()
    _clear_orphans(folder, locked, set())
    total_size = sum(item.n_bytes for item in items)
    _check_room(folder, where, total_size)
    plan = plan_shards(items, shard_bytes)
    save_id = secrets.token_hex(6)
    records: dict[str, ShardRecord] = {}
    shard_of: dict[str, str] = {}
    begun: list[str] = []
    index = b""
    try:
        for number, shard in enumerate(plan, 1):
            name = f"model-{save_id}-{number:05d}-of-{len(plan):05d}.safetensors"
            begun.append(name)
            written = write_file(
                folder / name,
                shard,
                describe_shard,
                where=os.path.join(where, name),
                like=folder / INDEX_NAME,
                verify=verify,
            )
            records[name] = ShardRecord(written.n_bytes, written.digest)
            shard_of.update({item.name: name for item in shard})
        in_order = {item.name: shard_of[item.name] for item in items}
        index, digest = seal(_index(in_order, total_size, describe_model(records)))
        with replacing(folder / INDEX_NAME, len(index), os.path.join(where, INDEX_NAME)) as (descriptor, _):
            write_all(descriptor, [memoryview(index)], 0)
    except BaseException:
        if not _may_be_committed(folder, index):
            _remove(folder, begun)
        raise
    with contextlib.suppress(OSError, PerdureError):  # the next save clears what this one cannot
        _clear_orphans(folder, locked, set(begun), replaced)
    return Written(sum(record.n_bytes for record in records.values()) + len(index), digest)


def _may_be_committed(folder: Path, index: bytes) -> bool:
    """Tell whether a save that failed after all may have put its index in place."""
    try:
        return bool(index) and (folder / INDEX_NAME).read_bytes() == index
    except FileNotFoundError:
        return False
    except OSError:
        return True


def _check_room(folder: Path, where: str, n_bytes: int) -> None:
    if hasattr(os, "statvfs") and os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise translate(OSError(errno.EROFS, ""), "saving", where)
    if shutil.disk_usage(folder).free < n_bytes:
        raise translate(OSError(errno.ENOSPC, ""), "saving", where, n_bytes)


def _index(shard_of: dict[str, str], total_size: int, metadata: dict[str, str]) -> bytes:
    content: dict[str, Any] = {"metadata": {"total_size": total_size, **metadata}, "weight_map": shard_of}
    return json.dumps(content, ensure_ascii=False, indent=0, separators=(",", ":")).encode()


def _named_shards(folder: Path) -> set[str] | None:
    """Return the files that the indexes in a folder name; None where there is no index, or one cannot be read.

    There may be several: other models may have shards of perdure's here, under an index that was renamed.
    """
    names = [name for name in os.listdir(folder) if name.endswith(_INDEX_SUFFIX)]
    try:
        indexes = [read_index(folder / name, sealed=False) for name in names]
    except PerdureError:
        return None
    return {file for index in indexes for file in (*index.files, *index.shard_of.values())} if indexes else None


def _clear_orphans(folder: Path, locked: bool, keep: set[str], replaced: Iterable[str] = ()) -> None:
    """Remove perdure's shards that no index names, and what crashed saves left.

    Args:
        folder: the folder.
        locked: it is held against other savers; else their shards may be among those that no index names yet.
        keep: shards that stay, whatever the indexes say.
        replaced: shards that were named until now.
    """
    named = _named_shards(folder)
    if named is not None:
        orphans = [name for name in os.listdir(folder) if _SHARD.fullmatch(name) and name not in named | keep]
        _remove(folder, [name for name in orphans if locked or name in replaced or is_old(folder / name)])
    for name in os.listdir(folder):
        if name.startswith(".model") and name.endswith(".perdure-tmp"):
            clear_stale(folder / name[1:].rsplit(".", 2)[0])


def _remove(folder: Path, names: list[str]) -> None:
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def blank_metadata(manifest: str, blobs: dict[str, str]) -> dict[str, str]:
    """Return the metadata of a file or an index, its seal still blank."""
    return {"format": "pt", DIGEST_KEY: BLANK, MANIFEST_KEY: manifest, **blobs}
