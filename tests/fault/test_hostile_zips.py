"""Zip archives that lie, lead elsewhere, or can be read in two ways: each gives its error, soon and in little memory."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault.forging_zips import (
    FAR,
    STREAMED,
    UTF8,
    Forged,
    archive,
    archive64,
    deflated,
    end,
    end64,
    extra,
    parts,
    zip64,
)
from fault.test_headers import bounded
from perdure.disk.sources import BytesSource
from perdure.errors import CorruptError, DigestError, FileError, FormatError, LimitError
from perdure.foreign.zips.archives import Archive, read_zip

A, B = Forged("a", b"hello"), Forged("b", b"world!")
CRC = zlib.crc32(b"hello")


def read(content: bytes) -> Archive:
    return read_zip(BytesSource(content), "a.zip")


def contents(content: bytes) -> dict[str, bytes]:
    """Return all that an archive holds, checked."""
    archive = read(content)
    archive.verify()
    return {name: member.read() for name, member in archive.members.items()}


def streamed(form: str, *values: int, **local: Any) -> Forged:
    """Return an entry with a data descriptor of this form."""
    behind = (b"PK\7\x08" if form[0] == "s" else b"") + struct.pack("<" + form[1:], *values)
    return Forged("a", b"hello", flags=STREAMED, local={"crc": 0, "stored": 0, "size": 0, "behind": behind, **local})


GOOD = {
    "nothing": archive(),
    "two": archive(A, B),
    "a comment": archive(A, B, comment=b"made by hand"),
    "an entry's comment": archive(Forged("a", b"hello", comment=b"?"), B),
    "deflated": archive(Forged("a", b"hello", deflated(b"hello"))),
    "deflated to nothing": archive(Forged("a", b"", deflated(b""))),
    "deflated, of no bytes": archive(Forged("a", b"", b"")),
    "a descriptor": archive(streamed("s3I", CRC, 5, 5), B),
    "a descriptor without its signature": archive(streamed("-3I", CRC, 5, 5), B),
    "a wide descriptor": archive(streamed("sI2Q", CRC, 5, 5, stored=FAR, size=FAR, extra=zip64(0, 0)), B),
    "a wide descriptor without its signature": archive(streamed("-I2Q", CRC, 5, 5), B),
    "sizes known although streamed": archive(streamed("s3I", CRC, 5, 5, crc=CRC, stored=5, size=5), B),
    "offsets as PyTorch writes large ones": archive(streamed("sI2Q", CRC, 5, 5, extra=zip64(0) + extra(0x4246, b"ZZ"))),
    "zip64 in a header": archive(Forged("a", b"hello", local={"stored": FAR, "size": FAR, "extra": zip64(5, 5)})),
    "zip64 in the directory": archive(Forged("a", b"hello", stored=FAR, size=FAR, offset=FAR, extra=zip64(5, 5, 0), local={"stored": 5, "size": 5})),
    "zip64 where nothing needs it": archive64(A, B),
    "zip64 with all sentinels": archive64(A, B, narrow=(0xFFFF, FAR, FAR)),
    "a folder": archive(Forged("d/"), Forged("d/a", b"hello")),
    "a point in a path": archive(Forged("./a", b"hello")),
    "arrays that differ in case": archive(Forged("X.npy", b"1"), Forged("x.npy", b"2")),
    "a variable of TensorFlow": archive(Forged("b:0.npy", b"1")),
    "two points in a name": archive(Forged("a..b/..c", b"1")),
    "UTF-8": archive(Forged("ü", b"hello")),
    "no checksums": archive(Forged("a", b"hello", crc=0)),
    "a file that contains an archive": archive(Forged("inner.zip", archive(A, B)), Forged("c", b"!")),
    "the directory in another order": (lambda body, listing: body + listing + end(2, len(listing), len(body)))(
        A.whole() + B.whole(), B.listed(len(A.whole())) + A.listed(0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD.keys())
def test_what_is_right_is_read_as_python_reads_it(content: bytes) -> None:
    found = contents(content)
    with zipfile.ZipFile(io.BytesIO(content)) as expected:
        infos = [info for info in expected.infolist() if not info.is_dir()]
        assert list(found) == [info.filename for info in infos]
        for info in infos:
            if info.CRC:  # Python takes a missing checksum for a wrong one
                assert found[info.filename] == expected.read(info)
            assert len(found[info.filename]) == info.file_size


def lying(**local: Any) -> bytes:
    """Return an archive whose first local header does not say what the directory says."""
    return archive(Forged("a", b"hello", local=local), B)


def named(name: str | bytes, **fields: Any) -> bytes:
    return archive(Forged("first", b"1"), Forged(name, b"2", **fields))


TWO, LISTING = parts(A, B)
COMMENTED = archive(A, B, comment=b"made by hand")
OVERLAPPING = Forged("c", b"world!", offset=len(A.whole()), local={"name": b"b"})

BAD: dict[str, tuple[bytes, type[FileError], str]] = {
    # end records
    "empty": (b"", CorruptError, "end record.*cut off"),
    "no zip": (b"\x80\2}q\0.", CorruptError, "end record.*cut off"),
    "a header alone": (A.whole(), CorruptError, "end record.*cut off"),
    "something behind": (archive(A, B) + b"more", CorruptError, "0 bytes were expected and 4 are there"),
    "something in front": (b"#!/bin/sh\n" + archive(A, B), CorruptError, "put before"),
    "something in front, offsets mended": (archive(A, B, before=b"#!/bin/sh\n"), CorruptError, "10 bytes that belong to no entry"),
    "two archives": (archive(A) + archive(B), CorruptError, "put before"),
    "an archive in the comment": (archive(A, comment=archive(B)), CorruptError, "should lie in the bytes"),
    "a directory in the comment": (archive(A, comment=LISTING), CorruptError, "comment holds parts"),
    "a comment that is longer than said": (archive(A, comment=b"more", n_comment=2), CorruptError, "2 bytes were expected and 4"),
    "a comment that is shorter than said": (archive(A, comment=b"more", n_comment=9), CorruptError, "9 bytes were expected and 4"),
    "a directory elsewhere": (TWO + LISTING + end(2, len(LISTING), len(TWO) - 1), CorruptError, "should lie in the bytes"),
    "bytes between directory and end": (TWO + LISTING + b"more" + end(2, len(LISTING), len(TWO)), CorruptError, "should lie in the bytes"),
    "bytes in the directory": (TWO + LISTING + b"more" + end(2, len(LISTING) + 4, len(TWO)), CorruptError, "4 bytes more than its 2"),
    "two directories": (TWO + LISTING * 2 + end(2, len(LISTING) * 2, len(TWO)), CorruptError, "bytes more than its 2 entries"),
    "fewer entries than said": (archive(A, B, count=3), CorruptError, "too short for 3"),
    "fewer entries than said, of which one is long": (archive(Forged("a" * 60), count=2), CorruptError, "ends within entry 1"),
    "more entries than said": (archive(A, B, count=1), CorruptError, "bytes more than its 1 entries"),
    "many more entries than there is room": (archive(A, count=60_000), CorruptError, "too short for 60000"),
    "counts that differ": (archive(A, B, here=1), FormatError, "volume"),
    "another disk": (archive(A, disk=1), FormatError, "volume"),
    "a directory on another disk": (archive(A, first_disk=1), FormatError, "volume"),
    "an entry on another disk": (archive(Forged("a", b"1", disk=1)), FormatError, "another volume"),
    # zip64 records
    "zip64: other count": (archive64(A, B, narrow=(1, len(LISTING), len(TWO))), CorruptError, "contradict each other: 1 against 2"),
    "zip64: other size": (archive64(A, B, narrow=(2, 0, len(TWO))), CorruptError, "contradict each other: 0 against"),
    "zip64: other offset": (archive64(A, B, narrow=(2, len(LISTING), 0)), CorruptError, "contradict each other: 0 against"),
    "zip64: locator elsewhere": (archive64(A, B, place=0), CorruptError, "zip64 end record was expected"),
    "zip64: record of another length": (archive64(A, B, length=45), CorruptError, "zip64 end record was expected"),
    "zip64: several disks": (archive64(A, B, n_disks=2), FormatError, "volume"),
    "zip64: another disk": (archive64(A, B, locator_disk=1), FormatError, "volume"),
    "zip64: no record": (A.whole() + b"PK\6\7" + bytes(16) + end(0, 0, 0), CorruptError, "zip64 end record"),
    "zip64: sizes beyond all": (TWO + LISTING + end64(2**63, 2**63, 2**63, place=len(TWO + LISTING)) + end(0xFFFF, FAR, FAR), CorruptError, "should lie"),
    # two headers of one entry
    "local: other name": (lying(name=b"z"), CorruptError, "its name is b'z' beside it, b'a' in the directory"),
    "local: longer name": (lying(name=b"a" * 60_000), CorruptError, "its name is"),
    "local: other method": (lying(method=8), CorruptError, "its method is 8 beside it, 0"),
    "local: encrypted": (lying(flags=1), CorruptError, "its flags is 1 beside it, 0"),
    "local: streamed": (lying(flags=STREAMED), CorruptError, "its flags is 8"),
    "local: other checksum": (lying(crc=1), CorruptError, f"its crc is 1 beside it, {CRC}"),
    "local: no checksum": (lying(crc=0), CorruptError, "its crc is 0"),
    "local: other size": (lying(size=4), CorruptError, "its size is 4 beside it, 5"),
    "local: other stored size": (lying(stored=4), CorruptError, "its stored size is 4"),
    "local: zip64 without its field": (lying(size=FAR, stored=FAR), CorruptError, "size is 4294967295"),
    "local: zip64 of other sizes": (lying(size=FAR, stored=FAR, extra=zip64(5, 4)), CorruptError, "its stored size is 4"),
    "local: zip64 with another offset": (lying(extra=zip64(5, 5, 7)), CorruptError, "its offset is 7 beside it, 0"),
    "local: zip64 that nobody needs, and lies": (lying(extra=zip64(9, 5)), CorruptError, "its size is 9 beside it, 5"),
    "local: zip64 of odd length": (lying(extra=extra(1, b"12345")), CorruptError, "has 5 bytes, which it cannot"),
    "local: zip64 twice": (lying(extra=zip64(5, 5) * 2), CorruptError, "one zip64 field"),
    "local: extra field cut": (lying(extra=b"FB\x09\0Z"), CorruptError, "ends within a field"),
    "local: extra field of two bytes": (lying(extra=b"FB"), CorruptError, "ends within a field"),
    "local: extra field over all": (lying(n_extra=60_000), CorruptError, "over the directory"),
    "local: another signature": (lying(magic=b"PK\3\5"), CorruptError, "expected at byte 0"),
    # descriptors
    "descriptor: other checksum": (archive(streamed("s3I", 1, 5, 5), B), CorruptError, "its crc is 1"),
    "descriptor: other size": (archive(streamed("s3I", CRC, 5, 6), B), CorruptError, "its size is 6"),
    "descriptor: other stored size": (archive(streamed("sI2Q", CRC, 4, 5), B), CorruptError, "its stored size is 4"),
    "descriptor: missing": (archive(streamed("-"), B), CorruptError, "0 bytes are there"),
    "descriptor: missing at the end": (archive(streamed("-")), CorruptError, "0 bytes are there"),
    "descriptor: with more behind": (archive(streamed("s3I2B", CRC, 5, 5, 0, 0), B), CorruptError, "18 bytes are there"),
    "descriptor: much behind": (archive(streamed("s3I99B", CRC, 5, 5, *[0] * 99), B), CorruptError, "115 bytes are there"),
    "descriptor: another signature": (archive(streamed("-4I", 1, CRC, 5, 5), B), CorruptError, "sizes were expected"),
    "descriptor: header lies": (archive(streamed("s3I", CRC, 5, 5, size=4), B), CorruptError, "its size is 4"),
    # where entries lie
    "a hole": (archive(A, B, between=b"payload"), CorruptError, "7 bytes behind entry 'a' belong to no entry"),
    "a hole at the end": (TWO + b"payload" + LISTING + end(2, len(LISTING), len(TWO) + 7), CorruptError, "7 bytes behind entry 'b'"),
    "one header for two entries": (archive(A, Forged("c", b"hello", offset=0)), CorruptError, "over what begins at 0"),
    "an entry within another": (archive(Forged("a", A.whole()), Forged("b", b"hello", offset=31)), CorruptError, "over what begins"),
    "entries that overlap": (archive(A, B, OVERLAPPING), CorruptError, "over what begins"),
    "an entry beyond the file": (archive(A, Forged("b", b"!", offset=2**31)), CorruptError, "beyond the directory"),
    "an entry over the directory": (archive(A, Forged("b", b"!", stored=99, size=99)), CorruptError, "beyond the directory"),
    "a size beyond all": (archive(Forged("a", b"hello", stored=FAR, size=FAR, extra=zip64(2**64 - 1, 2**64 - 1))), CorruptError, "beyond the directory"),
    "an entry that is in no directory": (TWO + A.listed(0) + end(1, len(A.listed(0)), len(TWO)), CorruptError, "belong to no entry"),
    # the directory
    "central: another signature": (archive(Forged("a", b"1", magic=b"PK\1\3", local={"magic": b"PK\3\4"})), CorruptError, "entry 0 of its directory is not whole"),
    "central: zip64 without its field": (archive(Forged("a", b"1", size=FAR, stored=FAR)), CorruptError, "zip64 field"),
    "central: zip64 too short": (archive(Forged("a", b"1", size=FAR, stored=FAR, extra=zip64(1))), CorruptError, "zip64 field"),
    "central: zip64 too long": (archive(Forged("a", b"1", size=FAR, stored=FAR, extra=zip64(1, 1, 0))), CorruptError, "zip64 field"),
    "central: zip64 unasked": (archive(Forged("a", b"1", extra=zip64(1))), CorruptError, "zip64 field"),
    "central: zip64 empty": (archive(Forged("a", b"1", extra=extra(1, b""))), CorruptError, "zip64 field"),
    "central: zip64 twice": (archive(Forged("a", b"1", size=FAR, extra=zip64(1) * 2)), CorruptError, "one zip64 field"),
    "central: extra field cut": (archive(Forged("a", b"1", extra=b"UT\5\0\1")), CorruptError, "ends within a field"),
    "central: stored, of two sizes": (archive(Forged("a", b"hello", size=9)), CorruptError, "9 bytes take 5"),
    "another name in the extra field": (archive(Forged("a", b"1", extra=extra(0x7075, b"\1" + bytes(4) + b"evil"))), CorruptError, "has another name as well"),
    # methods and flags
    "encrypted": (named("a", flags=1), FormatError, "'a' is encrypted"),
    "strongly encrypted": (named("a", flags=0x41), FormatError, "'a' is encrypted"),
    "headers hidden": (named("a", flags=0x2000), FormatError, "'a' is encrypted"),
    "AES": (named("a", method=99), FormatError, "'a' is encrypted"),
    "bzip2": (named("a", method=12), FormatError, r"method 12 \(bzip2\)"),
    "lzma": (named("a", method=14), FormatError, r"method 14 \(lzma\)"),
    "zstd": (named("a", method=93), FormatError, r"method 93 \(zstd\)"),
    "no method": (named("a", method=7777), FormatError, r"method 7777 \(unknown\)"),
    "a later version": (named("a", needs=64), FormatError, "needs version 6.4"),
    "a flag for patches": (named("a", flags=0x20), CorruptError, "flags that mean nothing here"),
    # names
    "twice": (archive(A, A), CorruptError, "two entries of one name, 'a' and 'a'"),
    "twice, of several letters": (archive(Forged("data/0"), Forged("data/0")), CorruptError, "two entries of one name"),
    "an array twice": (archive(Forged("a.npy"), Forged("a.npy")), CorruptError, "two entries of one name"),
    "upper and lower case": (archive(Forged("m/data.pkl", b"1"), Forged("m/DATA.pkl", b"2")), CorruptError, "two entries of one name"),
    "two ways to write ü": (archive(Forged("ü", b"1"), Forged("u\u0308", b"2")), CorruptError, "two entries of one name"),
    "a point in one of them": (archive(Forged("m/a", b"1"), Forged("m/./a", b"2")), CorruptError, "two entries of one name"),
    "a slash more": (archive(Forged("m/a", b"1"), Forged("m//a", b"2")), CorruptError, "two entries of one name"),
    "a file that is a folder": (archive(Forged("m", b"1"), Forged("m/")), CorruptError, "two entries of one name"),
    "no name": (named(""), CorruptError, "plain relative path"),
    "up": (named("../evil"), CorruptError, "'../evil' is not a plain relative path"),
    "up, later": (named("m/../../evil"), CorruptError, "plain relative path"),
    "up, at the end": (named("m/.."), CorruptError, "plain relative path"),
    "from the root": (named("/etc/passwd"), CorruptError, "plain relative path"),
    "a backslash": (named("m\\..\\evil"), CorruptError, "plain relative path"),
    "a drive": (named("C:evil"), CorruptError, "plain relative path"),
    "a NUL": (named("data.pkl\0.txt"), CorruptError, "plain relative path"),
    "not UTF-8": (named(b"\xff\xfe", flags=UTF8), CorruptError, "should be UTF-8"),
    "a surrogate": (named(b"\xed\xa0\x80", flags=UTF8), CorruptError, "should be UTF-8"),
    "a slash in two bytes": (named(b"..\xc0\xafevil", flags=UTF8), CorruptError, "should be UTF-8"),
    "not marked as UTF-8": (named("ü", flags=0), CorruptError, "should be ASCII"),
    "a very long name": (named("../" + "a" * 60_000), CorruptError, "plain relative path"),
    "a link": (named("a", attributes=0o120777 << 16), CorruptError, "symbolic link"),
    "a device": (named("a", attributes=0o020666 << 16), CorruptError, "a device"),
    "a pipe": (named("a", attributes=0o010666 << 16), CorruptError, "a pipe"),
    "a folder by its attributes": (named("a", attributes=0x10), CorruptError, "a folder by its attributes"),
    "a folder by its mode": (named("a", attributes=0o040755 << 16), CorruptError, "a folder by its attributes"),
    "a folder with content": (named("m/"), CorruptError, "is a folder, yet has 1 bytes"),
    # sizes
    "a bomb": (archive(Forged("a", b"", bytes(5_000_000), size=FAR, extra=zip64(5_100_000_000), local={"size": 0, "extra": b""})), LimitError, r"\(entry 'a'\).*more than 1000 times"),
    "a bomb in parts": (archive(*[Forged(f"{n}", b"", bytes(500_000), size=515_000_000) for n in range(9)]), LimitError, "all together.*1000 times"),
    "more than deflate can": (archive(Forged("a", b"", b"1234567890", size=10_321)), CorruptError, "cannot become 10321"),
    "something out of nothing": (archive(Forged("a", b"", b"", size=1)), CorruptError, "cannot become 1"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected", "says"), BAD.values(), ids=BAD.keys())
def test_what_is_wrong_gives_its_error(content: bytes, expected: type[FileError], says: str) -> None:
    with bounded(), pytest.raises(expected, match=says) as caught:
        read(content)
    assert type(caught.value) is expected
    assert str(caught.value).startswith("reading a.zip: ")
    assert len(str(caught.value)) < 500


SPOILT: dict[str, tuple[bytes, type[FileError], str]] = {
    "checksum": (archive(Forged("a", b"hello", crc=1)), DigestError, "CRC-32 is 3610a686 and 00000001 was saved"),
    "checksum of what is deflated": (archive(Forged("a", b"hello", deflated(b"hello"), crc=1)), DigestError, "CRC-32"),
    "deflated, cut": (archive(Forged("a", b"hello" * 99, deflated(b"hello" * 99)[:-3])), CorruptError, "cut off"),
    "deflated, with more behind": (archive(Forged("a", b"hello", deflated(b"hello") + b"?")), CorruptError, "something follows"),
    "deflated, no such block": (archive(Forged("a", b"hello", b"\xff" * 9)), CorruptError, "is damaged"),
    "inflates to more": (archive(Forged("a", b"hello", deflated(b"hello!"))), CorruptError, "more than the 5 bytes"),
    "inflates to much more": (archive(Forged("a", b"hello", deflated(bytes(10**8)))), CorruptError, "more than the 5 bytes"),
    "inflates to less": (archive(Forged("a", b"hello", deflated(b"hell"))), CorruptError, "4 bytes come out of it where 5"),
    "empty blocks without end": (archive(Forged("a", b"!", b"\0\0\0\xff\xff" * 10**6)), CorruptError, "cut off"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected", "says"), SPOILT.values(), ids=SPOILT.keys())
def test_spoilt_content_gives_its_error_when_it_is_read(content: bytes, expected: type[FileError], says: str) -> None:
    archive = read(content)
    with bounded(), pytest.raises(expected, match=says) as caught:
        archive.verify()
    assert type(caught.value) is expected
    assert "a.zip, entry 'a'" in str(caught.value)
    if expected is not DigestError:
        with bounded(), pytest.raises(expected, match=says):
            archive.members["a"].read()


def test_too_many_entries_are_refused_before_they_are_read() -> None:
    listing = Forged("a").listed(0)
    count = 2**18 + 1
    with bounded(), pytest.raises(LimitError, match="262145 entries"):
        content = listing * count
        read(content + end64(count, len(content), 0) + end(0xFFFF, FAR, FAR))
    long = Forged("a" * 60_000).listed(0) * 1200
    with bounded(200 * 2**20), pytest.raises(LimitError, match="at most 262144 in 67108864"):
        read(long + end64(1200, len(long), 0) + end(0xFFFF, FAR, FAR))


@pytest.mark.parametrize("name", ["two", "a descriptor", "zip64 where nothing needs it", "deflated", "a comment"])
def test_an_archive_that_was_cut_anywhere_says_so(name: str) -> None:
    content = GOOD[name]
    for stop in range(len(content)):
        with pytest.raises(CorruptError, match=r"cut (off|out)"):
            read(content[:stop])


@pytest.mark.parametrize("name", ["two", "a descriptor", "zip64 where nothing needs it", "deflated", "a folder"])
def test_a_flipped_bit_is_found_or_changes_nothing(name: str) -> None:
    content = bytearray(GOOD[name])
    expected = contents(bytes(content))
    unseen = set()
    for place in range(len(content)):
        for bit in range(8):
            content[place] ^= 1 << bit
            try:
                assert contents(bytes(content)) == expected
                unseen.add(place)
            except FileError:
                pass
            content[place] ^= 1 << bit
    # Versions, times, attributes and the like, which nothing here depends on: at most 24 bytes of an entry's two
    # headers, 4 of the zip64 record.
    assert len(unseen) <= 24 * len(expected) + 24 + 4


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 2**32))
def test_damage_gives_an_error_of_the_tree_or_what_python_reads_too(name: str, seed: int) -> None:
    chance = random.Random(seed)
    content = bytearray(GOOD[name])
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(len(content) + 1)
        kind = chance.randrange(4)
        if kind == 0 and place < len(content):
            content[place] = chance.choice((0, 1, 2, 8, 255, chance.randrange(256)))
        elif kind == 1:
            del content[place : place + chance.randint(1, 40)]
        elif kind == 2:
            content[place:place] = chance.randbytes(chance.randint(1, 40))
        else:
            begin = chance.randrange(len(content) + 1)
            content[place:place] = content[begin : begin + chance.randint(1, 80)]
    with bounded():
        try:
            found = contents(bytes(content))
        except FileError:
            return
    with zipfile.ZipFile(io.BytesIO(bytes(content))) as expected:
        for info in expected.infolist():
            if not info.is_dir() and info.CRC:
                assert found[info.filename] == expected.read(info)
