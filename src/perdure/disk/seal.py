"""The seal: one BLAKE3 over a whole header, or over the index of a sharded model, kept inside what it covers.

The metadata holds `perdure` (the manifest) and `perdure.digest`, the digest of all bytes of the header, length included,
with its own 64 characters zeroed. It is the root digest of the file: the manifest holds the digest of each tensor.
"""

from __future__ import annotations

import re

from blake3 import blake3

from perdure.errors import CorruptError, DigestError

MANIFEST_KEY = "perdure"
DIGEST_KEY = "perdure.digest"
BLANK = "0" * 64
_HEX = set("0123456789abcdef")
_STRAY = re.compile(f'"{re.escape(DIGEST_KEY)}":"[0-9a-f]{{64}}"'.encode())


def seal(raw: bytes) -> tuple[bytes, str]:
    """Put the digest into its blank slot; returns the sealed bytes and the digest in hexadecimal."""
    start = _slot(raw, BLANK, "a new file")
    digest = blake3(raw).hexdigest()
    return b"".join((raw[:start], digest.encode(), raw[start + 64 :])), digest


def check_seal(raw: bytes, metadata: dict[str, str], where: str) -> str | None:
    """Return the root digest that the bytes were found to have; None where neither key of the seal is there.

    Raises:
        CorruptError: one key without the other, or a digest that is none.
        DigestError: the bytes are not those that were sealed.
    """
    if MANIFEST_KEY not in metadata and DIGEST_KEY not in metadata:
        if _STRAY.search(raw):
            raise CorruptError(f"reading {where}: {DIGEST_KEY!r} stands outside of the metadata. {AS_PLAIN_WEIGHTS}")
        return None
    if MANIFEST_KEY not in metadata or DIGEST_KEY not in metadata:
        there, absent = (MANIFEST_KEY, DIGEST_KEY) if MANIFEST_KEY in metadata else (DIGEST_KEY, MANIFEST_KEY)
        raise CorruptError(f"reading {where}: the metadata has {there!r} without {absent!r}. {AS_PLAIN_WEIGHTS}")
    digest = metadata[DIGEST_KEY]
    if len(digest) != 64 or not set(digest) <= _HEX:
        raise CorruptError(f"reading {where}: {DIGEST_KEY!r} must be 64 hexadecimal digits. {AS_PLAIN_WEIGHTS}")
    start = _slot(raw, digest, where)
    found = blake3(b"".join((raw[:start], BLANK.encode(), raw[start + 64 :]))).hexdigest()
    if found != digest:
        raise DigestError(f"reading {where}: the header does not match its digest. {AS_PLAIN_WEIGHTS}")
    return digest


AS_PLAIN_WEIGHTS = (
    "Either the file is damaged, or another tool wrote it anew and copied the metadata of perdure. Restore it from a "
    "copy; if you trust the tool, read it as plain weights: safetensors.torch.load_file(path), or "
    "perdure.load_weights(model, path, verify=False)."
)


def _slot(raw: bytes, digest: str, where: str) -> int:
    """Return where the digest's characters stand: where its key is first followed by text.

    An index may go on to name a tensor like the key. Should that come first, or both stand for the same digest, then no
    file can be made that matches: it would have to hold its own digest among the bytes that are digested.
    """
    key = f'"{DIGEST_KEY}":"'.encode()
    start = raw.find(key)
    if start < 0 or raw[start + len(key) : start + len(key) + 65] != digest.encode() + b'"':
        raise CorruptError(f"reading {where}: {DIGEST_KEY!r} does not stand as perdure writes it. {AS_PLAIN_WEIGHTS}")
    return start + len(key)
