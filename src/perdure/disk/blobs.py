"""Blobs: what perdure adds to a header beside the manifest, as base64 of zstd under `perdure.<name>`."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

import zstandard

from perdure.errors import CorruptError, InputError, LimitError

MAX_ADDED_BYTES = 16_000_000
"""What perdure adds to a header is at most this, in the form in which it is stored."""

MAX_UNPACKED_BYTES = 256 * 2**20
"""The blobs of a file, all together, unpack to at most this."""

KNOWN = ("architecture", "graph", "proof", "picture", "sources", "buffers", "values")
"""The blobs that have a meaning; readers leave others alone."""

_MAX_WINDOW_BYTES = 2**27
_STEP_BYTES = 512
_PREFIX = "perdure."


def check_added(metadata: dict[str, str], where: str) -> None:
    """Refuse blobs that are larger than those of any writer.

    Raises:
        LimitError: all together they take more than `MAX_ADDED_BYTES`.
    """
    n_bytes = sum(len(text) for key, text in metadata.items() if key.startswith(_PREFIX))
    if n_bytes > MAX_ADDED_BYTES:
        raise LimitError(f"reading {where}: its blobs take {n_bytes} bytes; the limit is {MAX_ADDED_BYTES}.")


def pack(name: str, content: bytes) -> tuple[str, str]:
    """Return the metadata key and value that hold `content`.

    Raises:
        InputError: it takes more room than a header may give it.
    """
    key, text = wrap(name, zstandard.ZstdCompressor(level=3).compress(content))
    if len(text) > MAX_ADDED_BYTES or len(content) > MAX_UNPACKED_BYTES:
        raise InputError(
            f"saving: {name} take {len(content)} bytes ({len(text)} packed); at most {MAX_UNPACKED_BYTES} "
            f"({MAX_ADDED_BYTES} packed) fit into a header. Put large lists of numbers into arrays or tensors."
        )
    return key, text


def wrap(name: str, packed: bytes) -> tuple[str, str]:
    """Return the metadata key and value that hold content which is zstd already."""
    return _PREFIX + name, base64.b64encode(packed).decode()


def unpack(metadata: Mapping[str, str], name: str, where: str, limit: int = MAX_UNPACKED_BYTES) -> bytes | None:
    """Return the content of a blob, or None where there is none of that name.

    Raises:
        CorruptError: not base64 of zstd.
        LimitError: it would unpack to more than `limit` bytes; it is decoded as a stream, so no more than that
            is ever allocated, whatever size it declares.
    """
    text = metadata.get(_PREFIX + name)
    if text is None:
        return None
    try:
        packed = base64.b64decode(text, validate=True)
        return _decompressed(packed, name, where, limit)
    except (binascii.Error, ValueError, zstandard.ZstdError) as error:
        raise CorruptError(f"reading {where}: the blob {name!r} cannot be unpacked ({error}).") from None


def _decompressed(packed: bytes, name: str, where: str, limit: int) -> bytes:
    """Decompress one frame, in steps so small that no step can give much, and see that it is whole."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).decompressobj()
    parts: list[bytes] = []
    n_bytes = 0
    start = 0
    for start in range(0, len(packed), _STEP_BYTES):
        if decompressor.eof:
            break
        parts.append(decompressor.decompress(packed[start : start + _STEP_BYTES]))
        n_bytes += len(parts[-1])
        if n_bytes > limit:
            raise LimitError(
                f"reading {where}: its blobs unpack to more than {MAX_UNPACKED_BYTES} bytes, at {name!r}; that is the limit."
            )
    if not decompressor.eof or decompressor.unused_data or start + _STEP_BYTES < len(packed):
        raise ValueError("it is not one whole zstd frame")
    return b"".join(parts)
