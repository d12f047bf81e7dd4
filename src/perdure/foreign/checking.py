"""`check`: what a file, or everything in a folder, would run if its own readers opened it, and whether it is whole."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from perdure.disk import checking
from perdure.disk.checking import Progress, finding_of
from perdure.disk.faults import translated
from perdure.disk.sources import ByteSource, name_of, open_source, usable_path
from perdure.errors import FileError, MissingFileError, ProtocolError, StorageError, UnsafeError
from perdure.foreign.folder_models import models_in
from perdure.foreign.inert import Content, Use
from perdure.foreign.opening import ZIP_BEGINNINGS, folder_reader, is_foreign, read_content
from perdure.foreign.pickles.verdicts import judge
from perdure.foreign.placed import ForeignStored
from perdure.foreign.pytorch.distributed import METADATA_NAME
from perdure.foreign.zips.archives import read_zip
from perdure.records.reports import CheckReport, Finding

SEVERITY = ("safe", "needs code", "damaged", "dangerous")
"""The verdicts, the worst last: what would run something is worse than what cannot be read."""

_MAX_CODE_SHOWN = 20


def check(path: str | os.PathLike[str], *, progress: Progress | None = None) -> CheckReport:
    """Check a file, or everything in a folder: its form, every digest it has, and all that its pickles name.

    Args:
        path: a file of any kind, or a folder, with all folders in it.
        progress: called as `progress(n_bytes, total_bytes)` whenever that many bytes more were read.

    Returns:
        A report. The verdict is `"safe"`: it was read whole, and nothing in it runs; `"needs code"`: its own reader would
        import what the findings name; `"dangerous"`: unpickling it would call what runs things; `"damaged"`: it could
        not be read whole, so nothing is said about the rest. A folder has the worst of its files'.

    Raises:
        StorageError: the file cannot be read at all.
        ProtocolError: a later perdure wrote it, so this one cannot tell.
    """
    if isinstance(path, str | os.PathLike):
        found = usable_path(path)
        with translated("reading", str(found)):
            is_folder = found.is_dir()
        if is_folder:
            return _check_folder(found, progress)
    return _check_one(path, progress)


def _check_one(origin: object, progress: Progress | None) -> CheckReport:
    """Check what is one model: a file, the index of several, or a folder whose files belong together."""
    name = name_of(origin)
    if isinstance(origin, str | os.PathLike) and _is_several(Path(origin)):
        read_it = folder_reader(Path(origin))
        if read_it is not None:
            return _check_foreign(name, read_it, partial(_verify_inner, progress))
        return checking.check(origin, progress=progress)
    source = open_source(origin)
    try:
        if is_foreign(source):
            is_archive = source.read(0, min(4, source.n_bytes)) in ZIP_BEGINNINGS
            verify = partial(_verify_archive, source, progress) if is_archive else None
            return _check_foreign(name, partial(read_content, source), verify)
    finally:
        source.close()
    return checking.check(origin, progress=progress)


def _is_several(path: Path) -> bool:
    return path.name.endswith(".index.json") or path.name == METADATA_NAME or path.is_dir()


_Read = Callable[[list[Use]], Content]
_Verify = Callable[["Content | None"], Iterator[Finding]]


def _check_foreign(name: str, read_it: _Read, verify: _Verify | None) -> CheckReport:
    """Check a file of another kind; `verify` compares its checksums, where it has some."""
    uses: list[Use] = []
    findings: list[Finding] = []
    content = stored = None
    try:
        content = read_it(uses)
        stored = ForeignStored(content, name)
    except UnsafeError as error:
        findings.append(Finding("dangerous", str(error), os.path.basename(name)))
    except FileError as error:
        findings.append(finding_of(error, name))
    try:
        if verify:
            findings += verify(content)
        elif content:
            sentence = f"{content.format}: it has no checksums, so only its form was checked."
            findings.append(Finding("Unknown", sentence, os.path.basename(name)))
    finally:
        for source in content.sources if content else ():
            source.close()
    file = os.path.basename(name)
    judged = [entry for entry in judge(list(dict.fromkeys(uses))) if entry.severity != "safe"]
    said = [Finding(entry.severity, entry.sentence, file) for entry in judged]
    if content:
        said += [Finding("needs code", f"it holds code: {part}.", file) for part in content.code[:_MAX_CODE_SHOWN]]
        said += [Finding("needs code", sentence, file) for sentence in content.unread]
    verdict = max(("safe", *map(_severity, findings + said)), key=SEVERITY.index)
    n_tensors = len(stored.state.tensors) if stored and verify else 0
    n_bytes = sum(source.n_bytes for source in content.sources) if content and verify else 0
    return CheckReport(name, verdict == "safe", verdict, (*said, *findings), n_tensors, n_bytes)


def _severity(finding: Finding) -> str:
    """Return the verdict that a finding alone would give."""
    return finding.kind if finding.kind in SEVERITY else "safe" if finding.kind == "Unknown" else "damaged"


def _verify_archive(source: ByteSource, progress: Progress | None, content: Content | None) -> Iterator[Finding]:
    """Compare every member of an archive with its checksum."""
    try:
        unsigned = read_zip(source, source.where).verify(progress)
    except FileError as error:
        if content is not None:  # else it has been said already that it is damaged
            yield finding_of(error, source.where)
    else:
        if unsigned:
            yield Finding("Unknown", f"{len(unsigned)} members have no checksum, so only their form was checked.")


def _verify_inner(progress: Progress | None, content: Content | None) -> Iterator[Finding]:
    """Compare every member of the archives within files with its checksum."""
    for archive in content.archives if content else ():
        try:
            archive.verify(progress)
        except FileError as error:
            yield finding_of(error, archive.where)


def _check_folder(folder: Path, progress: Progress | None) -> CheckReport:
    paths = list(models_in(folder))
    if not paths:
        raise MissingFileError(f"checking {folder}: there is no model in it. Name the file to check.")
    if len(paths) == 1:
        return dataclasses.replace(_check_one(paths[0], progress), path=str(folder))
    reports = [_check_one_of_many(path, progress) for path in paths]
    worst = max((report.verdict for report in reports), key=SEVERITY.index)
    return CheckReport(
        str(folder),
        worst == "safe",
        worst,
        tuple(finding for report in reports for finding in report.findings),
        sum(report.n_tensors for report in reports),
        sum(report.n_bytes for report in reports),
        tuple(reports),
    )


def _check_one_of_many(path: Path, progress: Progress | None) -> CheckReport:
    try:
        return _check_one(path, progress)
    except (ProtocolError, StorageError) as error:
        return CheckReport(str(path), False, "damaged", (Finding(type(error).__name__, str(error), path.name),))
