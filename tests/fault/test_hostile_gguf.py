"""Hostile and damaged GGUF files: the right error, soon, in little memory, and never another kind of error."""

from __future__ import annotations

import os
import struct
import time
import tracemalloc
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault.gguf_forging import ARRAY, BIG_ENDIAN, TEXT, Form, gguf
from perdure.disk.sources import BytesSource, PathSource
from perdure.errors import CorruptError, FileError, FormatError, LimitError
from perdure.foreign.gguf.files import MAX_AXES, MAX_KEYS, MAX_TENSORS, MAX_TRAILING_BYTES, read_gguf
from perdure.foreign.gguf.header import MAX_HEADER_BYTES, MAX_NESTING, MAX_VALUES
from perdure.foreign.inert import Content

MIB = 2**20
FORM = Form()
F32, Q4_0, I8 = 0, 2, 24


class Case(NamedTuple):
    """A file that may not be accepted: its bytes, the error, and what the message has to say."""

    content: bytes
    error: type[FileError]
    says: str


def read(content: bytes) -> Content:
    return read_gguf(BytesSource(content), "file.gguf")


def pair(kind: int, raw: bytes, key: str = "key") -> bytes:
    """Return a key whose value is these bytes."""
    return FORM.text(key) + struct.pack("<I", kind) + raw


def array(kind: int, length: int, raw: bytes = b"") -> bytes:
    return pair(ARRAY, struct.pack("<IQ", kind, length) + raw)


def nested(depth: int) -> bytes:
    return pair(ARRAY, struct.pack("<IQ", ARRAY, 1) * (depth - 1) + struct.pack("<IQ", 0, 1) + b"\7")


def aligned(alignment: int, kind: int = 4) -> bytes:
    return gguf([FORM.pair("general.alignment", kind, alignment)], [FORM.info("w", (1,), F32, 0)], b"\0" * 4)


def one(shape: tuple[int, ...] = (8,), type: int = F32, offset: int = 0, data: bytes = b"\0" * 32) -> bytes:
    return gguf((), [FORM.info("weight", shape, type, offset)], data)


def two(first: int, second: int) -> bytes:
    """Return a file of two tensors of 40 bytes at these offsets."""
    infos = [FORM.info("first", (10,), F32, first), FORM.info("second", (10,), F32, second)]
    return gguf((), infos, b"\0" * 512)


BIG = 2**63
CASES = {
    "nothing": Case(b"", CorruptError, "cut off"),
    "another magic": Case(gguf(magic=b"FUGG"), FormatError, "FUGG"),
    "old ggml": Case(b"tjgg" + b"\3\0\0\0" * 9, FormatError, "tjgg"),
    "version 0": Case(gguf(version=0), FormatError, "version 0"),
    "version 4": Case(gguf(version=4), FormatError, "version 4"),
    "version 4, big-endian": Case(gguf(version=4, form=BIG_ENDIAN), FormatError, "version 4"),
    "version 2, big-endian": Case(gguf(version=2, form=BIG_ENDIAN), FormatError, "version 2"),
    "keys counted and absent": Case(gguf(n_pairs=1), CorruptError, "1 keys"),
    "2**64-1 keys": Case(gguf(n_pairs=2**64 - 1), CorruptError, "counts 18446744073709551615 keys"),
    "2**64-1 tensors": Case(gguf(n_infos=2**64 - 1), CorruptError, "counts 18446744073709551615 tensors"),
    "too many tensors": Case(gguf(n_infos=MAX_TENSORS + 1) + b"\0" * MIB, LimitError, "tensors"),
    "too many keys": Case(gguf(n_pairs=MAX_KEYS + 1) + b"\0" * MIB, LimitError, "keys"),
    "key longer than the file": Case(gguf([FORM.text("key", 2**64 - 1)]), CorruptError, "bytes of a name"),
    "key a little longer than the file": Case(gguf([FORM.text("key", 4) + b"\0" * 2]), CorruptError, "cut off"),
    "key not UTF-8": Case(gguf([FORM.pair(b"k\xff", 0, 1)]), CorruptError, "not UTF-8"),
    "key empty": Case(gguf([FORM.pair("", 0, 1)]), CorruptError, "empty"),
    "key twice": Case(gguf([FORM.pair("key", 0, 1)] * 2), CorruptError, "'key' stands twice"),
    "value of no type": Case(gguf([pair(13, b"\0" * 8)]), CorruptError, "type 13"),
    "array of no type": Case(gguf([array(13, 0)]), CorruptError, "type 13"),
    "text longer than the file": Case(gguf([pair(TEXT, struct.pack("<Q", 2**64 - 1))]), CorruptError, "cut off"),
    "text of 2 GiB": Case(gguf([pair(TEXT, struct.pack("<Q", 2**31))]), CorruptError, "cut off"),
    "2**64-1 numbers": Case(gguf([array(0, 2**64 - 1)]), CorruptError, "numbers"),
    "2**61 numbers of 8 bytes": Case(gguf([array(12, 2**61)]), CorruptError, "numbers"),
    "2**64-1 texts": Case(gguf([array(TEXT, 2**64 - 1)]), CorruptError, "texts"),
    "2**64-1 arrays": Case(gguf([array(ARRAY, 2**64 - 1)]), CorruptError, "arrays"),
    "more numbers than follow": Case(gguf([array(6, 4, b"\0" * 15)]), CorruptError, "4 numbers"),
    "more texts than follow": Case(gguf([array(TEXT, 3, b"\0" * 23)]), CorruptError, "3 texts"),
    "too many numbers": Case(gguf([array(0, MAX_VALUES + 1, b"\0" * (MAX_VALUES + 1))]), LimitError, "limit"),
    "too many in two arrays": Case(
        gguf([array(0, MIB, b"\0" * MIB), pair(ARRAY, struct.pack("<IQ", 0, MIB + 1) + b"\0" * (MIB + 1), "other")]),
        LimitError,
        "limit",
    ),
    "nested too deep": Case(gguf([nested(MAX_NESTING + 1)]), LimitError, "nested"),
    "nested very deep": Case(gguf([nested(100_000)]), LimitError, "nested"),
    "too many arrays": Case(
        gguf([array(ARRAY, MAX_VALUES // 16 + 1, struct.pack("<IQ", 0, 0) * (MAX_VALUES // 16 + 1))]),
        LimitError,
        "values",
    ),
    "alignment 0": Case(aligned(0), CorruptError, "is 0"),
    "alignment 3": Case(aligned(3), CorruptError, "is 3"),
    "alignment 2**31": Case(aligned(2**31), CorruptError, "is 2147483648"),
    "alignment 2**63": Case(aligned(BIG, 10), CorruptError, "type 10"),
    "alignment signed": Case(aligned(32, 5), CorruptError, "type 5"),
    "alignment of another kind": Case(gguf([pair(TEXT, FORM.text("32"), "general.alignment")]), CorruptError, "type 8"),
    "name not UTF-8": Case(gguf((), [FORM.info(b"\xc3", (1,), I8, 0)], b"\0"), CorruptError, "not UTF-8"),
    "name twice": Case(
        gguf((), [FORM.info("w", (1,), I8, 0), FORM.info("w", (1,), I8, 32)], b"\0" * 64), CorruptError, "two tensors"
    ),
    "too many axes": Case(one((1,) * (MAX_AXES + 1)), CorruptError, "axes"),
    "2**32-1 axes": Case(gguf((), [FORM.text("w") + b"\xff" * 4 + b"\0" * 32]), CorruptError, "axes"),
    "an axis of 2**63": Case(one((BIG,)), CorruptError, "more elements"),
    "axes of 2**64 elements": Case(one((2**32, 2**32)), CorruptError, "more elements"),
    "no elements, and too many": Case(one((0, 2**32, 2**32)), CorruptError, "more elements"),
    "2**63-1 elements of 4 bytes": Case(one((BIG - 1,)), CorruptError, "cut"),
    "a type of no number": Case(one(type=43), FormatError, "'weight' is of the type number 43"),
    "type 2**32-1": Case(one(type=2**32 - 1), FormatError, "number 4294967295"),
    "a type given up": Case(one(type=31), FormatError, "Q4_0_4_4"),
    "rows of no whole blocks": Case(one((2, 33), Q4_0), CorruptError, "rows of 33"),
    "blocks without axes": Case(one((), Q4_0), CorruptError, "rows of 1"),
    "offset not aligned": Case(one(offset=4), CorruptError, "next multiple of 32"),
    "offset of 2**64-32": Case(one(offset=2**64 - 32), CorruptError, "next multiple"),
    "beyond the end": Case(one(data=b"\0" * 31), CorruptError, "cut"),
    "no data": Case(one(data=b""), CorruptError, "cut"),
    "overlap": Case(two(0, 32), CorruptError, "overlaps"),
    "the same place twice": Case(two(0, 0), CorruptError, "overlaps"),
    "hole": Case(two(0, 96), CorruptError, "next multiple"),
    "hole before the first": Case(two(32, 96), CorruptError, "next multiple"),
    "bytes behind": Case(one(data=b"\0" * 32 + b"PK\3\4"), CorruptError, "padding"),
    "bytes behind padding": Case(one(data=b"\0" * 1000 + b"\1"), CorruptError, "padding"),
    "zeros without end": Case(one(data=b"\0" * (33 + MAX_TRAILING_BYTES)), CorruptError, "padding"),
    "bytes behind a header": Case(gguf([FORM.pair("key", 0, 1)]) + b"\1", CorruptError, "padding"),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_refused(case: Case) -> None:
    begun = time.process_time()
    with pytest.raises(case.error) as caught:
        read(case.content)
    assert time.process_time() - begun < 2  # twice what is promised, for the sake of busy machines
    message = str(caught.value)
    assert type(caught.value) is case.error
    assert case.says in message and message.startswith("reading file.gguf: ") and len(message) < 500
    tracemalloc.start()
    try:
        with pytest.raises(case.error):
            read(case.content)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 12 * len(case.content) + MIB


def many_tensors(n_axes: int) -> bytes:
    infos = [FORM.info(f"t{number}", (1,) * n_axes, I8, number * 32) for number in range(MAX_TENSORS)]
    return gguf((), infos, b"\0" * (MAX_TENSORS * 32))


COSTLY = {
    "2 MB of small numbers": gguf([array(0, 2_000_000, b"\7" * 2_000_000)]),
    "2 MB of empty texts": gguf([array(TEXT, 250_000, b"\0" * 2_000_000)]),
    "2 MB of texts of one letter": gguf([array(TEXT, 220_000, (struct.pack("<Q", 1) + b"a") * 220_000)]),
    "2 MB of texts that are none": gguf([array(TEXT, 180_000, (struct.pack("<Q", 3) + b"\xff" * 3) * 180_000)]),
    "1.5 MB of empty arrays": gguf([array(ARRAY, 130_000, struct.pack("<IQ", 0, 0) * 130_000)]),
    "as many tensors as may be": many_tensors(1),
    "as many keys as may be": gguf([FORM.pair(f"key {number}", 0, 1) for number in range(MAX_KEYS)]),
}


@pytest.mark.parametrize("content", COSTLY.values(), ids=COSTLY.keys())
def test_costly_headers(content: bytes) -> None:
    """What is odd and yet no fault is read, as fast and in as little memory as what is one."""
    begun = time.process_time()
    read(content)
    assert time.process_time() - begun < 2  # twice what is promised, for the sake of busy machines
    tracemalloc.start()
    read(content)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 32 * MIB


def test_a_header_of_more_than_the_limit(tmp_path: Path) -> None:
    """The file has it, being sparse; it is not read."""
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf([pair(TEXT, struct.pack("<Q", MAX_HEADER_BYTES))]))
    os.truncate(path, 2 * MAX_HEADER_BYTES)
    tracemalloc.start()
    with pytest.raises(LimitError, match="header takes more"):
        read_gguf(PathSource(path), str(path))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MIB


def small() -> bytes:
    """Return a file with a bit of everything, without padding at its end."""
    pairs = [
        FORM.pair("general.alignment", 4, 8),
        FORM.pair("text", TEXT, "ü"),
        FORM.pair("many", ARRAY, (TEXT, ["a", "bc"])),
        FORM.pair("nested", ARRAY, (ARRAY, [(2, [1, 2]), (7, [True])])),
        FORM.pair("number", 12, 0.5),
    ]
    infos = [FORM.info("first", (2, 3), F32, 0), FORM.info("second", (1, 32), Q4_0, 24)]
    return gguf(pairs, infos, bytes(range(42)), alignment=8)


def test_cut_anywhere() -> None:
    whole = small()
    assert list(read(whole).value) == ["first", "second"]
    for length in range(len(whole)):
        with pytest.raises(CorruptError):
            read(whole[:length])


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_altered_anywhere(changes: list[tuple[int, int]]) -> None:
    """It is read, or refused with an error of the tree; tensors lie in the file in any case."""
    content = bytearray(small())
    for place, value in changes:
        content[place % len(content)] = value
    assert_read_or_refused(bytes(content))


@given(st.binary(max_size=300))
def test_random_bytes(tail: bytes) -> None:
    for head in (b"", b"GGUF", struct.pack("<4sIQQ", b"GGUF", 3, 1, 1), struct.pack("<4sIII", b"GGUF", 1, 1, 1)):
        assert_read_or_refused(head + tail)


def assert_read_or_refused(content: bytes) -> None:
    try:
        found = read(content)
    except FileError as error:
        assert str(error).startswith("reading file.gguf: ")
        return
    for tensor in found.value.values():
        part = getattr(tensor, "parts", {"blocks": tensor})["blocks"]
        assert len(part.storage.source.read(part.storage.position, part.storage.n_bytes)) == part.storage.n_bytes
