"""The manifest: what perdure says about the tensors of a file, kept as JSON in the header's metadata.

`docs/FORMAT.md` is its specification. A field that a reader must understand is named in `features`; whoever adds such
a field adds its name there and to `KNOWN_FEATURES`, so that older readers refuse the file instead of misreading it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from perdure.errors import CorruptError, ProtocolError
from perdure.records.environment import Environment

PROTOCOL = 1
KNOWN_FEATURES = frozenset({"aliases", "composed", "encoded", "values"})


class TensorRecord(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One stored tensor.

    `dtype` is set where the file's own type is only a vessel: bytes of a type it does not know. `axes` is the order in which
    the axes lay in the saver's memory, where that was another than the file's (`channels_last`).
    """

    blake3: str
    xxh3: str
    role: str = ""
    requires_grad: bool = False
    dtype: str = ""
    axes: tuple[int, ...] = ()


class Alias(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor that lies in the memory of another: offset and stride count elements of the contiguous owner."""

    of: str
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int = 0
    role: str = ""
    requires_grad: bool = False


class Composed(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tensor made of several stored ones: sparse layouts and quantized tensors."""

    layout: str
    shape: tuple[int, ...]
    parts: dict[str, str]
    dtype: str = ""
    coalesced: bool = False
    axis: int = 0
    scale: float = 0.0
    zero_point: int = 0
    role: str = ""
    requires_grad: bool = False


_BY_ROW = {"crow_indices", "col_indices", "values"}
_BY_COLUMN = {"ccol_indices", "row_indices", "values"}
PARTS: dict[str, tuple[set[str], ...]] = {
    "sparse_coo": ({"indices", "values"},),
    "sparse_csr": (_BY_ROW,),
    "sparse_bsr": (_BY_ROW,),
    "sparse_csc": (_BY_COLUMN,),
    "sparse_bsc": (_BY_COLUMN,),
    "quantized": ({"int_repr"}, {"int_repr", "scales", "zero_points"}),
}
"""The parts that a composed tensor of each layout has."""


class ModuleVersions(msgspec.Struct, frozen=True):
    """The modules that share one entry of `state_dict._metadata`, and that entry as encoded plain values."""

    metadata: Any
    modules: tuple[str, ...]


class ShardRecord(msgspec.Struct, frozen=True):
    """One file of a sharded model: its size in bytes and the root digest that it must have."""

    n_bytes: int
    digest: str


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that perdure knows about a file beyond its tensors' types and shapes."""

    protocol: int
    kind: str
    writer: str
    time: str
    features: tuple[str, ...] = ()
    tensors: dict[str, TensorRecord] = {}
    aliases: dict[str, Alias] = {}
    composed: dict[str, Composed] = {}
    overlaps: tuple[tuple[str, str], ...] = ()
    versions: tuple[ModuleVersions, ...] = ()
    extra_state: dict[str, Any] = {}
    training: bool | tuple[str, ...] | None = None
    notes: Any = None
    labels: Any = None
    preprocess: Any = None
    parents: tuple[str, ...] = ()
    environment: Environment = Environment()
    shards: dict[str, ShardRecord] = {}


class _Protocol(msgspec.Struct):
    protocol: int
    writer: str = ""
    features: tuple[str, ...] = ()


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Manifest)
_protocol_decoder = msgspec.json.Decoder(_Protocol)


def encode(manifest: Manifest) -> str:
    """Return the manifest as JSON text."""
    return _encoder.encode(manifest).decode()


def decode(text: str, where: str) -> Manifest:
    """Read a manifest; `where` names the file in messages.

    Raises:
        ProtocolError: a later protocol, or a feature that this perdure does not know.
        CorruptError: not a manifest of protocol 1.
    """
    try:
        head = _protocol_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its manifest cannot be read ({error})") from None
    if head.protocol != PROTOCOL:
        raise ProtocolError(
            f"reading {where}: it was written by {head.writer or 'a perdure'} with protocol {head.protocol}; this "
            f"perdure reads protocol {PROTOCOL}. Upgrade perdure, or read its weights with safetensors."
        )
    unknown = sorted(set(head.features) - KNOWN_FEATURES)
    if unknown:
        raise ProtocolError(
            f"reading {where}: it needs {', '.join(map(repr, unknown))}, which this perdure does not know (written by "
            f"{head.writer or 'a later perdure'}). Upgrade perdure, or read its weights with safetensors."
        )
    try:
        return _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"reading {where}: its manifest is not one of protocol {PROTOCOL} ({error})") from None
