"""Errors of the operating system become perdure's, with what was being done and what to do next."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.errors import CorruptError, DiskFullError, MissingFileError, PathError, PerdureError, StorageError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM}


def broken(where: str, what: str) -> CorruptError:
    """Return the error of a damaged file; `what` is a sentence."""
    return CorruptError(f"reading {where}: {what} Restore the file from a copy, or download it again.")


def translate(error: OSError, doing: str, path: str, needed_bytes: int = 0) -> PerdureError:
    """Return the error of perdure's tree for one of the system.

    Args:
        error: what the system said.
        doing: `saving`, `reading`, or `saving to` for a file object, which may lie on no disk at all.
        path: the file or folder.
        needed_bytes: size of the whole file that was to be written.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in FULL:
        return DiskFullError(_full_message(error, doing, path, needed_bytes))
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        what = "the folder does not exist" if doing == "saving" else "there is no such file or folder"
        return MissingFileError(
            f"{doing} {path}: {what}. Check the path{'; folders are not made' * (doing == 'saving')}."
        )
    if error.errno == errno.EISDIR:
        return PathError(f"{doing} {path}: it is a folder; a file was expected.")
    if error.errno == errno.EROFS:
        return StorageError(f"{doing} {path}: its file system is mounted read-only. Save to another place.")
    if error.errno in _DENIED:
        return StorageError(f"{doing} {path}: {reason}. Check the permissions of the file and its folder.")
    if error.errno == errno.ELOOP:
        return PathError(f"{doing} {path}: its links lead in a circle. Mend them, or give another path.")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError(
            f"{doing} {path}: {reason}: this process may have {_max_open_files()} files open. Close some, or raise the "
            f"limit (`ulimit -n`)."
        )
    kept = "Nothing was changed; try again." if doing == "saving" else "Try again."
    return StorageError(f"{doing} {path}: {reason} (errno {error.errno}). {kept}")


def _max_open_files() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return "no more"
    return f"at most {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}"


def _full_message(error: OSError, doing: str, path: str, needed_bytes: int) -> str:
    if error.errno == errno.EFBIG:
        return f"{doing} {path}: {needed_bytes} bytes are needed, more than the limit of this process or file system."
    if doing != "saving":
        return f"{doing} {path}: it is full; {needed_bytes} bytes are needed. Make room, or save to a path."
    folder = path if os.path.isdir(path) else os.path.dirname(path) or "."
    try:
        free = f", {shutil.disk_usage(folder).free} are free"
    except OSError:
        free = ""
    return f"{doing} {path}: the disk is full; {needed_bytes} bytes are needed{free}. Make room, then save again."


def out_of_memory(doing: str, path: str, needed_bytes: int = 0) -> StorageError:
    """Return the error for memory that the system does not give."""
    needed = f"{needed_bytes} bytes of memory are needed" if needed_bytes else "more memory is needed"
    instead = ", or map the file with perdure.open" if doing == "reading" else ""
    return StorageError(f"{doing} {path}: {needed}, and the system does not give it. Free memory{instead}.")


@contextmanager
def translated(doing: str, path: str, needed_bytes: int = 0) -> Iterator[None]:
    """Translate every OSError that leaves the block."""
    try:
        yield
    except OSError as error:
        raise translate(error, doing, path, needed_bytes) from error


@contextmanager
def enough_memory(path: str, needed_bytes: int = 0) -> Iterator[None]:
    """Translate a MemoryError that leaves a block which reads a file."""
    try:
        yield
    except MemoryError as error:
        raise out_of_memory("reading", path, needed_bytes) from error
