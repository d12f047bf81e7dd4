"""A whole saved model is read and compared with its digests; every damage is named, none stops the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator

import xxhash
from blake3 import blake3

from perdure.disk import capabilities
from perdure.disk.blobs import unpack
from perdure.disk.consistency import check_alias
from perdure.disk.crew import run_in_threads
from perdure.disk.stored import Stored, StoredFile
from perdure.errors import CorruptError, FileError, PerdureError, ProtocolError
from perdure.records.reports import CheckReport, Finding

_BLOCK_BYTES = 2 * 2**20

Progress = Callable[[int, int], None]
"""Told, from any thread, how many bytes were just read and how many there are in all."""


def check(path: str | os.PathLike[str], *, progress: Progress | None = None) -> CheckReport:
    """Check a file, or a folder of shards: the header and every digest, without loading anything.

    Args:
        path: a `.safetensors` file, a folder in the sharded layout, or its index.
        progress: called as `progress(n_bytes, total_bytes)` whenever that many bytes more were read.

    Returns:
        A report whose verdict is `"safe"` or `"damaged"`; each finding names the tensor and the file.

    Raises:
        StorageError: the file cannot be read at all.
        ProtocolError: a later perdure wrote it, so this one cannot tell.
    """
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else type(path).__name__
    try:
        stored = Stored(path)
    except ProtocolError:
        raise
    except FileError as error:
        return CheckReport(name, False, "damaged", (_finding(error, name),))
    try:
        return _check_stored(name, stored, progress)
    finally:
        stored.close()


def _check_stored(path: str, stored: Stored, progress: Progress | None) -> CheckReport:
    findings: list[Finding] = []
    files = list(_whole_files(stored, findings))
    total = sum(file.header.data_bytes for file in files)
    report = (lambda n_bytes: progress(n_bytes, total)) if progress else _ignore
    jobs = [_job(file, name, findings, report) for file in files for name in file.header.entries if file.manifest]
    run_in_threads(jobs, capabilities.n_processors())
    findings += _check_derived(stored)
    damaged = bool(findings)
    findings += [_unsigned(file) for file in files if file.manifest is None]
    read = sum(file.header.data_bytes for file in files if file.manifest)
    verdict = "damaged" if damaged else "safe"
    return CheckReport(path, not damaged, verdict, tuple(findings), len(jobs), read)


def _ignore(n_bytes: int) -> None:
    return None


def _whole_files(stored: Stored, findings: list[Finding]) -> Iterator[StoredFile]:
    for shard in stored.files or ("",):
        try:
            yield stored.file(shard)
        except FileError as error:
            findings.append(_finding(error, shard))


def _job(file: StoredFile, name: str, findings: list[Finding], report: Callable[[int], None]) -> Callable[[], None]:
    def job() -> None:
        try:
            fault = _fault(file, name, report)
        except PerdureError as error:
            fault = str(error)
        if fault:
            findings.append(Finding("DigestError", fault, os.path.basename(file.where), name))

    return job


def _fault(file: StoredFile, name: str, report: Callable[[int], None]) -> str:
    """Read a tensor and return what is wrong with it, or nothing."""
    entry, record = file.header.entries[name], file.record(name)
    assert record is not None
    identity, checksum = blake3(), xxhash.xxh3_128()
    buffer = memoryview(bytearray(min(_BLOCK_BYTES, entry.n_bytes)))
    position = file.offset(name)
    for done in range(0, entry.n_bytes, _BLOCK_BYTES):
        view = buffer[: min(_BLOCK_BYTES, entry.n_bytes - done)]
        file.source.read_into(position + done, [view])
        identity.update(view)
        checksum.update(view)
        report(len(view))
    if (identity.hexdigest(), checksum.hexdigest()) == (record.blake3, record.xxh3):
        return ""
    return f"tensor {name!r} of {os.path.basename(file.where)} is damaged: its bytes are not those that were saved."


def _check_derived(stored: Stored) -> list[Finding]:
    """Check what is made of stored tensors, and that every blob unpacks."""
    findings: list[Finding] = []
    for name, alias in (stored.manifest.aliases if stored.manifest else {}).items():
        try:
            if alias.of in stored:
                entry, record = stored.entry(alias.of), stored.file_of(alias.of).record(alias.of)
                shape = entry.shape[:-1] if record and record.dtype else entry.shape
                check_alias(name, alias, math.prod(shape), stored.where)
        except FileError as error:
            findings.append(_finding(error, os.path.basename(stored.where), name))
    for key in stored.metadata if stored.manifest else ():
        if key.startswith("perdure.") and key != "perdure.digest":
            try:
                unpack(stored.metadata, key.removeprefix("perdure."), stored.where)
            except FileError as error:
                findings.append(_finding(error, os.path.basename(stored.where)))
    return findings


def _unsigned(file: StoredFile) -> Finding:
    message = "another writer's file: it has no digests, so only its structure was checked."
    return Finding("Unknown", f"{os.path.basename(file.where)}: {message}", os.path.basename(file.where))


def _finding(error: FileError, file: str, tensor: str = "") -> Finding:
    kind = type(error).__name__ if isinstance(error, CorruptError) else "FileError"
    return Finding(kind, str(error), os.path.basename(file), tensor)
