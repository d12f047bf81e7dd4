"""Tensors that reach beyond their storage, claim to be huge, or contradict themselves; and arrays and headers of others."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable

from attacks.archiving import torch_zip
from attacks.assembling import Octets, named, pickled, plain, storage, tensor
from attacks.attack import DAMAGED, DANGEROUS, Attack, Corpus, Place
from fault.forging import perdure_file, safetensors, with_blob, with_manifest
from perdure.errors import CorruptError, FileError, FormatError, LimitError, PerdureError

Errors = tuple[type[PerdureError], ...]
_BROKEN: Errors = (CorruptError,)
_TOO_MUCH: Errors = (CorruptError, LimitError)


def _dict(value: bytes) -> bytes:
    return pickled(plain({"weight": value}), 2)


def _torch(value: bytes, storages: dict[str, bytes] | None = None) -> bytes:
    return torch_zip(_dict(value), storages)


def _rebuild(function: str, *args: object) -> bytes:
    return named("torch._utils", function) + plain(args) + b"R"


def _sparse(indices: bytes, shape: object) -> bytes:
    return _rebuild("_rebuild_sparse_tensor", named("torch.serialization", "_get_layout") + plain(("torch.sparse_coo",))
                    + b"R", (indices, tensor(shape=(4,), stride=(1,)), shape, False))  # fmt: skip


def _quantized(offset: int, shape: object, params: object) -> bytes:
    kind = storage(kind="QInt8Storage", n=16)
    return _rebuild("_rebuild_qtensor", kind, offset, shape, (4, 1), params, False,
                    named("collections", "OrderedDict") + b")R")  # fmt: skip


_INDICES = {"0": bytes(16), "1": struct.pack("<8q", 0, 1, 2, 3, 0, 1, 2, 10**12)}

TENSORS: list[tuple[str, str, bytes, tuple[str, ...], Errors]] = [
    ("out of storage", "an offset beyond the storage", _torch(tensor(offset=1)), (DAMAGED,), _BROKEN),
    ("out of storage", "a negative offset", _torch(tensor(offset=-1)), (DAMAGED,), _BROKEN),
    ("out of storage", "an offset of 2**63", _torch(tensor(offset=2**63)), (DAMAGED,), _BROKEN),
    ("out of storage", "a stride beyond the storage", _torch(tensor(stride=(1000, 1))), (DAMAGED,), _BROKEN),
    ("out of storage", "a negative stride", _torch(tensor(stride=(-2, 1))), (DAMAGED,), _BROKEN),
    ("out of storage", "strides that overflow", _torch(tensor(shape=(2, 2), stride=(2**63, 2**63))), (DAMAGED,), _BROKEN),
    ("out of storage", "fewer strides than sizes", _torch(tensor(stride=(1,))), (DAMAGED,), _BROKEN),
    ("out of storage", "a shape beyond the storage", _torch(tensor(shape=(3, 2))), (DAMAGED,), _BROKEN),
    ("out of storage", "a shape that overflows", _torch(tensor(shape=(2**32, 2**32))), (DAMAGED,), _TOO_MUCH),
    ("out of storage", "a negative size", _torch(tensor(shape=(-2, -2))), (DAMAGED,), _BROKEN),
    ("out of storage", "sizes of floats", _torch(tensor(shape=(2.0, 2.0))), (DAMAGED, DANGEROUS), (FileError,)),
    ("out of storage", "sizes of booleans", _torch(tensor(shape=(True, True))), (DAMAGED, "safe"), (FileError,)),
    ("out of storage", "a thousand dimensions", _torch(tensor(shape=(1,) * 1000, stride=(1,) * 1000)), (DAMAGED,), _TOO_MUCH),
    ("expansion", "zero strides to 2**50 elements", _torch(tensor(shape=(2**25, 2**25), stride=(0, 0))), (DAMAGED,), _TOO_MUCH),
    ("expansion", "zero strides to 2**70 elements", _torch(tensor(shape=(2**35, 2**35), stride=(0, 0))), (DAMAGED,), _TOO_MUCH),
    ("expansion", "zero strides to 64 GiB", _torch(tensor(shape=(2**34,), stride=(0,))), (DAMAGED,), _TOO_MUCH),
    ("storage", "elements that the record has not", _torch(tensor(storage(n=2**40))), (DAMAGED,), _TOO_MUCH),
    ("storage", "a negative number of elements", _torch(tensor(storage(n=-1))), (DAMAGED,), _BROKEN),
    ("storage", "a key that leads out of the archive", _torch(tensor(storage("../../../etc/passwd"))), (DAMAGED,), _BROKEN),
    ("storage", "a key of a megabyte", _torch(tensor(storage("x" * 2**20))), (DAMAGED,), _BROKEN),
    ("storage", "two types for one storage", torch_zip(pickled(plain([tensor(), tensor(storage(n=2, kind="LongStorage"),
     (2,), (1,))]), 2), {"0": bytes(16)}), (DAMAGED,), (CorruptError,)),
    ("storage", "a type that is none", _torch(tensor(storage(kind="Linear"))), (DAMAGED, DANGEROUS), (FileError,)),
    ("storage", "a location that is a function", _torch(tensor(storage(location=named("os", "system")))),
     (DAMAGED, DANGEROUS, "needs code", "safe"), ()),
    ("sparse", "indices out of the shape", torch_zip(_dict(_sparse(tensor(storage("1", 8, "LongStorage"), (2, 4), (4, 1)),
     (4, 4))), _INDICES), (DAMAGED, "safe"), _BROKEN),  # seen when it is read
    ("sparse", "more indices than values", torch_zip(_dict(_sparse(tensor(storage("1", 8, "LongStorage"), (1, 8), (8, 1)),
     (4,))), _INDICES), (DAMAGED,), _BROKEN),
    ("sparse", "a shape of 2**62", torch_zip(_dict(_sparse(tensor(storage("1", 8, "LongStorage"), (2, 4), (4, 1)),
     (2**62, 2**62))), _INDICES), (DAMAGED,), _TOO_MUCH),
    ("quantized", "out of its storage", _torch(_quantized(8, (4, 4), (named("torch", "per_tensor_affine"), 0.1, 0))),
     (DAMAGED,), _BROKEN),
    ("quantized", "a channel that it has not", _torch(_quantized(0, (4, 4), (named("torch", "per_channel_affine"),
     tensor(), tensor(), 7))), (DAMAGED, DANGEROUS), (FileError,)),
    ("quantized", "a scheme that is none", _torch(_quantized(0, (4, 4), (named("os", "system"), 0.1, 0))),
     (DAMAGED, DANGEROUS), (FileError,)),
    ("quantized", "a scale that is no number", _torch(_quantized(0, (4, 4), (named("torch", "per_tensor_affine"), "x", 0))),
     (DAMAGED, DANGEROUS), (FileError,)),
]  # fmt: skip


def npy(header: bytes, data: bytes = bytes(16), version: int = 1, length: int | None = None) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + data


def _header(descr: str = "'<f4'", shape: str = "(4,)", order: str = "False", more: str = "") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}{more}, }}\n".encode()


def _numpy_array(shape: object, dtype: bytes, content: bytes) -> bytes:
    empty = named("numpy._core.multiarray", "_reconstruct") + plain(
        (named("numpy", "ndarray"), (0,), Octets(b"b"))) + b"R"  # fmt: skip
    return pickled(plain({"weight": empty + plain((1, shape, dtype, False, Octets(content))) + b"b"}), 3)


_F4 = named("numpy", "dtype") + plain(("f4", False, True)) + b"R" + plain((3, "<", None, None, None, -1, -1, 0)) + b"b"
_O = named("numpy", "dtype") + plain(("O8", False, True)) + b"R" + plain((3, "|", None, None, None, -1, -1, 63)) + b"b"

ARRAYS: list[tuple[str, str, bytes, tuple[str, ...], Errors]] = [
    ("npy header", "an expression", npy(_header("__import__('os').system('x')")), (DAMAGED,), (FileError,)),
    ("npy header", "a shape that is an expression", npy(_header(shape="(9**9**9,)")), (DAMAGED,), (FileError,)),
    ("npy header", "a shape of 2**62", npy(_header(shape=f"({2**62},)")), (DAMAGED,), (FileError,)),
    ("npy header", "a negative shape", npy(_header(shape="(-4,)")), (DAMAGED,), (FileError,)),
    ("npy header", "brackets ten thousand deep", npy(_header(shape="(" * 10_000 + ")" * 10_000)), (DAMAGED,), (FileError,)),
    ("npy header", "a number of sixty thousand digits", npy(_header(shape="(" + "9" * 60_000 + ",)")), (DAMAGED,), (FileError,)),
    ("npy header", "a length of 4 GiB", npy(_header(), version=2, length=2**32 - 1), (DAMAGED,), (FileError,)),
    ("npy header", "a key too many", npy(_header(more=", 'x': 1")), (DAMAGED,), (FileError,)),
    ("npy header", "a key twice", npy(_header(more=", 'shape': (2,)")), (DAMAGED, "safe"), (FileError,)),
    ("npy header", "fields within fields", npy(_header("[('a', '<f4'), ('b', 'O')]")), (DAMAGED, DANGEROUS), (FileError,)),
    ("npy header", "an unknown version", npy(_header(), version=9), (DAMAGED,), (FileError,)),
    ("npy header", "data that is cut", npy(_header(), bytes(15)), (DAMAGED,), (FileError,)),
    ("npy header", "data that is too long", npy(_header(), bytes(17)), (DAMAGED,), (FileError,)),
    ("pickled array", "a shape beyond its bytes", _numpy_array((2**40,), _F4, bytes(16)), (DAMAGED,), (FileError,)),
    ("pickled array", "an array of objects from bytes", _numpy_array((2,), _O, bytes(16)), (DAMAGED, DANGEROUS, "safe"), ()),
    ("pickled array", "a negative shape", _numpy_array((-4, -1), _F4, bytes(16)), (DAMAGED,), (FileError,)),
    ("pickled array", "a type of 2**31 bytes", _numpy_array((1,), named("numpy", "dtype") + plain(("V2147483647",)) + b"R",
     b""), (DAMAGED, DANGEROUS, "needs code", "safe"), ()),
]  # fmt: skip


def gguf(n_tensors: int = 0, n_values: int = 0, body: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values) + body


def _text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def _info(
    shape: tuple[int, ...], kind: int = 0, offset: int = 0, name: bytes = b"weight", n: int | None = None
) -> bytes:
    body = _text(name) + struct.pack("<I", len(shape) if n is None else n) + struct.pack(f"<{len(shape)}Q", *shape)
    return body + struct.pack("<IQ", kind, offset)


def _nested_arrays(depth: int) -> bytes:
    return _text(b"a") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * depth + struct.pack("<IQ", 0, 0)


GGUFS: list[tuple[str, bytes]] = [
    ("2**63 tensors", gguf(2**63)),
    ("2**63 values", gguf(0, 2**63)),
    ("2**32 tensors", gguf(2**32, 0, bytes(1000))),
    ("a text of 2**63 bytes", gguf(0, 1, _text(b"a", 2**63))),
    ("a key of 2**63 bytes", gguf(0, 1, _text(b"abc", 2**63 - 1))),
    ("an array of 2**62", gguf(0, 1, _text(b"a") + struct.pack("<IIQ", 9, 0, 2**62))),
    ("arrays in arrays", gguf(0, 1, _nested_arrays(50_000))),
    ("a type that is none", gguf(0, 1, _text(b"a") + struct.pack("<I", 99))),
    ("2**32-1 dimensions", gguf(1, 0, _info((4,), n=2**32 - 1))),
    ("a shape that overflows", gguf(1, 0, _info((2**62, 2**62)) + bytes(64))),
    ("a shape beyond the file", gguf(1, 0, _info((2**40,)) + bytes(64))),
    ("an offset beyond the file", gguf(1, 0, _info((4,), offset=2**62) + bytes(64))),
    ("an unknown block type", gguf(1, 0, _info((32,), kind=250) + bytes(64))),
    ("a shape that is no whole number of blocks", gguf(1, 0, _info((33,), kind=2) + bytes(64))),
    (
        "an alignment of nought",
        gguf(1, 1, _text(b"general.alignment") + struct.pack("<II", 4, 0) + _info((4,)) + bytes(64)),
    ),
    (
        "an alignment of 2**31",
        gguf(1, 1, _text(b"general.alignment") + struct.pack("<II", 4, 2**31) + _info((4,)) + bytes(64)),
    ),
    ("two tensors of one name", gguf(2, 0, _info((4,)) + _info((4,), offset=32) + bytes(64))),
    ("two keys of one name", gguf(0, 2, (_text(b"a") + struct.pack("<IB", 0, 1)) * 2)),
    ("version 99", gguf(version=99)),
    ("a header and nothing else", b"GGUF"),
    ("two million empty texts", gguf(0, 1, _text(b"a") + struct.pack("<IIQ", 9, 8, 250_000) + bytes(8) * 250_000)[:-1]),
]


def _one(**fields: object) -> bytes:
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **fields}
    return safetensors({"weight": entry}, bytes(4))


_W = {"w": ("F32", [1], bytes(4))}

HEADERS: list[tuple[str, str, Callable[[], bytes], Errors]] = [
    ("safetensors", "a header longer than the file", lambda: safetensors("{}", length=2**63), _BROKEN),
    ("safetensors", "a header of 100 MB", lambda: safetensors("{}", length=100_000_001), _TOO_MUCH),
    ("safetensors", "a shape that overflows", lambda: _one(shape=[2**32, 2**32]), _BROKEN),
    ("safetensors", "offsets outside", lambda: _one(data_offsets=[0, 2**40]), _BROKEN),
    ("safetensors", "a negative shape", lambda: _one(shape=[-1]), _BROKEN),
    ("safetensors", "overlap", lambda: safetensors({n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in "ab"},
     bytes(4)), _BROKEN),
    ("safetensors", "trailing bytes", lambda: safetensors({}, b"x"), _BROKEN),
    ("safetensors", "duplicate keys", lambda: safetensors(b'{"a":{},"a":{}}'), _BROKEN),
    ("safetensors", "deep JSON", lambda: safetensors(b'{"a":' + b"[" * 200_000), _BROKEN),
    ("safetensors", "a giant integer", lambda: safetensors('{"a":{"dtype":"F32","shape":[' + "9" * 5000 + "]}}"), _BROKEN),
    ("safetensors", "a name of control characters", lambda: safetensors({"a\0\x1b[2J": {"dtype": "F32", "shape": [1],
     "data_offsets": [0, 4]}}, bytes(3)), _BROKEN),
    ("perdure manifest", "a seal that is broken", lambda: perdure_file(_W).replace(b"U8", b"U8")[:-1] + b"\1\1", _BROKEN),
    ("perdure manifest", "an alias out of its tensor", lambda: with_manifest(perdure_file(_W), aliases={"x": {
     "of": "w", "shape": [100], "stride": [1], "offset": 0}}), _TOO_MUCH),
    ("perdure manifest", "an alias of 2**60 elements", lambda: with_manifest(perdure_file(_W), aliases={"x": {
     "of": "w", "shape": [2**60], "stride": [0], "offset": 0}}), ()),
    ("perdure manifest", "an alias of itself", lambda: with_manifest(perdure_file(_W), aliases={"x": {
     "of": "x", "shape": [1], "stride": [1], "offset": 0}}), _BROKEN),
    ("perdure manifest", "a later protocol", lambda: perdure_file(_W, protocol=10**6), (FileError,)),
    ("perdure manifest", "a required feature that is unknown", lambda: perdure_file(_W, features=["x"]), (FileError,)),
    ("perdure manifest", "an architecture that is none", lambda: with_blob(perdure_file(_W), "architecture", b"x"), ()),
]  # fmt: skip

OTHERS: list[tuple[str, str, bytes]] = [
    ("no model", "empty", b""),
    ("no model", "one byte", b"\x80"),
    ("no model", "zeros", bytes(10_000)),
    (
        "no model",
        "Git LFS pointer",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 9\n",
    ),
    ("no model", "HTML page", b"<!DOCTYPE html><html><script>x()</script></html>"),
    ("no model", "7z archive", b"7z\xbc\xaf\x27\x1c\0\4" + bytes(100)),
    ("no model", "gzip", b"\x1f\x8b\x08" + bytes(100)),
    ("no model", "shell script", b"#!/bin/sh\ntouch x\n"),
    ("no model", "ELF", b"\x7fELF" + bytes(100)),
    ("no model", "XML bomb", b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]><l>&b;</l>'),
    ("no model", "YAML with Python objects", b"!!python/object/apply:os.system ['x']\n"),
    ("Keras", ".h5 with a Lambda layer", b"\x89HDF\r\n\x1a\n" + b'{"class_name": "Lambda"}' + bytes(100)),
    ("ONNX", "a graph with external data", b"\x08\x07\x12\x07pytorch" + b"location../../../etc/passwd" + bytes(40)),
    ("joblib", "zlib-compressed pickle", __import__("zlib").compress(pickle.dumps({}))),
]


def _ending(group: str) -> str:
    return {"npy header": ".npy", "GGUF": ".gguf", "Keras": ".h5", "ONNX": ".onnx", "joblib": ".joblib"}.get(
        group, ".pt"
    )


def add_to(corpus: Corpus) -> None:
    rows: list[tuple[str, str, Callable[[], bytes], tuple[str, ...], Errors]] = [
        *((group, name, lambda content=content: content, verdicts, errors)
          for group, name, content, verdicts, errors in (*TENSORS, *ARRAYS)),
        *(("GGUF", name, lambda content=content: content, (DAMAGED,), (FileError,)) for name, content in GGUFS),
        *((group, name, content, (DAMAGED,) if errors else (DAMAGED, "safe"), errors)
          for group, name, content, errors in HEADERS),
        *((group, name, lambda content=content: content, (DAMAGED,), (FormatError, CorruptError))
          for group, name, content in OTHERS),
    ]  # fmt: skip
    for group, name, content, verdicts, errors in rows:

        def write(place: Place, content: Callable[[], bytes] = content, group: str = group) -> object:
            return place.write(f"model{_ending(group)}", content())

        after = {"GGUF": "CVE-2024-25664 and the like (ggml)"}.get(group, "memory safety of readers")
        corpus.add(Attack(f"{group}: {name}", group, after, write, verdicts, errors))  # type: ignore[arg-type]
