"""Files made by hand: each byte as the attacker wants it, and sealed where perdure would otherwise stop at the seal."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import zstandard
from blake3 import blake3
from xxhash import xxh3_128_hexdigest

BLANK = "0" * 64


def safetensors(header: bytes | str | dict[str, Any], data: bytes = b"", *, length: int | None = None) -> bytes:
    """Return a file with this header, whatever it is; `length` is what its first eight bytes claim."""
    if isinstance(header, dict):
        header = json.dumps(header)
    raw = header.encode() if isinstance(header, str) else header
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return a file's header, parsed, and its data."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def sealed(header: dict[str, Any], data: bytes = b"") -> bytes:
    """Return a file with this header, its seal made to match as FORMAT.md says."""
    metadata = {**header.get("__metadata__", {}), "perdure.digest": BLANK}
    text = _compact({**header, "__metadata__": metadata})
    raw = struct.pack("<Q", len(text)) + text
    return _seal(raw) + data


def sealed_index(index: dict[str, Any]) -> bytes:
    """Return an index with this content, its seal made to match."""
    return _seal(_compact({**index, "metadata": {**index["metadata"], "perdure.digest": BLANK}}))


def _compact(content: dict[str, Any]) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _seal(raw: bytes) -> bytes:
    slot = b'"perdure.digest":"' + BLANK.encode()
    assert raw.count(slot) == 1
    return raw.replace(slot, b'"perdure.digest":"' + blake3(raw).hexdigest().encode())


def manifest_of(content: bytes) -> dict[str, Any]:
    return json.loads(header_of(content)[0]["__metadata__"]["perdure"])


def with_manifest(content: bytes, **changes: Any) -> bytes:
    """Return a perdure file with fields of its manifest replaced, and sealed again."""
    header, data = header_of(content)
    manifest = {**json.loads(header["__metadata__"]["perdure"]), **changes}
    header["__metadata__"]["perdure"] = json.dumps(manifest)
    return sealed(header, data)


def with_blob(content: bytes, name: str, packed: bytes) -> bytes:
    """Return a perdure file with a blob put in or replaced, and sealed again."""
    header, data = header_of(content)
    header["__metadata__"][f"perdure.{name}"] = base64.b64encode(packed).decode()
    return sealed(header, data)


def with_values(content: bytes, text: str | bytes) -> bytes:
    """Return a checkpoint with other values, and sealed again."""
    return with_blob(content, "values", zstandard.compress(text.encode() if isinstance(text, str) else text))


def perdure_file(tensors: dict[str, tuple[str, list[int], bytes]], **manifest: Any) -> bytes:
    """Return a sealed file of tensors given as (safetensors type, shape, bytes), with whatever manifest is wanted."""
    header: dict[str, Any] = {}
    records: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        records[name] = {"blake3": blake3(content).hexdigest(), "xxh3": xxh3_128_hexdigest(content)}
        data += content
    base = {
        "protocol": 1, "kind": "weights", "writer": "perdure 9", "time": "2026-01-01T00:00:00Z", "tensors": records,
    }  # fmt: skip
    extra = manifest.pop("records", {})
    for name, fields in extra.items():
        records[name] |= fields
    header["__metadata__"] = {"format": "pt", "perdure": json.dumps({**base, **manifest})}
    return sealed(header, data)
