"""JSON text is sized up before it is parsed: what stands in it takes many times its memory."""

from __future__ import annotations

_CHUNK_BYTES = 2**20


def count_outside_strings(text: bytes, marks: bytes, enough: int) -> int:
    """Count how often any of the marks stands in JSON text, those within strings left out.

    Args:
        text: JSON, or what claims to be.
        marks: the single bytes that are counted.
        enough: no need to be exact at or below this, nor to go on beyond it.
    """
    n_marks = sum(text.count(mark) for mark in marks)
    if n_marks <= enough:
        return n_marks
    bare = text.replace(rb"\\", b"").replace(rb"\"", b"")
    bare = bare.translate(None, bytes(set(range(256)) - set(marks) - set(b'"')))
    n_marks = inside = 0
    for start in range(0, len(bare), _CHUNK_BYTES):
        parts = bare[start : start + _CHUNK_BYTES].split(b'"')
        n_marks += sum(map(len, parts[inside::2]))
        inside = (inside + len(parts) - 1) % 2
        if n_marks > enough:
            break
    return n_marks
