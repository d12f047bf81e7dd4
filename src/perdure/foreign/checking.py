"""`check`: what a file, or everything in a folder, would run if its own readers opened it, and whether it is whole."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from perdure.disk import checking
from perdure.disk.checking import Progress, finding_of
from perdure.disk.faults import translated
from perdure.disk.folder import read_index
from perdure.disk.sources import ByteSource, name_of, open_source, usable_path
from perdure.errors import FileError, InputError, MissingFileError, ProtocolError, StorageError
from perdure.foreign.distributed import METADATA_NAME
from perdure.foreign.inert import Content, Use
from perdure.foreign.opening import ZIP_BEGINNINGS, is_foreign, read_content, read_folder
from perdure.foreign.pickle_files import interpret_whole
from perdure.foreign.sharded_bin import INDEX_ENDING as BIN_INDEX_ENDING
from perdure.foreign.states import find_state
from perdure.foreign.verdicts import judge
from perdure.foreign.zips import Archive, Member, read_zip
from perdure.records.reports import CheckReport, Finding

_NEEDS_CODE = "needs code"

SEVERITY = ("safe", "needs code", "damaged", "dangerous")
"""The verdicts, the worst last: what would run something is worse than what cannot be read."""

INDEX_ENDING = ".safetensors.index.json"

_ENDINGS = """
    .safetensors .pt .pth .bin .ckpt .pkl .pickle .p .npz .npy .gguf .pt2 .ptl .tar .joblib .dill .h5 .hdf5 .keras .onnx .zip
    .7z .distcp .model .th .mar .torch .msgpack .nemo .ot .dat .pdparams .tflite .pb
"""
MODEL_ENDINGS = frozenset(_ENDINGS.split())
"""Files of these endings are models, or pass for some; in a folder, others are passed over unless their content says so."""


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
        folder = usable_path(path)
        with translated("reading", str(folder)):
            is_folder = folder.is_dir()
        if is_folder:
            return _check_folder(folder, progress)
        if _tells_of_others(folder.name):
            return _check_together(folder, progress)
        if folder.name.endswith(".index.json"):
            return checking.check(folder, progress=progress)
    return _check_file(path, progress)


def _check_file(origin: object, progress: Progress | None) -> CheckReport:
    source = open_source(origin)
    try:
        if is_foreign(source):
            return _check_foreign(name_of(origin), source, progress)
    finally:
        source.close()
    return checking.check(origin, progress=progress)


def _check_foreign(name: str, source: ByteSource, progress: Progress | None) -> CheckReport:
    uses: list[Use] = []
    findings: list[Finding] = []
    content = None
    try:
        content = read_content(source, uses)
    except FileError as error:
        findings.append(finding_of(error, name))
    archive = _archive(source)
    if archive is not None:
        findings += _check_archive(archive, content, uses, progress)
    elif content is not None:
        findings.append(
            Finding("Unknown", f"{content.format}: it has no checksums, so only its form was checked.", name)
        )
    return _report(name, content, uses, findings, source.n_bytes)


def _tells_of_others(name: str) -> bool:
    """Tell by its name a file that says what lies in others: metadata of a distributed checkpoint, an index of pickles."""
    return name == METADATA_NAME or name.endswith(BIN_INDEX_ENDING)


def _check_together(path: Path, progress: Progress | None) -> CheckReport:
    """Check files that belong together, by what tells of them; shards that are files of their own are checked as such."""
    uses: list[Use] = []
    findings: list[Finding] = []
    content = None
    try:
        content = read_folder(path, uses)
    except (FileError, InputError) as error:
        findings.append(finding_of(error, str(path)))
        findings.append(Finding("FileError", "it could not be read whole.", path.name))
    try:
        n_unsigned = 0
        for archive in content.archives if content else ():
            n_unsigned += len(archive.verify(progress))
        if n_unsigned:
            findings.append(
                Finding("Unknown", f"{n_unsigned} members have no checksum, so only their form was checked.")
            )
    except FileError as error:
        findings.append(finding_of(error, str(path)))
    sources = content.sources if content else ()
    n_bytes = sum(source.n_bytes for source in sources)
    for source in sources:
        source.close()
    return _report(str(path), content, uses, findings, n_bytes)


def _report(name: str, content: Content | None, uses: list[Use], findings: list[Finding], n_bytes: int) -> CheckReport:
    verdict = "damaged" if any(finding.kind in _DAMAGE for finding in findings) else "safe"
    said = [entry for entry in judge(uses) if entry.severity != "safe"]
    findings = [Finding(entry.severity, entry.sentence, os.path.basename(name)) for entry in said] + findings
    findings += [Finding(_NEEDS_CODE, f"it holds code: {part}.", os.path.basename(name)) for part in _code(content)]
    worst = max([verdict, *(finding.kind for finding in findings if finding.kind in SEVERITY)], key=SEVERITY.index)
    n_tensors = len(find_state(content.value, name).tensors) if content and worst != "damaged" else 0
    return CheckReport(name, worst == "safe", worst, tuple(findings), n_tensors, n_bytes)


_DAMAGE = ("CorruptError", "DigestError", "FileError")
_MAX_CODE_SHOWN = 20


def _code(content: Content | None) -> Sequence[str]:
    return content.code[:_MAX_CODE_SHOWN] if content else ()


def _archive(source: ByteSource) -> Archive | None:
    """Return the archive that a file is, if it is one, and whole in form."""
    try:
        return read_zip(source, source.where) if source.read(0, 4) in ZIP_BEGINNINGS else None
    except FileError:
        return None


def _check_archive(
    archive: Archive, content: Content | None, uses: list[Use], progress: Progress | None
) -> Iterator[Finding]:
    """Compare every member with its checksum, and look into those that the reader had no use for."""
    try:
        unsigned = archive.verify(progress)
    except FileError as error:
        yield finding_of(error, archive.where)
    else:
        if unsigned:
            yield Finding("Unknown", f"{len(unsigned)} members have no checksum, so only their form was checked.")
    known = content.members if content else ()
    for name, member in archive.members.items():
        if name not in known:
            yield from _check_member(member, uses)


def _check_member(member: Member, uses: list[Use]) -> Iterator[Finding]:
    """Look into a member that no reader of models reads: somebody else's may."""
    try:
        first = member.source.read(member.position, min(16, member.n_bytes))
        if first.startswith((b"PK", b"7z\xbc\xaf", b"\x1f\x8b", b"Rar!")):
            yield Finding(_NEEDS_CODE, f"its member {member.name[:200]!r} is an archive, which was not looked into.")
        elif first[:1] == b"\x80" or member.name.endswith((".pkl", ".pickle")):
            start, stop = member.position, member.position + member.n_bytes
            interpret_whole(member.source, start, stop, member.where, uses=uses)
    except FileError as error:
        if member.name.endswith((".pkl", ".pickle")):
            yield finding_of(error, member.where)


def _check_folder(folder: Path, progress: Progress | None) -> CheckReport:
    reports = [_guarded(path, progress) for path in models_in(folder)]
    if not reports:
        raise MissingFileError(f"checking {folder}: there is no model in it. Name the file to check.")
    if len(reports) == 1:
        return dataclasses.replace(reports[0], path=str(folder))
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


def _guarded(path: Path, progress: Progress | None) -> CheckReport:
    """Check one of many; what says nothing about the others is a finding."""
    try:
        if _tells_of_others(path.name):
            return _check_together(path, progress)
        if path.name.endswith(INDEX_ENDING):
            return checking.check(path, progress=progress)
        return _check_file(path, progress)
    except (ProtocolError, StorageError) as error:
        return CheckReport(str(path), False, "damaged", (Finding(type(error).__name__, str(error), path.name),))


def models_in(folder: Path) -> Iterator[Path]:
    """Give what a folder and those in it hold: the index of each model of several files, then each file that is a model."""
    for top, folders, names in os.walk(folder):
        folders.sort()
        shards: set[str] = set()
        for name in sorted(names):
            if name.endswith(INDEX_ENDING) or _tells_of_others(name):
                yield Path(top, name)
            if name.endswith(INDEX_ENDING):
                shards |= _shards_of(Path(top, name))
            if name == METADATA_NAME:
                shards |= {name, *(other for other in names if other.endswith(".distcp"))}
        yield from (Path(top, name) for name in sorted(names) if name not in shards and _is_model(Path(top, name)))


def _shards_of(index: Path) -> set[str]:
    try:
        return set(read_index(index).files)
    except FileError:
        return set()


def _is_model(path: Path) -> bool:
    """Tell a model, or what passes for one, from the other files that lie beside models."""
    if path.suffix.lower() in MODEL_ENDINGS:
        return True
    try:
        source = open_source(path)
    except (StorageError, InputError):
        return False
    try:
        return is_foreign(source)
    finally:
        source.close()
