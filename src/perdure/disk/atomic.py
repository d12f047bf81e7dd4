"""A file is replaced whole or not at all: temporary file beside it, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perdure.disk import capabilities
from perdure.disk.faults import FULL, translated
from perdure.disk.held import HeldDescriptor
from perdure.errors import ConflictError, DiskFullError, PathError, StorageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_SUFFIX = ".perdure-tmp"
_OLD_SECONDS = 24 * 60 * 60


@contextmanager
def replacing(path: Path, n_bytes: int, where: str = "", like: Path | None = None) -> Iterator[tuple[int, Path]]:
    """Write a new file that takes the place of `path` when the block ends without an exception.

    Yields the descriptor and the path of a temporary file, which is locked while it is written. A link is followed, and
    the mode of an existing file is kept; until the end nobody else may read the new one. What earlier crashes left
    beside it is cleared, unless a saver holds it.

    Args:
        path: the file.
        n_bytes: how large it will be.
        where: names it in messages, where that is not the path.
        like: the file whose mode it gets, where there is none yet at the path.

    Raises:
        StorageError: the system refused; the old file is whole and the temporary one gone.
        PathError: `path` is a folder, or a pipe, a socket or a device.
    """
    where = where or str(path)
    with translated("saving", where, n_bytes):
        target = _resolved(path)
        old = _status(target, where) or (like and _status(like, where))
        clear_stale(target)
        temporary = _Temporary(target)
        try:
            temporary.create(0o600 if old else 0o666)
            yield temporary.descriptor, temporary.path
            if old:
                _give_mode(temporary.descriptor, old)
            sync_file(temporary.descriptor)
            if os.name == "nt":
                temporary.close()
            os.replace(temporary.path, target)
        except BaseException:
            temporary.discard()
            raise
        finally:
            temporary.close()
        _sync_name(target)


def _resolved(path: Path) -> Path:
    """Return the file that a path means, links followed."""
    if not path.is_symlink():
        return path.absolute()
    try:
        target = path.resolve()
    except RuntimeError as error:  # what a circle of links is until Python 3.12
        raise PathError(
            f"saving {path}: its links cannot be followed ({error}). Mend them, or save elsewhere."
        ) from error
    if target.is_symlink():
        raise PathError(f"saving {path}: its links lead in a circle. Mend them, or save elsewhere.")
    return target


def _status(target: Path, where: str) -> os.stat_result | None:
    """Return what the system says about the file that will be replaced, or None where there is none."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise PathError(
            f"saving {where}: it is a folder; a path without `.safetensors` writes a sharded model into it."
        )
    if not stat.S_ISREG(status.st_mode):
        raise PathError(
            f"saving {where}: it is no file but a pipe, a socket or a device, which a save would replace. Move it away, or "
            f"open it and save to the file object."
        )
    return status


def _sync_name(target: Path) -> None:
    try:
        sync_folder(target.parent)
    except OSError as error:
        kind = DiskFullError if error.errno in FULL else StorageError
        raise kind(
            f"saving {target}: the new file is in place, but its name may not survive a power cut, since the system could "
            f"not sync the folder ({error.strerror}). Save again."
        ) from error


class _Temporary(HeldDescriptor):
    """The file beside the target that is written first; its name is known before it is made, so it can be removed."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self.path = target

    def create(self, mode: int) -> None:
        """Create and lock it; again where another saver's clearing took it before it was locked."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        while True:
            self.path = self._target.parent / f"{_prefix(self._target)}{secrets.token_hex(8)}{_SUFFIX}"
            self.descriptor = os.open(self.path, flags, mode)
            if _lock(self.descriptor) is not False and os.fstat(self.descriptor).st_nlink > 0:
                return
            self.discard()

    def discard(self) -> None:
        """Close and remove it."""
        if os.name == "nt":
            self.close()
        if self.path != self._target:
            with contextlib.suppress(OSError):
                self.path.unlink()
        self.close()


def _prefix(target: Path) -> str:
    start = os.fsencode(target.name)[:100].decode("utf-8", "ignore")
    return f".{start}."


def _give_mode(descriptor: int, status: os.stat_result) -> None:
    if hasattr(os, "fchmod"):
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) & 0o777)
        if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
            with contextlib.suppress(OSError):
                os.fchown(descriptor, status.st_uid, status.st_gid)


def clear_stale(target: Path) -> None:
    """Remove what crashed saves of `target` left, but nothing that a living saver has locked.

    Where there are no locks, nobody can tell; then what is a day old goes.
    """
    prefix = _prefix(target)
    with os.scandir(target.parent) as entries:
        stale = [entry.path for entry in entries if entry.name.endswith(_SUFFIX) and entry.name.startswith(prefix)]
    for path in stale:
        with contextlib.suppress(OSError):
            held = HeldDescriptor()
            held.descriptor = os.open(path, os.O_RDWR)
            locked = _lock(held.descriptor)
            if locked is None:
                held.close()  # Windows removes no open file
            if locked or (locked is None and is_old(path)):
                os.unlink(path)
            held.close()


def is_old(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file has not been written to for a day, so that no living saver can be at it."""
    try:
        return time.time() - os.stat(path).st_mtime > _OLD_SECONDS
    except OSError:
        return False


def _lock(descriptor: int) -> bool | None:
    """Lock an open file; False where somebody else holds it, None where this file system has no locks."""
    if fcntl is None or not capabilities.FILE_LOCKS:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def locked_folder(folder: Path, where: str) -> Iterator[bool]:
    """Hold a folder against other savers; the lock goes with the process, so a crash leaves none.

    Yields whether it is held; there are systems, and file systems, without locks.

    Raises:
        ConflictError: another saver is writing there.
    """
    if not capabilities.FILE_LOCKS:
        yield False
        return
    lock = HeldDescriptor()
    try:
        lock.descriptor = os.open(folder, os.O_RDONLY)
        locked = _lock(lock.descriptor)
        if locked is False:
            raise ConflictError(
                f"saving {where}: another process is saving into this folder. Wait for it, then save again."
            )
        yield locked is True
    finally:
        lock.close()


def sync_file(descriptor: int) -> None:
    """Make a file's bytes durable; on macOS this needs a call of its own to reach the drive itself.

    Raises:
        OSError: they may not be durable.
    """
    full_sync = getattr(fcntl, "F_FULLFSYNC", None)
    if fcntl is None or full_sync is None:
        os.fsync(descriptor)
    else:
        fcntl.fcntl(descriptor, full_sync)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    if capabilities.FOLDER_SYNC:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
