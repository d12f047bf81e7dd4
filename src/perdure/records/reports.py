"""What the verbs report: frozen, free of torch, with a short text and JSON-ready data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from perdure.records.environment import Environment
from perdure.records.manifest import Manifest
from perdure.records.names import changed_part, fold, human_bytes
from perdure.records.picture import PictureDrift
from perdure.records.preprocessing import PreprocessSpec


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """One tensor of a file.

    Attributes:
        name: its key.
        dtype: its type as PyTorch names it, less `torch.`.
        shape: its sizes.
        n_bytes: bytes that it takes in the file; 0 for a tensor that lies in the memory of another.
        digest: BLAKE3 of its bytes in hexadecimal; empty where the file has none.
        role: `"parameter"` or `"buffer"`; empty where that is not known.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int
    digest: str = ""
    role: str = ""


@dataclasses.dataclass(frozen=True)
class SaveReport:
    """What a save wrote.

    Attributes:
        path: the file or folder; empty when a file object was written to.
        n_bytes: bytes written in all, headers included.
        digest: the root digest, which pins the file: `load_weights(model, path, digest=…)`; empty for a file of another
            format, which has none.
        forms: what the file offers: `"class"`, `"graph"`, `"weights"` or `"checkpoint"`.
        warnings: what the file could not keep, one sentence each.
    """

    path: str
    n_bytes: int
    digest: str
    forms: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        forms = f"{'/'.join(self.forms)}, " if len(self.forms) > 1 else ""
        size = human_bytes(self.n_bytes)
        digest = f", digest {self.digest[:16]}…" if self.digest else ""
        lines = [f"saved {self.path or 'to a file object'}: {forms}{size}{digest}"]
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])


@dataclasses.dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        missing: names that the model has and the file lacks.
        unexpected: names that the file has and the model lacks.
        mismatched: names whose shapes (or types) differ, with the file's and the model's.
        renamed: names of the file that went to another name of the model (several, with commas, where it was cut).
        adapted: names whose values are not the file's as they are, with what was done to these.
        kept: names of the model that keep what they had although nothing is wrong, with the reason.
        unused: names of the file that went nowhere although nothing is wrong, with the reason.
        tied: names that share the memory of another, with that other.
        casts: names whose type was changed to the model's, with the file's and the model's type.
        fraction_loaded: how many of the model's parameters (counted by element) came from the file, 0 to 1.
        verified: what was checked: `"checksum"`, `"full"` or `""`.
        unknown: what the file does not say: `"digests"`, `"environment"`.
        differences: how the environment that saved differs from this one.
    """

    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    mismatched: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    renamed: dict[str, str] = dataclasses.field(default_factory=dict)
    adapted: dict[str, str] = dataclasses.field(default_factory=dict)
    kept: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    tied: dict[str, str] = dataclasses.field(default_factory=dict)
    casts: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    fraction_loaded: float = 1.0
    verified: str = ""
    unknown: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def __str__(self) -> str:
        shapes = [f"{name}: {a} in the file, {b} in the model" for name, (a, b) in self.mismatched.items()]
        lines = [f"loaded {self.fraction_loaded:.1%} of the parameters, {_VERIFIED[self.verified]}"]
        lines += _listed("missing from the file", self.missing)
        lines += _listed("in the file only", self.unexpected)
        lines += _listed("shape differs", shapes)
        lines += _listed("renamed", _renames(self.renamed))
        lines += _listed("adapted", [f"{name}: {how}" for name, how in self.adapted.items()])
        lines += _listed("kept", [f"{name}: {reason}" for name, reason in self.kept.items()])
        lines += _listed("not used", [f"{name}: {reason}" for name, reason in self.unused.items()])
        lines += _listed("tied", [f"{name} = {other}" for name, other in self.tied.items()])
        lines += _casts(self.casts)
        lines += [f"  the file has no {thing}" for thing in self.unknown]
        return "\n".join([*lines, *(f"  saved with {difference}" for difference in self.differences)])


_VERIFIED = {"": "not verified", "checksum": "checksums verified", "full": "BLAKE3 verified"}
_SHOWN = 10
_FEW = 3


def _listed(title: str, names: Iterable[str]) -> list[str]:
    """Write one line for each name, those of repeated layers in one; of many the first."""
    lines = fold(names)
    more = [f"  {title}: … and {len(lines) - _SHOWN} more lines"] if len(lines) > _SHOWN else []
    return [f"  {title}: {name}" for name in lines[:_SHOWN]] + more


def _renames(renamed: dict[str, str]) -> list[str]:
    """Write names that changed alike in one line: `module.* is *, 161 names`."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, new in renamed.items():
        groups.setdefault(changed_part(name, new), []).append(f"{name} is {new}")
    lines: list[str] = []
    for (old, changed), members in groups.items():
        lines += members if len(members) < _FEW else [f"{old} is {changed}, {len(members)} names"]
    return lines


def _casts(casts: dict[str, tuple[str, str]]) -> list[str]:
    groups: dict[tuple[str, str], list[str]] = {}
    for name, types in casts.items():
        groups.setdefault(types, []).append(name)
    lines: list[str] = []
    for (old, new), names in groups.items():
        if len(names) < _FEW:
            lines += _listed("cast", [f"{name}: {old} to {new}" for name in names])
        else:
            lines.append(f"  cast: {len(names)} tensors: {old} to {new}")
    return lines


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that a check found: its kind (the error it would raise), where, and the sentence for people."""

    kind: str
    message: str
    file: str = ""
    tensor: str = ""


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What a check found.

    Attributes:
        path: what was checked.
        ok: nothing is wrong.
        verdict: `"safe"`, `"needs code"`, `"dangerous"` or `"damaged"`.
        findings: what is wrong, or could not be checked.
        n_tensors: tensors whose bytes were read and compared with their digests.
        n_bytes: bytes that were read.
        files: of a folder with several models, the report of each.
    """

    path: str
    ok: bool
    verdict: str
    findings: tuple[Finding, ...]
    n_tensors: int = 0
    n_bytes: int = 0
    files: tuple[CheckReport, ...] = ()

    def __str__(self) -> str:
        head = f"{self.path}: {self.verdict} ({self.n_tensors} tensors, {human_bytes(self.n_bytes)} read)"
        if self.files:
            return "\n".join([head, *(f"  {line}" for report in self.files for line in str(report).splitlines())])
        return "\n".join([head, *(f"  {finding.message}" for finding in self.findings)])


@dataclasses.dataclass(frozen=True)
class Info:
    """What a file is, read from its header alone.

    Attributes:
        path: the file or folder.
        form: the form in which a model was loaded; None for a file.
        reason: why that form.
        forms: what the file offers: `"weights"` or `"checkpoint"`.
        names: classes and functions that the class form would need.
        manifest: perdure's manifest; None for a file of another writer.
        environment: where it was written; None where that is not known.
        differences: how that differs from the environment here.
        tensors: every tensor, in the file's order; those that lie in another's memory last.
        n_bytes: bytes of the file, or of all files of the folder, its index included.
        digest: the root digest; empty where there is none.
        files: the shards' names; empty for a single file.
        labels: the names of the classes that the model tells apart.
        preprocess: how images become what the model takes.
        drift: for a loaded model, the classes whose code has changed since it was saved.
        picture_drift: for a loaded model, what in its preprocessing gives other pixels than when it was saved.
        notes: the notes that were saved, as they were given; None where there are none.
        volatile: the buffers that are not persistent, which are no tensors of the file.
        format: what kind of file it is: `"safetensors"`, `"torch zip archive"`, `"GGUF"`, …
        classes: of a whole model that was pickled, the class of each module by its name.
        facts: what a file of another kind says about itself, such as the metadata of a GGUF file.
        prefix: the keys that lead to its state dict in a checkpoint.
        rest: what a checkpoint holds beside, in outline.
        ties: tensors that lie in the memory of another, with that other.
        n_unnamed: tensors of a pickled model that no state dict has, such as the packed weights of quantized modules.
    """

    path: str
    form: str | None
    reason: str
    forms: tuple[str, ...]
    names: tuple[str, ...]
    manifest: Manifest | None
    environment: Environment | None
    differences: tuple[str, ...]
    tensors: tuple[TensorSpec, ...]
    n_bytes: int
    digest: str = ""
    files: tuple[str, ...] = ()
    labels: Any = None
    preprocess: PreprocessSpec | None = None
    drift: tuple[str, ...] = ()
    picture_drift: tuple[PictureDrift, ...] = ()
    notes: Any = None
    volatile: tuple[TensorSpec, ...] = ()
    format: str = "safetensors"
    classes: dict[str, str] = dataclasses.field(default_factory=dict)
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    rest: Any = None
    ties: dict[str, str] = dataclasses.field(default_factory=dict)
    n_unnamed: int = 0

    @property
    def n_parameters(self) -> int:
        """How many numbers its parameters have, those of tied ones once; all tensors' where roles are not known."""
        known = any(spec.role for spec in self.tensors)
        return sum(
            math.prod(spec.shape) for spec in self.tensors if spec.n_bytes and (spec.role == "parameter" or not known)
        )

    def __str__(self) -> str:
        writer = self.manifest.writer if self.manifest else "another writer"
        return (
            f"{self.path}: {'/'.join(self.forms)} by {writer}, {len(self.tensors)} tensors, {human_bytes(self.n_bytes)}"
        )
