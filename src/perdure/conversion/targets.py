"""What is held is written as a file of one kind or another, each verified before it takes its place."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec

from perdure.conversion.holding import dtype_of, shape_of
from perdure.disk.files import write_file
from perdure.disk.writing import Item
from perdure.errors import UnsupportedTensorError, UnsupportedValueError
from perdure.foreign.numpy_writing import write_arrays
from perdure.foreign.pytorch.writing import Combined, View, write_state
from perdure.records import values
from perdure.records.dtypes import ENCODED_BYTES
from perdure.records.manifest import Manifest
from perdure.records.reports import SaveReport
from perdure.weights.aliases import contiguous_stride
from perdure.weights.storing import Holdings

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt")
NUMPY_SUFFIX = ".npz"


def write_plain(path: Path, holdings: Holdings) -> SaveReport:
    """Write a safetensors file without anything of perdure's; nothing in `holdings` shares memory.

    Raises:
        UnsupportedTensorError: a tensor that the format itself has no type or layout for.
    """
    _refuse_composed(holdings, "a plain safetensors file")
    for name, dtype in holdings.encoded.items():
        raise UnsupportedTensorError(
            f"saving tensor {name!r}: the safetensors format has no type {dtype}. Convert without --plain, to a file of "
            f"perdure's."
        )
    written = write_file(path, holdings.items, lambda _: {"format": "pt"}, verify=True)
    return SaveReport(str(path), written.n_bytes, "", ("weights",))


def write_numpy(path: Path, holdings: Holdings) -> SaveReport:
    """Write an `.npz` file; nothing in `holdings` shares memory.

    Raises:
        UnsupportedTensorError: a tensor that NumPy has no type for, or a sparse or quantized one.
    """
    _refuse_composed(holdings, "an .npz file")
    items = [
        msgspec.structs.replace(item, dtype=dtype_of(item, holdings), shape=shape_of(item, holdings))
        for item in holdings.items
    ]
    return SaveReport(str(path), write_arrays(path, items), "", ("weights",))


def _refuse_composed(holdings: Holdings, kind: str) -> None:
    for name, composed in holdings.composed.items():
        raise UnsupportedTensorError(
            f"saving tensor {name!r}: {kind} cannot hold a tensor of layout {composed.layout}. Convert to a file of "
            f"perdure's (.safetensors) or to a .pth file."
        )


def write_torch(
    path: Path,
    holdings: Holdings,
    manifest: Manifest | None,
    inner: Collection[str] = (),
    order: Iterable[str] = (),
) -> SaveReport:
    """Write a file that `torch.load(weights_only=True)` opens as a state dict; what shares memory shares it there too.

    Args:
        path: the file.
        holdings: what it shall hold.
        manifest: the source's, for the versions and the extra states of modules; None where it has none.
        inner: the tensors of extra states, which are left out.
        order: of the names in the file; others come behind.

    Raises:
        UnsupportedTensorError: see `write_state`.
    """
    views = {item.name: _view(item, holdings) for item in holdings.items}
    parts = {part for composed in holdings.composed.values() for part in composed.parts.values()}
    tensors: dict[str, View | Combined] = {name: view for name, view in views.items() if name not in parts}
    for name, alias in holdings.aliases.items():
        tensors[name] = views[alias.of]._replace(shape=alias.shape, stride=alias.stride, offset=alias.offset)
    for name, composed in holdings.composed.items():
        tensors[name] = Combined(composed, {part: views[stored] for part, stored in composed.parts.items()})
    in_order = {name: tensors[name] for name in order if name in tensors} | tensors
    tensors = {name: tensor for name, tensor in in_order.items() if name not in inner}
    versions: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    warnings: tuple[str, ...] = ()
    if manifest:
        for entry in manifest.versions:
            versions |= dict.fromkeys(entry.modules, values.decode(entry.metadata, str(path)))
        extra, warnings = _plain_states(manifest.extra_state, str(path))
    n_bytes = write_state(path, tensors, dict(sorted(versions.items())), extra)
    return SaveReport(str(path), n_bytes, "", ("weights",), warnings)


def _view(item: Item, holdings: Holdings) -> View:
    dtype, shape = dtype_of(item, holdings), shape_of(item, holdings)
    return View(item, dtype, ENCODED_BYTES[dtype], shape, contiguous_stride(shape))


def _plain_states(encoded: dict[str, Any], where: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the extra states of modules that a `.pth` file can hold, and warnings about the others."""
    found: dict[str, Any] = {}
    warnings: list[str] = []
    for name, state in encoded.items():
        try:
            found[name] = values.decode(state, where, _no_tensors)
        except UnsupportedValueError as error:
            warnings.append(f"the extra state {name!r} was left out: {error}")
    return found, tuple(warnings)


def _no_tensors(tagged: dict[str, Any]) -> Any:
    raise UnsupportedValueError(f"it holds a {str(tagged.get(values.TAG))[:40]}.")
