"""What two files say about themselves beside their tensors, where it differs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from perdure.comparison.sides import Side
from perdure.disk.blobs import unpack
from perdure.records import architecture, preprocessing, values
from perdure.records.manifest import Manifest

_BLOBS = {
    "architecture": "classes",
    "graph": "graph",
    "proof": "proof",
    "picture": "picture",
    "sources": "sources",
    "buffers": "buffers that are not persistent",
}


def compare_statements(one: Side, other: Side) -> dict[str, tuple[Any, Any]]:
    """Return what differs, by name, as each file has it; nothing where one of the two is no file."""
    if one.weights is None or other.weights is None:
        return {}
    if not (one.manifest and other.manifest):
        writers = _writer(one), _writer(other)
        return {"written by": writers} if writers[0] != writers[1] else {}
    a, b = dict(_statements(one)), dict(_statements(other))
    return {name: (a.get(name), b.get(name)) for name in [*a, *(b.keys() - a.keys())] if a.get(name) != b.get(name)}


def _writer(side: Side) -> str:
    return "perdure" if side.manifest else "another writer"


def _statements(side: Side) -> Iterator[tuple[str, Any]]:
    manifest = side.manifest
    assert manifest is not None
    yield "kind", manifest.kind
    for name, value in msgspec.to_builtins(manifest.environment).items():
        yield f"environment.{name}", value
    for name in ("notes", "labels"):
        yield name, values.plain(values.decode(getattr(manifest, name), side.where))
    yield from _preprocess(manifest, side.where)
    yield "training", manifest.training
    yield "parents", list(manifest.parents)
    yield "extra_state", dict(manifest.extra_state)
    yield from _versions(manifest, side.where)
    yield from _blobs(side)


def _preprocess(manifest: Manifest, where: str) -> Iterator[tuple[str, Any]]:
    """Give each step of the preprocessing, with each of its fields."""
    spec = preprocessing.in_file(manifest.preprocess, where)
    if spec is None:
        yield "preprocess", manifest.preprocess
        return
    for step, value in preprocessing.to_plain(spec).items():
        fields = value if isinstance(value, dict) else {"": value}
        yield from ((f"preprocess.{step}.{field}".rstrip("."), found) for field, found in fields.items())


def _versions(manifest: Manifest, where: str) -> Iterator[tuple[str, Any]]:
    for entry in manifest.versions:
        version = values.plain(values.decode(entry.metadata, where))
        for module in entry.modules:
            yield f"version of {module or 'the model'}", version


def _blobs(side: Side) -> Iterator[tuple[str, Any]]:
    assert side.weights is not None
    stored = side.weights.restorer.stored
    for name, label in _BLOBS.items():
        content = unpack(stored.metadata, name, side.where)
        if content is None:
            continue
        if name == "architecture":
            found = architecture.decode(content, side.where)
            yield label, [str(each) for each in found.names]
        else:
            yield label, f"{len(content)} bytes"
