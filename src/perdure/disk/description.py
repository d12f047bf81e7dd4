"""What a file is, from its headers alone."""

from __future__ import annotations

from typing import NamedTuple

from perdure.disk.blobs import unpack
from perdure.disk.sources import BytesSource
from perdure.disk.specs import specs_of
from perdure.disk.stored import Stored, StoredTensors
from perdure.disk.surroundings import surroundings
from perdure.records import architecture, preprocessing, values
from perdure.records.environment import differences
from perdure.records.reports import Info, TensorSpec


def describe(path: str, stored: StoredTensors) -> Info:
    """Tell what an opened file or folder is; `path` is what to call it."""
    manifest = stored.manifest
    n_bytes = stored.index_bytes + sum(source.n_bytes for source in stored.sources())
    offered = _offered(stored)
    environment = manifest.environment if manifest else None
    return Info(
        path=path,
        form=None,
        reason=offered.reason,
        forms=offered.forms,
        names=offered.names,
        manifest=manifest,
        environment=environment,
        differences=differences(environment, surroundings(environment.packages)) if environment else (),
        tensors=tuple(specs_of(stored)),
        n_bytes=n_bytes,
        digest=stored.digest,
        files=stored.files,
        notes=values.decode(manifest.notes, stored.where) if manifest else None,
        volatile=_volatile(stored),
        ties={name: alias.of for name, alias in stored.aliases.items() if not stored.hidden & {name, alias.of}},
        labels=values.decode(manifest.labels, stored.where) if manifest else None,
        preprocess=preprocessing.in_file(manifest.preprocess, stored.where) if manifest else None,
    )


class _Offered(NamedTuple):
    """The forms in which a file can be loaded, why not in others, and what the class form would need."""

    forms: tuple[str, ...]
    reason: str
    names: tuple[str, ...] = ()


def _offered(stored: StoredTensors) -> _Offered:
    kind = stored.manifest.kind if stored.manifest else "weights"
    if kind == "checkpoint":
        return _Offered(("checkpoint",), "a checkpoint holds no model")
    if kind != "model":
        return _Offered(("weights",), "a file of weights alone holds no model")
    content = unpack(stored.metadata, "architecture", stored.where)
    found = architecture.decode(content, stored.where) if content is not None else None
    forms = ["graph", "weights"] if "perdure.graph" in stored.metadata else ["weights"]
    if found is None or found.obstacles:
        said = "; ".join(found.obstacles[:5]) if found else "it was saved without its classes"
        return _Offered(tuple(forms), f"not by its classes: {said}")
    reason = "" if "graph" in forms else "it has no graph: it was saved without an example, or could not be traced"
    return _Offered(("class", *forms), reason, tuple(str(name) for name in found.names if not name.is_torchs))


def _volatile(stored: StoredTensors) -> tuple[TensorSpec, ...]:
    """Describe the buffers that are not persistent, which lie in a file inside a blob."""
    content = unpack(stored.metadata, "buffers", stored.where) if stored.manifest else None
    if content is None:
        return ()
    source = BytesSource(content, f"{stored.where}, the buffers that are not persistent")
    return tuple(specs_of(Stored(source)))
