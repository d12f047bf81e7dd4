"""Hostile and damaged headers, manifests, blobs and indexes: the right error, soon, in little memory, with a message."""

from __future__ import annotations

import contextlib
import io
import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import safetensors.torch
import torch
import zstandard
from torch import nn

import perdure
from fault.forging import (
    header_of,
    manifest_of,
    perdure_file,
    sealed,
    with_blob,
    with_manifest,
)
from fault.forging import (
    safetensors as plain,
)
from perdure.errors import (
    CorruptError,
    DigestError,
    FileError,
    FormatError,
    LimitError,
    PerdureError,
    ProtocolError,
    StorageError,
)

MIB = 2**20


@contextmanager
def bounded(memory_bytes: int = 64 * MIB, seconds: float = 1.0) -> Iterator[None]:
    """See that the block takes little time of the processor and little memory."""
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest use of memory so far
    before, begun = _memory("VmRSS"), time.process_time()
    yield
    taken, used = time.process_time() - begun, _memory("VmHWM") - before
    assert taken < seconds, f"{taken:.2f} s of processor time"
    assert used < memory_bytes, f"{used / MIB:.0f} MiB"


def _memory(field: str) -> int:
    found = re.search(rf"{field}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def raised(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


# Headers


def one(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4), **more: Any) -> bytes:
    """Return a file of one tensor with these fields, four bytes of data, nothing right but what is given."""
    entry = {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}
    return plain({"weight": {key: value for key, value in entry.items() if value is not ...}}, b"\0" * 4)


def two(first: tuple[int, int], second: tuple[int, int], data_bytes: int) -> bytes:
    entries = {
        name: {"dtype": "U8", "shape": [stop - start], "data_offsets": [start, stop]}
        for name, (start, stop) in (("a", first), ("b", second))
    }
    return plain(entries, b"\0" * data_bytes)


def saved(source: Any) -> bytes:
    file = io.BytesIO()
    perdure.save_weights(source, file)
    return file.getvalue()


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


GOOD = saved(model())
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 437\n"
HTML = b"<!DOCTYPE html>\n<html><head><title>404</title></head><body>Not found</body></html>\n"
ENTRY = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
TEN_GB = b"".join(
    [(squeeze := zstandard.ZstdCompressor().compressobj()).compress(b"")]
    + [squeeze.compress(b"\0" * MIB) for _ in range(10 * 1024)]
    + [squeeze.flush()]
)


class Case(NamedTuple):
    """A file that no verb may accept: its bytes, the error, and what the message has to say."""

    content: bytes
    error: type[PerdureError]
    says: str


HEADERS = {
    "empty": Case(b"", CorruptError, "empty"),
    "one byte": Case(b"\0", CorruptError, "1 bytes"),
    "seven bytes": Case(b"\0" * 7, CorruptError, "7 bytes"),
    "zeros": Case(b"\0" * 100, CorruptError, "'{'"),
    "cut in the header": Case(GOOD[:1000], CorruptError, "cut off"),
    "cut after the header": Case(GOOD[:4096], CorruptError, "cut off"),
    "cut in the data": Case(GOOD[:-1], CorruptError, "cut off"),
    "Git LFS pointer": Case(LFS, FormatError, "git lfs pull"),
    "HTML page": Case(HTML, FormatError, "HTML"),
    "HTML page without a doctype": Case(HTML[16:], FormatError, "HTML"),
    "HTML page in small letters": Case(HTML.lower(), FormatError, "HTML"),
    "zip archive": Case(b"PK\x03\x04" + b"\x14\0\x08\x08" * 30, CorruptError, "cut off"),
    "pickle": Case(b"\x80\x02}q\0X\x06\0\0\0weight" * 5, CorruptError, "pickle"),
    "header longer than the file": Case(plain("{}", length=3), CorruptError, "3 bytes"),
    "header of 2**63": Case(plain("{}", length=2**63), CorruptError, "cut off"),
    "header of 2**64-1": Case(plain("{}", length=2**64 - 1), CorruptError, "cut off"),
    "header of length 0": Case(plain("", b"\0" * 4), CorruptError, "'{'"),
    "not UTF-8": Case(plain(b'{"\xff\xfe":' + ENTRY.encode() + b"}", b"\0" * 4), CorruptError, "UTF-8"),
    "overlong UTF-8": Case(plain(b'{"\xc0\x80":' + ENTRY.encode() + b"}", b"\0" * 4), CorruptError, "UTF-8"),
    "UTF-16": Case(plain(f'{{"w":{ENTRY}}}'.encode("utf-16-le"), b"\0" * 4), CorruptError, "JSON"),
    "byte order mark": Case(plain(b"\xef\xbb\xbf{}"), CorruptError, "'{'"),
    "space first": Case(plain(b" {}"), CorruptError, "'{'"),
    "array": Case(plain(b"[]"), CorruptError, "'{'"),
    "not JSON": Case(plain(b"{weight}"), CorruptError, "JSON"),
    "two objects": Case(plain(b"{}{}"), CorruptError, "JSON"),
    "trailing comma": Case(plain(f'{{"w":{ENTRY},}}', b"\0" * 4), CorruptError, "JSON"),
    "control character": Case(plain(b'{"a\nb":' + ENTRY.encode() + b"}", b"\0" * 4), CorruptError, "JSON"),
    "lone surrogate": Case(plain(f'{{"\\ud800":{ENTRY}}}', b"\0" * 4), CorruptError, ""),
    "deep JSON": Case(plain(b'{"w":' + b"[" * 200_000), CorruptError, "deep"),
    "deep type": Case(one(json.loads("[" * 900 + "]" * 900)), CorruptError, ""),
    "giant integer": Case(plain(f'{{"w":{ENTRY.replace("4", "9" * 5000)}}}', b"\0" * 4), CorruptError, "JSON"),
    "large integer": Case(one(offsets=(0, 10**4000)), CorruptError, "data_offsets"),
    "NaN": Case(plain(b'{"w":NaN}'), CorruptError, "NaN"),
    "Infinity": Case(plain(f'{{"w":{ENTRY.replace("4", "Infinity")}}}', b"\0" * 4), CorruptError, "Infinity"),
    "duplicate tensor": Case(plain(f'{{"w":{ENTRY},"w":{ENTRY}}}', b"\0" * 4), CorruptError, "'w' occurs twice"),
    "duplicate, escaped": Case(plain(f'{{"w":{ENTRY},"\\u0077":{ENTRY}}}', b"\0" * 4), CorruptError, "'w'"),
    "duplicate field": Case(plain(f'{{"w":{ENTRY[:-1]},"dtype":"I32"}}}}', b"\0" * 4), CorruptError, "'dtype'"),
    "duplicate metadata": Case(plain(b'{"__metadata__":{"a":"1","a":"2"}}'), CorruptError, "'a' occurs twice"),
    "two metadata": Case(plain(b'{"__metadata__":{},"__metadata__":{}}'), CorruptError, "__metadata__"),
    "metadata of numbers": Case(plain(b'{"__metadata__":{"a":1}}'), CorruptError, "__metadata__"),
    "metadata a list": Case(plain(b'{"__metadata__":[]}'), CorruptError, "__metadata__"),
    "entry a number": Case(plain(b'{"w":1}'), CorruptError, "'w'"),
    "entry a list": Case(plain(b'{"w":["F32",[1],[0,4]]}', b"\0" * 4), CorruptError, "'w'"),
    "no dtype": Case(one(dtype=...), CorruptError, "dtype"),
    "no shape": Case(one(shape=...), CorruptError, "shape"),
    "no data_offsets": Case(one(offsets=...), CorruptError, "data_offsets"),
    "a further field": Case(one(strides=[1]), CorruptError, "no more"),
    "unknown dtype": Case(one("F128"), CorruptError, "'F128'"),
    "dtype of PyTorch": Case(one("float32"), CorruptError, "'float32'"),
    "dtype a number": Case(one(32), CorruptError, "'32'"),
    "dtype null": Case(one(None), CorruptError, "'None'"),
    "shape a number": Case(one(shape=1), CorruptError, "shape"),
    "shape of floats": Case(one(shape=[1.0]), CorruptError, "shape"),
    "shape of booleans": Case(one(shape=[True]), CorruptError, "shape"),
    "shape of text": Case(one(shape=["1"]), CorruptError, "shape"),
    "negative shape": Case(one(shape=[-1]), CorruptError, "shape"),
    "twice negative shape": Case(one(shape=[-1, -1]), CorruptError, "shape"),
    "shape beyond 64 bits": Case(one(shape=[2**64 + 1]), CorruptError, "shape"),
    "shape that overflows to 4 bytes": Case(one(shape=[2**32, 2**32, 1]), CorruptError, "needs"),
    "shape of many large sizes": Case(one(shape=[2**62] * 300), CorruptError, "at most 64"),
    "shape of 60,000 large sizes": Case(one(shape=[2**62] * 60_000), CorruptError, "at most 64"),
    "shape of 100,000 sizes": Case(one(shape=[1] * 99_999 + [2]), CorruptError, "at most 64"),
    "size is not shape × type": Case(one(shape=[2]), CorruptError, "needs 8"),
    "size of an empty shape": Case(one(shape=[0]), CorruptError, "needs 0"),
    "size of another type": Case(one("F64"), CorruptError, "needs 8"),
    "half a byte": Case(plain({"w": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}}, b"\0"), CorruptError, "whole"),
    "no offsets": Case(one(offsets=[]), CorruptError, "data_offsets"),
    "one offset": Case(one(offsets=[0]), CorruptError, "data_offsets"),
    "three offsets": Case(one(offsets=[0, 4, 4]), CorruptError, "data_offsets"),
    "offsets of floats": Case(one(offsets=[0.0, 4.0]), CorruptError, "data_offsets"),
    "offsets of booleans": Case(one("U8", [1], [False, True]), CorruptError, "data_offsets"),
    "negative offset": Case(one(offsets=[-4, 0]), CorruptError, "data_offsets"),
    "minus nought": Case(plain(f'{{"w":{ENTRY.replace("[0,", "[-0,")}}}', b"\0" * 4), CorruptError, ""),
    "reversed offsets": Case(one(offsets=[4, 0]), CorruptError, "in order"),
    "offsets outside": Case(one("U8", [2**40], [0, 2**40]), CorruptError, "cut off"),
    "offset far outside": Case(one("U8", [0], [2**62, 2**62]), CorruptError, "hole"),
    "overlap": Case(two((0, 4), (2, 6), 6), CorruptError, "overlap"),
    "one within the other": Case(two((0, 8), (2, 6), 8), CorruptError, "overlap"),
    "the same bytes twice": Case(two((0, 4), (0, 4), 4), CorruptError, "overlap"),
    "hole": Case(two((0, 4), (6, 8), 8), CorruptError, "hole"),
    "hole at the beginning": Case(two((2, 4), (4, 8), 8), CorruptError, "hole"),
    "trailing bytes": Case(two((0, 4), (4, 8), 9), CorruptError, "follow"),
    "a zip archive behind it": Case(GOOD + b"PK\x05\x06" + b"\0" * 18, CorruptError, "follow"),
    "data without tensors": Case(plain(b"{}", b"\0"), CorruptError, "follow"),
}  # fmt: skip

# What each verb takes such a file for.
VERBS: dict[str, Callable[[Path], object]] = {
    "open": perdure.open,
    "open unmapped": lambda path: perdure.open(path, map=False),
    "open bytes": lambda path: perdure.open(path.read_bytes()),
    "open file": lambda path: perdure.open(io.BytesIO(path.read_bytes())),
    "load_weights": lambda path: perdure.load_weights(model(), path),
    "load_weights full": lambda path: perdure.load_weights(model(), path, verify="full", strict=False),
    "load_weights unverified": lambda path: perdure.load_weights(model(), path, verify=False, strict=False),
    "load_checkpoint": perdure.load_checkpoint,
    "info": perdure.info,
}


def refused(path: Path, error: type[PerdureError], says: str, verbs: dict[str, Callable[[Path], object]]) -> None:
    """See that all verbs refuse a file alike, and that check calls it damaged."""
    for verb, call in verbs.items():
        with bounded():
            found = raised(lambda: call(path))  # noqa: B023
        assert type(found) is error, (verb, found)
        message = str(found)
        assert says in message, (verb, message)
        if "bytes" not in verb and "file" not in verb:
            assert str(path) in message, (verb, message)
        assert len(message) < 2000 and message.isprintable(), (verb, message)
    with bounded():
        report = perdure.check(path)
    assert (report.ok, report.verdict) == (False, "damaged")
    assert says in report.findings[0].message and str(path) in report.findings[0].message
    assert report.findings[0].kind == (error.__name__ if issubclass(error, CorruptError) else "FileError")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "it.safetensors"


@pytest.mark.parametrize("case", HEADERS.values(), ids=HEADERS.keys())
def test_a_broken_header_is_refused(case: Case, path: Path) -> None:
    path.write_bytes(case.content)
    refused(path, case.error, case.says, VERBS)


def test_a_header_beyond_the_limit_is_refused_before_it_is_read(path: Path) -> None:
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 100_000_001) + b"{")
        file.truncate(200_000_000)
    verbs = {name: call for name, call in VERBS.items() if name not in ("open bytes", "open file")}
    refused(path, LimitError, "100000001", verbs)


ADVICE = re.compile(
    r"[Rr]estore|git lfs pull|download|[Uu]pgrade|read it as plain weights|was cut off|Use |[Rr]ead it with|convert|Move"
)


def test_every_message_says_what_to_do(path: Path) -> None:
    mute = {}
    for name, case in HEADERS.items():
        path.write_bytes(case.content)
        message = str(raised(lambda: perdure.open(path)))
        if not message.startswith(f"reading {path}: ") or not ADVICE.search(message):
            mute[name] = message
    assert mute == {}


# Headers that perdure wrote, and somebody changed


def test_one_key_of_the_seal_without_the_other_is_refused(path: Path) -> None:
    header, data = header_of(GOOD)
    for key in ("perdure", "perdure.digest"):
        metadata = {name: value for name, value in header["__metadata__"].items() if name != key}
        path.write_bytes(plain({**header, "__metadata__": metadata}, data))
        refused(path, CorruptError, f"without {key!r}", SEALED_VERBS)
        assert "read it as plain weights" in str(raised(lambda: perdure.open(path)))


SEALED_VERBS = {name: call for name, call in VERBS.items() if name != "load_weights unverified"}


@pytest.mark.parametrize("digest", ["", "0" * 63, "0" * 65, "G" * 64, "A" * 64, "é" * 64])
def test_a_digest_that_is_none_is_refused(digest: str, path: Path) -> None:
    header, data = header_of(GOOD)
    header["__metadata__"]["perdure.digest"] = digest
    path.write_bytes(plain(header, data))
    refused(path, CorruptError, "64 hexadecimal digits", SEALED_VERBS)


def test_a_file_that_another_tool_rewrote_is_refused_and_the_message_says_how_to_read_it(path: Path) -> None:
    first = path.with_name("first.safetensors")
    source = model()
    perdure.save_weights(source, first)
    with safetensors.safe_open(first, "pt") as opened:
        metadata = opened.metadata()
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    tensors["0.weight"] = tensors["0.weight"] + 1
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    refused(path, DigestError, "another tool wrote it anew and copied the metadata", SEALED_VERBS)
    message = str(raised(lambda: perdure.open(path)))
    assert "safetensors.torch.load_file(path)" in message
    assert "perdure.load_weights(model, path, verify=False)" in message
    # And what it recommends works.
    target = model()
    report = perdure.load_weights(target, path, verify=False)
    assert (report.verified, report.unknown) == ("", ("digests", "environment"))
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in target.state_dict().items())


def test_a_rewritten_file_of_the_same_header_bytes_is_refused_too(path: Path) -> None:
    """The metadata as they were, other keys in another order: only the digest of the header can tell."""
    header, data = header_of(GOOD)
    path.write_bytes(plain(json.dumps(dict(reversed(header.items())), separators=(",", ":")), data))
    refused(path, DigestError, "does not match its digest", SEALED_VERBS)


def test_a_digest_key_at_a_second_place_is_refused(path: Path) -> None:
    """The slot that is zeroed must be the one whose digest is believed."""
    header, data = header_of(GOOD)
    digest = header["__metadata__"]["perdure.digest"]
    text = json.dumps(header, separators=(",", ":"))
    twice = text.replace('"format":"pt"', f'"format":"pt","x":{{"perdure.digest":"{digest}"}}')
    path.write_bytes(plain(twice, data))
    refused(path, CorruptError, "__metadata__", VERBS)


def test_a_later_protocol_and_unknown_features_are_refused_by_name(path: Path) -> None:
    later = {
        "protocol 2": (with_manifest(GOOD, protocol=2, writer="perdure 7.1"), ("protocol 2", "perdure 7.1")),
        "protocol 0": (with_manifest(GOOD, protocol=0), ("protocol 0",)),
        "protocol -1": (with_manifest(GOOD, protocol=-1), ("protocol -1",)),
        "a feature": (with_manifest(GOOD, features=["aliases", "sparkle"]), ("'sparkle'",)),
        "both, and fields of other types": (with_manifest(GOOD, protocol=3, tensors=[], shards=7), ("protocol 3",)),
    }
    for content, says in later.values():
        path.write_bytes(content)
        for verb, call in {
            **SEALED_VERBS,
            "check": perdure.check,
            "unverified": VERBS["load_weights unverified"],
        }.items():
            found = raised(lambda: call(path))  # noqa: B023
            assert type(found) is ProtocolError, (verb, found)
            assert all(words in str(found) for words in says) and "Upgrade" in str(found), str(found)


def every_record(record: dict[str, str]) -> dict[str, dict[str, str]]:
    return {name: record for name in manifest_of(GOOD)["tensors"]}


MANIFESTS: dict[str, Any] = {
    "not JSON": "{",
    "not an object": "[]",
    "no protocol": '{"kind":"weights"}',
    "protocol a text": '{"protocol":"1"}',
    "protocol a float": '{"protocol":1.5}',
    "protocol a boolean": '{"protocol":true}',
    "tensors a list": {"tensors": []},
    "tensors missing": {"tensors": {}},
    "a tensor too many": {"tensors": {**manifest_of(GOOD)["tensors"], "more": manifest_of(GOOD)["tensors"]["0.bias"]}},
    "a record without digests": {"tensors": every_record({})},
    "digests of no length": {"tensors": every_record({"blake3": "", "xxh3": ""})},
    "digests of other letters": {"tensors": every_record({"blake3": "Z" * 64, "xxh3": "Z" * 32})},
    "alias of nothing": {"aliases": {"a": {"of": "nothing", "shape": [1], "stride": [1]}}},
    "alias of itself": {"aliases": {"a": {"of": "a", "shape": [1], "stride": [1]}}},
    "alias of an alias": {
        "aliases": {
            "a": {"of": "0.bias", "shape": [1], "stride": [1]},
            "b": {"of": "a", "shape": [1], "stride": [1]},
        }
    },
    "alias with a stored name": {"aliases": {"0.bias": {"of": "0.weight", "shape": [2], "stride": [1]}}},
    "alias of negative size": {"aliases": {"a": {"of": "0.bias", "shape": [-1], "stride": [1]}}},
    "alias of negative stride": {"aliases": {"a": {"of": "0.bias", "shape": [2], "stride": [-1], "offset": 1}}},
    "alias of negative offset": {"aliases": {"a": {"of": "0.bias", "shape": [2], "stride": [1], "offset": -1}}},
    "alias without strides": {"aliases": {"a": {"of": "0.bias", "shape": [2], "stride": []}}},
    "alias of floats": {"aliases": {"a": {"of": "0.bias", "shape": [2.0], "stride": [1]}}},
    "alias of many dimensions": {"aliases": {"a": {"of": "0.bias", "shape": [1] * 100, "stride": [1] * 100}}},
    "alias beyond 64 bits": {"aliases": {"a": {"of": "0.bias", "shape": [2**70], "stride": [0]}}},
    "composed of nothing": {"composed": {"c": {"layout": "sparse_coo", "shape": [2], "parts": {"values": "nothing"}}}},
    "composed and an alias": {
        "aliases": {"c": {"of": "0.bias", "shape": [1], "stride": [1]}},
        "composed": {"c": {"layout": "sparse_coo", "shape": [2], "parts": {}}},
    },
    "shards a list": {"shards": []},
    "deep notes": {"notes": ...},
}


@pytest.mark.parametrize("changes", MANIFESTS.values(), ids=MANIFESTS.keys())
def test_a_manifest_that_lies_about_what_is_there_is_refused(changes: Any, path: Path) -> None:
    header, data = header_of(GOOD)
    if changes == {"notes": ...}:
        changes = header["__metadata__"]["perdure"][:-1] + ',"notes":' + "[" * 100_000
    if isinstance(changes, dict):
        path.write_bytes(with_manifest(GOOD, **changes))
    else:
        header["__metadata__"]["perdure"] = changes
        path.write_bytes(sealed(header, data))
    refused(path, CorruptError, "", SEALED_VERBS)


# Manifests that only the tensors themselves can prove wrong


class Lie(NamedTuple):
    """A sealed file whose tensor `it` cannot be had as its manifest says."""

    content: bytes
    deep: bool = False
    """Only PyTorch can tell, so `check`, which goes without it, may find nothing."""


def lie(tensors: dict[str, tuple[str, list[int], bytes]], *, deep: bool = False, **manifest: Any) -> Lie:
    features = sorted({"aliases", "composed"} & manifest.keys()) + ["encoded"] * ("records" in manifest)
    return Lie(perdure_file(tensors, features=features, **manifest), deep)


FLOATS = {"a": ("F32", [4], b"\0" * 16)}
PARTS = {
    "a.indices": ("I64", [1, 2], struct.pack("<2q", 0, 3)),
    "a.values": ("F32", [2], b"\0" * 8),
    "a.crow": ("I64", [3], struct.pack("<3q", 0, 1, 2)),
    "a.int": ("I8", [2, 3], b"\0" * 6),
    "a.scales": ("F64", [3], struct.pack("<3d", 1, 1, 1)),
    "a.zeros": ("I64", [3], struct.pack("<3q", 0, 0, 0)),
}


def composed(layout: str, shape: list[int], parts: dict[str, str], deep: bool = True, **more: Any) -> Lie:
    return lie(PARTS, deep=deep, composed={"it": {"layout": layout, "shape": shape, "parts": parts, **more}})


COO = {"indices": "a.indices", "values": "a.values"}
CSR = {"crow_indices": "a.crow", "col_indices": "a.indices", "values": "a.values"}
CHANNELS = {"int_repr": "a.int", "scales": "a.scales", "zero_points": "a.zeros"}
LIES = {
    "alias beyond its owner": lie(FLOATS, aliases={"it": {"of": "a", "shape": [5], "stride": [1]}}),
    "alias that begins beyond": lie(FLOATS, aliases={"it": {"of": "a", "shape": [1], "stride": [1], "offset": 4}}),
    "alias that strides beyond": lie(FLOATS, aliases={"it": {"of": "a", "shape": [2, 2], "stride": [3, 1]}}),
    "alias of huge strides": lie(FLOATS, aliases={"it": {"of": "a", "shape": [2], "stride": [2**61]}}),
    "alias that overflows": lie(FLOATS, aliases={"it": {"of": "a", "shape": [2**61, 2**61], "stride": [0, 0]}}),
    "alias that overflows to nothing": lie(
        FLOATS, aliases={"it": {"of": "a", "shape": [2**60] * 60, "stride": [0] * 60}}
    ),
    "alias beyond an empty owner": lie({"a": ("F32", [0], b"")}, aliases={"it": {"of": "a", "shape": [1], "stride": [1]}}),
    "alias beyond an encoded owner": lie(
        {"a": ("U8", [4, 4], b"\0" * 16)},
        records={"a": {"dtype": "uint32"}},
        aliases={"it": {"of": "a", "shape": [16], "stride": [1]}},
    ),
    "encoded in too few bytes": lie({"it": ("U8", [4, 2], b"\0" * 8)}, records={"it": {"dtype": "uint32"}}),
    "encoded without bytes": lie({"it": ("U8", [], b"\0")}, records={"it": {"dtype": "uint32"}}),
    "encoded in floats": lie({"it": ("F32", [1, 4], b"\0" * 16)}, records={"it": {"dtype": "uint32"}}),
    "unknown layout": composed("sparse_heap", [4], COO, deep=False),
    "no parts": composed("sparse_coo", [4], {}, deep=False),
    "no values": composed("sparse_coo", [4], {"indices": "a.indices"}, deep=False),
    "parts of another layout": composed("sparse_csr", [2, 4], COO, deep=False),
    "indices outside": composed("sparse_coo", [3], COO),
    "indices of too few dimensions": composed("sparse_coo", [4, 4], COO),
    "indices that are floats": composed("sparse_coo", [4], {"indices": "a.values", "values": "a.values"}),
    "sparse shape that overflows": composed("sparse_coo", [2**61, 2**61], COO),
    "rows outside": composed("sparse_csr", [2, 2], CSR),
    "rows of another number": composed("sparse_csr", [2**40, 4], CSR),
    "blocks without a size": composed("sparse_bsr", [2, 4], CSR),
    "quantized of another shape": composed("quantized", [3, 2], {"int_repr": "a.int"}, dtype="qint8", scale=1.0),
    "quantized to another type": composed("quantized", [2, 3], {"int_repr": "a.int"}, dtype="quint8", scale=1.0),
    "quantized floats": composed("quantized", [2], {"int_repr": "a.values"}, dtype="qint8", scale=1.0),
    "axis outside": composed("quantized", [2, 3], CHANNELS, dtype="qint8", axis=2),
    "axis far below nought": composed("quantized", [2, 3], CHANNELS, dtype="qint8", axis=-5),
    "axis of another length": composed("quantized", [2, 3], CHANNELS, dtype="qint8", axis=0),
    "no zero points": composed(
        "quantized", [2, 3], {"int_repr": "a.int", "scales": "a.scales"}, dtype="qint8", axis=1
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LIES.values(), ids=LIES.keys())
def test_a_tensor_that_is_not_as_the_manifest_says_is_refused(case: Lie, path: Path) -> None:
    path.write_bytes(case.content)
    target = nn.Module()
    target.register_buffer("it", torch.zeros(4))
    verbs = {
        "open": lambda: perdure.open(path)["it"],
        "read": lambda: perdure.open(path, map=False).read("it"),
        "all": lambda: dict(perdure.open(path)),
        "load_weights": lambda: perdure.load_weights(target, path, strict=False),
    }
    for verb, call in verbs.items():
        with bounded():
            found = raised(call)
        if verb == "load_weights" and found is None:
            continue  # its shape is not the model's
        assert type(found) is CorruptError, (verb, repr(found))
        assert "'it'" in str(found) and len(str(found)) < 2000, (verb, str(found))
    # Whatever is asked for without reading, the answer is an answer or a CorruptError.
    for call in (lambda: perdure.open(path).specs, lambda: perdure.info(path)):
        with bounded():
            assert type(raised(call)) in (CorruptError, type(None))
    with bounded():
        report = perdure.check(path)
    if not (case.deep and report.ok):
        assert report.verdict == "damaged"
        assert any(finding.tensor == "it" or "'it'" in finding.message for finding in report.findings)


def test_a_huge_shape_of_stride_nought_is_allowed_and_allocates_nothing(path: Path) -> None:
    n = 2**40
    path.write_bytes(lie(FLOATS, aliases={"it": {"of": "a", "shape": [n], "stride": [0]}}).content)
    with bounded(), perdure.open(path) as weights:
        assert weights["it"].shape == (n,) and weights.specs["it"].shape == (n,)
        assert weights["it"][n - 1] == 0
        assert weights.read("it", 5) == 0
        assert weights.read("it").untyped_storage().nbytes() < MIB
    with bounded():
        assert perdure.check(path).ok
        assert perdure.info(path).tensors[-1].shape == (n,)
    with torch.device("meta"):
        target = nn.Module()
        target.register_buffer("it", torch.empty(n))
    with bounded(), pytest.raises(StorageError, match=f"{4 * n} bytes of memory"):  # a place of a model is filled whole
        perdure.load_weights(target, path, strict=False)
    assert target.it.is_meta


def test_huge_shapes_without_elements_are_read_or_refused(path: Path) -> None:
    for shape in ([0, 2**62], [2**31, 0, 2**31], [0, 2**62, 2**62], [2**62, 2**62, 0], [0, 2**63 - 1]):
        path.write_bytes(plain({"it": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}))
        with bounded():
            found = raised(lambda: perdure.open(path)["it"])
        assert found is None or isinstance(found, FileError), (shape, repr(found))
        if found is None:
            assert tuple(perdure.open(path)["it"].shape) == tuple(shape)


def test_a_file_larger_than_the_memory_is_a_typed_error(path: Path) -> None:
    """Its header is honest: the file is sparse, and as large as it says."""
    for n in (2**44 - 2**20, 2**40):
        header = plain({"it": {"dtype": "U8", "shape": [n], "data_offsets": [0, n]}})
        with open(path, "wb") as file:
            file.write(header)
            with contextlib.suppress(OSError):  # more than this file system's files may have
                file.truncate(len(header) + n)
                break
    with torch.device("meta"):
        target = nn.Module()
        target.register_buffer("it", torch.empty(n, dtype=torch.uint8))
    for call in (
        lambda: perdure.load_weights(target, path),
        lambda: perdure.open(path, map=False)["it"],
        lambda: perdure.open(path).read("it"),
        lambda: perdure.open(path).read("it", slice(None)),
    ):
        with bounded():
            found = raised(call)
        assert isinstance(found, PerdureError), repr(found)
        assert str(path) in str(found)
    with bounded():
        assert perdure.info(path).n_bytes == path.stat().st_size


# Blobs


class Rotary(nn.Module):
    """Its buffer is not persistent, so that a copy on meta needs the blob."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("frequencies", torch.arange(2.0), persistent=False)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return Rotary()


HUGE_WINDOW = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=31)).compress(
    b"\0" * 2**28
)[:100]
BLOBS = {
    "10 GB of nothing": (TEN_GB, LimitError),
    "no zstd": (b"not zstd at all", CorruptError),
    "empty": (b"", CorruptError),
    "cut": (zstandard.compress(b"[" + b"1," * 5000 + b"1]")[:-7], CorruptError),
    "a window of 2 GB": (HUGE_WINDOW, CorruptError),
}


@pytest.mark.parametrize("blob", BLOBS.values(), ids=BLOBS.keys())
def test_hostile_blobs_are_refused(blob: tuple[bytes, type[FileError]], path: Path) -> None:
    packed, error = blob
    state = io.BytesIO()
    perdure.save_checkpoint({"a": torch.ones(2)}, state)
    targets = {
        with_blob(saved(Rotary()), "buffers", packed): lambda: perdure.load_weights(on_meta(), path),
        with_blob(state.getvalue(), "values", packed): lambda: perdure.load_checkpoint(path),
    }
    for content, call in targets.items():
        path.write_bytes(content)
        assert len(content) < MIB
        with bounded(400 * MIB, 3):
            found = raised(call)
        assert type(found) is error, repr(found)
        assert str(path) in str(found)
        with bounded(400 * MIB, 3):
            assert perdure.check(path).verdict == "damaged"


def test_a_blob_that_is_not_base64_is_refused(path: Path) -> None:
    header, data = header_of(saved(Rotary()))
    for text in ("not base64", "QUJD\n", "QUI", "é"):
        header["__metadata__"]["perdure.buffers"] = text
        path.write_bytes(sealed(header, data))
        assert type(raised(lambda: perdure.load_weights(on_meta(), path))) is CorruptError
        assert perdure.check(path).verdict == "damaged"


def test_what_a_blob_of_buffers_holds_is_checked_like_any_file(path: Path) -> None:
    inner = saved({"frequencies": torch.arange(2.0)})
    flipped = bytearray(inner)
    flipped[-1] ^= 1
    for content in (b"", HTML, inner[:-1], inner + b"\0", bytes(flipped), one(shape=[2**62] * 300)):
        path.write_bytes(with_blob(saved(Rotary()), "buffers", zstandard.compress(content)))
        with bounded():
            found = raised(lambda: perdure.load_weights(on_meta(), path))
        assert isinstance(found, FileError), (content[:20], repr(found))
    path.write_bytes(with_blob(saved(Rotary()), "buffers", zstandard.compress(inner)))
    target = on_meta()
    perdure.load_weights(target, path)
    assert torch.equal(target.frequencies, torch.arange(2.0))
