"""A whole saved model is read and compared with its digests; every damage is named, none stops the rest."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import xxhash
from blake3 import blake3

from perdure.disk import capabilities
from perdure.disk.blobs import KNOWN, MAX_UNPACKED_BYTES, unpack
from perdure.disk.consistency import check_alias, check_composed
from perdure.disk.crew import run_in_threads
from perdure.disk.faults import enough_memory
from perdure.disk.sources import BytesSource, name_of
from perdure.disk.specs import stored_spec
from perdure.disk.stored import Stored, StoredFile, open_file, with_stored
from perdure.errors import CorruptError, FileError, ProtocolError
from perdure.records import preprocessing, values
from perdure.records.manifest import Manifest
from perdure.records.reports import CheckReport, Finding, TensorSpec

_BLOCK_BYTES = 2 * 2**20

Progress = Callable[[int, int], None]
"""Told, from any thread, how many bytes were just read and how many there are in all."""


def check(path: object, *, progress: Progress | None = None) -> CheckReport:
    """Check a file, or a folder of shards: the header and every digest, without loading anything.

    Args:
        path: a `.safetensors` file, a folder in the sharded layout, or its index; bytes, or a binary file.
        progress: called as `progress(n_bytes, total_bytes)` whenever that many bytes more were read.

    Returns:
        A report whose verdict is `"safe"` or `"damaged"`; each finding names the tensor and the file.

    Raises:
        StorageError: the file cannot be read at all.
        ProtocolError: a later perdure wrote it, so this one cannot tell.
    """
    name = name_of(path)
    try:
        return with_stored(path, lambda stored: _check_stored(name, stored, progress))
    except ProtocolError:
        raise
    except FileError as error:
        return CheckReport(name, False, "damaged", (finding_of(error, name),))


def _check_stored(path: str, stored: Stored, progress: Progress | None) -> CheckReport:
    findings: list[Finding] = []
    files = list(_whole_files(stored, findings))
    total = sum(file.header.data_bytes for file in files)
    report = (lambda n_bytes: progress(n_bytes, total)) if progress else _ignore
    jobs = [_job(file, name, findings, report) for file in files for name in file.header.entries if file.manifest]
    with enough_memory(path):
        run_in_threads(jobs, capabilities.n_processors())
        findings += _check_derived(
            stored, {name: stored_spec(file, name) for file in files for name in file.header.entries}
        )
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
        except ProtocolError:
            raise
        except FileError as error:
            findings.append(finding_of(error, shard))


def _job(file: StoredFile, name: str, findings: list[Finding], report: Callable[[int], None]) -> Callable[[], None]:
    def job() -> None:
        try:
            fault = _fault(file, name, report)
        except FileError as error:
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


def _check_derived(stored: Stored, specs: Mapping[str, TensorSpec]) -> list[Finding]:
    """Check what is made of stored tensors, as far as their files could be read, and all plain values."""
    manifest = stored.manifest
    if manifest is None:
        return []
    checks: list[tuple[str, Callable[[], object]]] = [
        (name, partial(check_alias, name, alias, math.prod(specs[alias.of].shape), stored.where))
        for name, alias in manifest.aliases.items()
        if alias.of in specs
    ]
    for name, composed in manifest.composed.items():
        if specs.keys() >= set(composed.parts.values()):
            parts = {part: specs[of] for part, of in composed.parts.items()}
            checks.append((name, partial(check_composed, name, composed, parts, stored.where)))
    checks.append(("", partial(_check_values, stored, manifest)))
    findings: list[Finding] = []
    for name, run in checks:
        try:
            run()
        except FileError as error:
            findings.append(finding_of(error, os.path.basename(stored.where), name))
    return findings


def _check_values(stored: Stored, manifest: Manifest) -> None:
    """See that every blob that has a meaning unpacks, and that all plain values can be read; tensors stand for any."""
    room = MAX_UNPACKED_BYTES
    for name in KNOWN:
        content = unpack(stored.metadata, name, stored.where, room)
        room -= len(content or b"")
        if content is not None and name == "values":
            values.decode(values.from_text(content, stored.where), stored.where, partial(_stand_in, stored, manifest))
        elif content is not None and name == "buffers":
            open_file(BytesSource(content, f"{stored.where}, the buffers that are not persistent"))
    for value in (manifest.notes, *(entry.metadata for entry in manifest.versions)):
        values.decode(value, stored.where)
    values.decode(manifest.extra_state, stored.where, partial(_stand_in, stored, manifest))
    preprocessing.in_file(manifest.preprocess, stored.where)


def _stand_in(stored: Stored, manifest: Manifest, tagged: dict[str, Any]) -> object:
    """Return something for a value that is made with torch or NumPy, neither of which is here."""
    tag, name = tagged[values.TAG], str(tagged.get("name"))
    if tag in ("tensor", "ndarray"):
        if name not in stored and name not in manifest.aliases and name not in manifest.composed:
            raise ValueError(f"they refer to the tensor {name[:200]!r}, which is not there")
    elif tag not in ("scalar", "size", "dtype", "device"):
        raise ValueError(f"unknown tag {str(tag)[:40]!r}")
    return object()


def _unsigned(file: StoredFile) -> Finding:
    message = "another writer's file: it has no digests, so only its structure was checked."
    return Finding("Unknown", f"{os.path.basename(file.where)}: {message}", os.path.basename(file.where))


def finding_of(error: FileError, file: str, tensor: str = "") -> Finding:
    """Return an error as a finding."""
    kind = type(error).__name__ if isinstance(error, CorruptError) else "FileError"
    return Finding(kind, str(error), os.path.basename(file), tensor)
