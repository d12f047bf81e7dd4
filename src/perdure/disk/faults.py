"""Errors of the operating system become perdure's, with what was being done and what to do next."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.errors import CorruptError, DiskFullError, MissingFileError, PathError, PerdureError, StorageError

FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


def broken(where: str, what: str) -> CorruptError:
    """Return the error of a damaged file; `what` is a sentence."""
    return CorruptError(f"reading {where}: {what} Restore the file from a copy, or download it again.")


def translate(error: OSError, doing: str, path: str, needed_bytes: int = 0) -> PerdureError:
    """Return the error of perdure's tree for one of the system.

    Args:
        error: what the system said.
        doing: `saving` or `reading`.
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
    if error.errno in _DENIED:
        return StorageError(f"{doing} {path}: {reason}. Check the permissions of the file and its folder.")
    kept = "Nothing was changed; try again." if doing == "saving" else "Try again."
    return StorageError(f"{doing} {path}: {reason} (errno {error.errno}). {kept}")


def _full_message(error: OSError, doing: str, path: str, needed_bytes: int) -> str:
    if error.errno == errno.EFBIG:
        return f"{doing} {path}: {needed_bytes} bytes are needed, more than the limit of this process or file system."
    try:
        free = f", {shutil.disk_usage(os.path.dirname(path) or '.').free} are free"
    except OSError:
        free = ""
    return f"{doing} {path}: the disk is full; {needed_bytes} bytes are needed{free}. Make room, then save again."


@contextmanager
def translated(doing: str, path: str, needed_bytes: int = 0) -> Iterator[None]:
    """Translate every OSError that leaves the block."""
    try:
        yield
    except OSError as error:
        raise translate(error, doing, path, needed_bytes) from error
