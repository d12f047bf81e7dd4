"""The manifest against the tensors it speaks of: a sealed header may still have been made to deceive."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping

from perdure.disk.faults import broken
from perdure.disk.header import MAX_DIMENSIONS, Entry
from perdure.errors import ProtocolError
from perdure.records.dtypes import ENCODED_BYTES
from perdure.records.manifest import PARTS, Alias, Composed, Manifest
from perdure.records.reports import TensorSpec

Shape = tuple[int, ...]
_MAX_ELEMENTS = 2**62

QUANTIZED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}
"""The types of quantized tensors, and those of their integers."""


def check_file(manifest: Manifest, entries: Mapping[str, Entry], where: str) -> None:
    """Check that the manifest of a file knows each of its tensors, and no others.

    Raises:
        CorruptError: it does not.
        ProtocolError: a tensor of a type that this perdure does not know.
    """
    if manifest.tensors.keys() != entries.keys():
        odd = sorted(manifest.tensors.keys() ^ entries.keys())[0]
        raise broken(where, f"tensor {odd[:200]!r} stands only in the manifest or only in the header.")
    for name, record in manifest.tensors.items():
        if len(record.blake3) != 64 or len(record.xxh3) != 32:
            raise broken(where, f"the digests of tensor {name[:200]!r} are no digests.")
        if record.dtype and record.dtype not in ENCODED_BYTES:
            raise ProtocolError(
                f"reading {where}: tensor {name[:200]!r} has the type {record.dtype[:40]!r}, which this perdure does not "
                f"know (written by {manifest.writer[:40]}). Upgrade perdure, or read its bytes with safetensors."
            )
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
    return entry.dtype == "U8" and entry.shape[-1:] == (ENCODED_BYTES[dtype],)


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
    types = QUANTIZED if record.layout == "quantized" else ("",)
    whole = set(record.parts) in PARTS.get(record.layout, ()) and record.dtype in types
    return whole and 0 <= record.axis <= max(0, len(record.shape) - 1)


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


def check_composed(name: str, record: Composed, parts: Mapping[str, TensorSpec], where: str) -> None:
    """Check that the shapes of the parts of a tensor make one of its shape; their values are not looked at."""
    shapes = {part: spec.shape for part, spec in parts.items()}
    if record.layout == "quantized":
        fits = _fits_quantized(record, shapes) and parts["int_repr"].dtype == QUANTIZED[record.dtype]
    elif record.layout == "sparse_coo":
        fits = _fits_coordinates(record.shape, shapes["indices"], shapes["values"])
    else:
        fits = _fits_compressed(record, shapes)
    if not fits:
        raise broken(where, f"the parts of tensor {name[:200]!r} do not make one of shape {list(record.shape)}.")


def _fits_quantized(record: Composed, shapes: Mapping[str, Shape]) -> bool:
    per_channel = shapes.get("scales", ()) == shapes.get("zero_points", ()) and (
        "scales" not in shapes or shapes["scales"] == record.shape[record.axis : record.axis + 1] != ()
    )
    return shapes["int_repr"] == record.shape and per_channel


def _fits_coordinates(shape: Shape, indices: Shape, values: Shape) -> bool:
    if len(indices) != 2 or indices[0] > len(shape):
        return False
    return values == (indices[1], *shape[indices[0] :])


def _fits_compressed(record: Composed, shapes: Mapping[str, Shape]) -> bool:
    """See that the index of rows (or columns) has one more entry than there are, and each value one place."""
    by_row, blocked = record.layout in ("sparse_csr", "sparse_bsr"), record.layout in ("sparse_bsr", "sparse_bsc")
    outer, inner, values = (shapes[part] for part in (_OUTER[by_row], _INNER[by_row], "values"))
    n_batch = len(outer) - 1
    if n_batch < 0 or len(inner) != n_batch + 1 or len(record.shape) < n_batch + 2:
        return False
    places = values[: n_batch + 1]
    block = values[n_batch + 1 : n_batch + 3] if blocked else (1, 1)
    rest = values[n_batch + (3 if blocked else 1) :]
    if len(block) != 2 or 0 in block:
        return False
    axis = n_batch + (0 if by_row else 1)
    n_outer, uneven = divmod(record.shape[axis], block[axis - n_batch])
    batches = outer[:-1] == inner[:-1] == record.shape[:n_batch]
    return (
        batches and not uneven and outer[-1] == n_outer + 1 and inner == places and rest == record.shape[n_batch + 2 :]
    )


_OUTER = {True: "crow_indices", False: "ccol_indices"}
_INNER = {True: "col_indices", False: "row_indices"}
