"""The two digests of a tensor's bytes: BLAKE3, its identity, and XXH3-128, which every load checks."""

from __future__ import annotations

from typing import NamedTuple

import xxhash
from blake3 import blake3


class Digests(NamedTuple):
    """Both digests in hexadecimal."""

    blake3: str
    xxh3: str


def digests_of(content: bytes | memoryview) -> Digests:
    """Return both digests of some bytes."""
    return Digests(blake3(content).hexdigest(), xxhash.xxh3_128_hexdigest(content))


EMPTY = digests_of(b"")
