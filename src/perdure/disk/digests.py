"""The digests of a tensor's bytes: BLAKE3, its identity, XXH3-128, which every load checks, and the CRC-32 of others."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import xxhash
from blake3 import blake3

from perdure.records.manifest import TensorRecord

try:
    from isal.isal_zlib import crc32  # five times as fast
except ImportError:  # there are processors that it is not made for
    from zlib import crc32


class Digests(NamedTuple):
    """Both digests in hexadecimal."""

    blake3: str
    xxh3: str


def digests_of(content: bytes | memoryview) -> Digests:
    """Return both digests of some bytes."""
    return Digests(blake3(content).hexdigest(), xxhash.xxh3_128_hexdigest(content))


EMPTY = digests_of(b"")


class Crc32(msgspec.Struct, frozen=True, gc=False):
    """The CRC-32 of a tensor's bytes, all that the archives of other writers keep."""

    value: int


Expected = TensorRecord | Crc32
"""What the bytes of a tensor are compared with."""


class Digesting:
    """Digests the bytes of a tensor as they come, and compares.

    Args:
        expected: what they are compared with.
        full: compare BLAKE3 too, where there is one.
    """

    def __init__(self, expected: Expected, full: bool) -> None:
        self._expected = expected
        self._crc32 = 0
        self._checksum = xxhash.xxh3_128() if isinstance(expected, TensorRecord) else None
        self._identity = blake3() if full and isinstance(expected, TensorRecord) else None

    def update(self, view: memoryview) -> None:
        """Take the bytes that come next."""
        if self._checksum is None:
            self._crc32 = crc32(view, self._crc32)
            return
        self._checksum.update(view)
        if self._identity:
            self._identity.update(view)

    def fault(self) -> str:
        """Return which of the digests differs, once all bytes were taken; empty where all are as expected."""
        expected = self._expected
        if isinstance(expected, Crc32):
            return "checksum (CRC-32)" if self._crc32 != expected.value else ""
        if self._checksum is not None and self._checksum.hexdigest() != expected.xxh3:
            return "checksum (XXH3-128)"
        return "digest (BLAKE3)" if self._identity and self._identity.hexdigest() != expected.blake3 else ""
