"""The manifest against the tensors it speaks of: a sealed header may still have been made to deceive."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

from perdure.disk.faults import broken
from perdure.disk.header import MAX_DIMENSIONS, Entry
from perdure.records.dtypes import ENCODED_BYTES
from perdure.records.manifest import PARTS, Alias, Composed, Manifest

_MAX_ELEMENTS = 2**62


def check_file(manifest: Manifest, entries: Mapping[str, Entry], where: str) -> None:
    """Check that the manifest of a file knows each of its tensors, and no others."""
    if manifest.tensors.keys() != entries.keys():
        odd = sorted(manifest.tensors.keys() ^ entries.keys())[0]
        raise broken(where, f"tensor {odd[:200]!r} stands only in the manifest or only in the header.")
    for name, record in manifest.tensors.items():
        if len(record.blake3) != 64 or len(record.xxh3) != 32:
            raise broken(where, f"the digests of tensor {name[:200]!r} are no digests.")
        if record.dtype and not _holds(entries[name], record.dtype):
            raise broken(where, f"tensor {name[:200]!r} must be stored as bytes to be read as {record.dtype}.")
    if not _is_hex("".join([record.blake3 + record.xxh3 for record in manifest.tensors.values()])):
        raise broken(where, "its digests are no digests.")


def _is_hex(digits: str) -> bool:
    try:
        return bytes.fromhex(digits).hex() == digits
    except ValueError:
        return False


MAX_PACKAGES = 1000


def _holds(entry: Entry, dtype: str) -> bool:
    """Tell whether bytes are stored as they must be to be read as a type that the file itself has not."""
    element_bytes = ENCODED_BYTES.get(dtype)
    return entry.dtype == "U8" and bool(entry.shape) and element_bytes in (None, entry.shape[-1])


def check_model(manifest: Manifest, names: Container[str], where: str) -> None:
    """Check that what the manifest derives from stored tensors is derived from tensors that are there."""
    if len(manifest.environment.packages) > MAX_PACKAGES:
        raise broken(where, f"it names more than {MAX_PACKAGES} packages.")
    derived: dict[str, Alias | Composed] = {**manifest.aliases, **manifest.composed}
    if len(derived) != len(manifest.aliases) + len(manifest.composed):
        raise broken(where, "a tensor is both an alias and composed of others.")
    for name, record in derived.items():
        if name in names:
            raise broken(where, f"tensor {name[:200]!r} is stored and derived from others as well.")
        _check_sizes(name, record, where)
        if isinstance(record, Composed) and not _is_complete(record):
            raise broken(where, f"tensor {name[:200]!r} does not have the parts of its layout {record.layout[:40]!r}.")
        for source in (record.of,) if isinstance(record, Alias) else record.parts.values():
            if source not in names:
                raise broken(where, f"tensor {name[:200]!r} is derived from {source[:200]!r}, which is not there.")


def _is_complete(record: Composed) -> bool:
    return set(record.parts) in PARTS.get(record.layout, ()) and 0 <= record.axis <= max(0, len(record.shape) - 1)


def _check_sizes(name: str, record: Alias | Composed, where: str) -> None:
    sizes = record.shape + ((*record.stride, record.offset) if isinstance(record, Alias) else ())
    dimensions = len(record.shape)
    fits = dimensions <= MAX_DIMENSIONS and all(0 <= size < _MAX_ELEMENTS for size in sizes)
    fits = fits and math.prod(filter(None, record.shape)) < _MAX_ELEMENTS
    if not fits or (isinstance(record, Alias) and len(record.stride) != dimensions):
        raise broken(where, f"the sizes of tensor {name[:200]!r} are impossible.")


def check_alias(name: str, alias: Alias, owner_elements: int, where: str) -> None:
    """Check that an alias lies within the memory of its owner."""
    if 0 in alias.shape:
        last = alias.offset - 1
    else:
        last = alias.offset + sum((n - 1) * step for n, step in zip(alias.shape, alias.stride, strict=True))
    if last >= owner_elements:
        raise broken(
            where,
            f"tensor {name[:200]!r} would reach element {last} of {alias.of[:200]!r}, which has {owner_elements}.",
        )
