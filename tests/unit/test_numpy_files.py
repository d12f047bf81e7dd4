"""NumPy's files against numpy.load: the same arrays, without NumPy reading them; what PyTorch lacks is said by name."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn

from perdure.disk.sources import BytesSource
from perdure.errors import CorruptError, FileError, FormatError, LimitError, UnsafeError
from perdure.foreign import inert
from perdure.foreign.byte_order import ReorderedSource, swapped
from perdure.foreign.numpy_files import read_npy, read_npz
from perdure.foreign.zips.archives import read_zip
from perdure.foreign.zips.deflated import DeflatedSource

TYPES = [
    np.dtype(f"{order}{kind}")
    for kind in ("b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
    for order in ("<", ">")
]


def npy(array: np.ndarray[Any, Any], version: tuple[int, int] | None = None) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=version)
    return buffer.getvalue()


def npz(compressed: bool = False, **arrays: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def with_header(text: str | bytes, data: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a file with this literal in its header."""
    raw = text if isinstance(text, bytes) else text.encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(raw)) + raw + data


def read(content: bytes) -> inert.Tensor:
    return read_npy(BytesSource(content), "a.npy").value


def read_several(content: bytes) -> dict[str, inert.Tensor]:
    return read_npz(read_zip(BytesSource(content), "a.npz")).value


def as_array(tensor: inert.Tensor) -> np.ndarray[Any, Any]:
    """Return the tensor as NumPy sees it on a little-endian machine."""
    storage = tensor.storage
    dtype = np.dtype(tensor.dtype)
    flat = np.frombuffer(storage.source.read(storage.position, storage.n_bytes), dtype)
    steps = [step * dtype.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, steps)


def assert_equal(tensor: inert.Tensor, array: np.ndarray[Any, Any]) -> None:
    found = as_array(tensor)
    assert (found.dtype, found.shape) == (array.dtype.newbyteorder("<"), array.shape)
    assert found.tobytes() == array.astype(found.dtype).tobytes()
    assert tensor.role == "array"


@given(
    hn.arrays(
        st.sampled_from(TYPES),
        hn.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
        elements=None,
        fill=None,
    ),
    st.booleans(),
    st.sampled_from([None, (1, 0), (2, 0), (3, 0)]),
)
def test_an_array_of_any_type_order_and_version_is_what_numpy_reads(
    array: np.ndarray[Any, Any], fortran: bool, version: tuple[int, int] | None
) -> None:
    content = npy(np.asfortranarray(array) if fortran and array.ndim else array, version)
    assert_equal(read(content), np.load(io.BytesIO(content)))


@given(
    st.dictionaries(
        st.text("aAbB.é_/ :0", min_size=1, max_size=6).filter(
            lambda name: not name.startswith(("/", ".")) and ".." not in name and not re.match("[aAbB]:(?!0)", name)
        ),
        hn.arrays(st.sampled_from(TYPES), hn.array_shapes(min_dims=0, max_dims=2, min_side=0)),
        max_size=4,
    ),
    st.booleans(),
)
def test_an_npz_is_what_numpy_reads(arrays: dict[str, np.ndarray[Any, Any]], compressed: bool) -> None:
    arrays = {name: array for name, array in arrays.items() if name not in ("file", "args", "arr_0")}
    content = npz(compressed, **arrays)
    found = read_several(content)
    with np.load(io.BytesIO(content)) as expected:
        assert list(found) == expected.files
        for name, tensor in found.items():
            assert_equal(tensor, expected[name])


def test_what_is_stored_is_read_in_place_and_what_is_compressed_when_it_is_wanted() -> None:
    array = np.arange(100_000, dtype="<f4").reshape(400, 250)
    content = npz(x=array)
    source = BytesSource(content)
    tensor = read_npz(read_zip(source, "a.npz")).value["x"]
    assert tensor.storage.source is source
    assert content[tensor.storage.position :][:400_000] == array.tobytes()
    packed = read_several(npz(True, x=array))["x"]
    assert isinstance(packed.storage.source, DeflatedSource)
    assert packed.storage.source._kept.get(packed.storage.source._position) is None  # only the header was inflated
    assert_equal(packed, array)


def test_the_bytes_of_the_other_order_are_turned_round_wherever_reading_begins() -> None:
    array = np.arange(400_000, dtype=">u4")
    source = BytesSource(b"abc" + array.tobytes())
    storage = swapped(source, 3, array.nbytes, 4)
    assert isinstance(storage.source, ReorderedSource)
    expected = array.astype("<u4").tobytes()
    for begin, end in [
        (0, 0),
        (0, 4),
        (1, 3),
        (3, 11),
        (5, 6),
        (2**20 - 3, 2**20 + 5),
        (7, len(expected)),
        (1_599_999, 1_600_000),
    ]:
        assert storage.source.read(begin, end - begin) == expected[begin:end]
    with pytest.raises(CorruptError, match="ends at byte 1600000"):
        storage.source.read(1_599_999, 2)
    assert swapped(source, 3, 5, 1).source is source
    with pytest.raises(CorruptError, match="7 bytes are not whole numbers of 2"):
        swapped(source, 0, 7, 2)


@pytest.mark.parametrize(
    ("text", "shape", "stride"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }   \n", (1, 2), (2, 1)),
        ("{'shape': (2,), 'descr': '<f4', 'fortran_order': False}", (2,), (1,)),
        ('{"descr":"<f4","fortran_order":True,"shape":(2,1)}\n', (2, 1), (1, 2)),
        ("{'descr': 'f4', 'fortran_order': False, 'shape': (2L, 1L)}\n", (2, 1), (1, 1)),  # Python 2
        ("{'descr': '|f4', 'fortran_order': True, 'shape': (1, 2, 1)}\n", (1, 2, 1), (1, 1, 2)),
    ],
)
def test_headers_as_others_write_them(text: str, shape: tuple[int, ...], stride: tuple[int, ...]) -> None:
    tensor = read(with_header(text, b"\0" * 8))
    assert (tensor.dtype, tensor.shape, tensor.stride) == ("float32", shape, stride)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n"


@pytest.mark.parametrize(
    ("content", "expected", "says"),
    [
        (b"", FormatError, "does not begin like one"),
        (b"PK\3\4 and more of it", FormatError, "does not begin like one"),
        (with_header(GOOD, b"\0" * 8, (4, 0)), FormatError, "versions 1 to 3"),
        (with_header(GOOD, b"\0" * 7), CorruptError, "takes 8 bytes, and 7"),
        (with_header(GOOD, b"\0" * 9), CorruptError, "takes 8 bytes, and 9"),
        (with_header(GOOD, b"\0" * 8) * 2, CorruptError, "second array"),
        (with_header(GOOD.replace("<f4", "|O"), b"\x80\4K\1."), UnsafeError, "array of objects"),
        (with_header(GOOD.replace("<f4", "O"), b"\x80\4K\1."), UnsafeError, "array of objects"),
        (with_header(GOOD.replace("<f4", "|O8"), b"\x80\4K\1."), UnsafeError, "array of objects"),
        (with_header(GOOD.replace("<f4", "<U7")), FormatError, r"'<U7' \(text\)"),
        (with_header(GOOD.replace("<f4", "|S7")), FormatError, r"'\|S7' \(text in bytes\)"),
        (with_header(GOOD.replace("<f4", "<M8[ns]")), FormatError, "dates"),
        (with_header(GOOD.replace("<f4", "<V2")), FormatError, "bfloat16"),
        (with_header(GOOD.replace("<f4", "<f16")), FormatError, "size that PyTorch lacks"),
        (with_header(GOOD.replace("<f4", "zebra")), FormatError, "not known"),
        (with_header(GOOD.replace("<f4", "")), FormatError, "not known"),
        (with_header(GOOD.replace("'<f4'", "[('a', '<f4'), ('b', 'O')]")), FormatError, "several fields"),
        (with_header(GOOD.replace("'<f4'", "('<f4', (2,))")), FormatError, "several fields"),
        (with_header(GOOD.replace("'<f4'", "4")), CorruptError, "a type was expected"),
        (with_header(GOOD.replace("'<f4'", "'<\\x66\\x34'")), CorruptError, "a type was expected"),
        (with_header(GOOD.replace("False", "0")), CorruptError, "True or False was expected"),
        (with_header(GOOD.replace("(2,)", "2")), CorruptError, r"'\(' was expected"),
        (with_header(GOOD.replace("(2,)", "(2)")), CorruptError, r"a comma, as in \(3,\)"),
        (with_header(GOOD.replace("(2,)", "(-2,)")), CorruptError, "a size was expected"),
        (with_header(GOOD.replace("(2,)", "(2.0,)")), CorruptError, "was expected"),
        (with_header(GOOD.replace("(2,)", "(True,)")), CorruptError, "a size was expected"),
        (with_header(GOOD.replace("(2,)", "(2**3,)")), CorruptError, "was expected"),
        (with_header(GOOD.replace("(2,)", f"({2**62}, 4)"), b"\0" * 8), CorruptError, "no array can have"),
        (with_header(GOOD.replace("(2,)", f"({2**63}, 0)")), CorruptError, "no array can have"),
        (with_header(GOOD.replace("(2,)", f"({'9' * 4000},)")), CorruptError, "was expected"),
        (with_header(GOOD.replace("(2,)", f"({'1, ' * 65})"), b"\0" * 4), CorruptError, "no array can have"),
        (with_header(GOOD.replace("'shape': (2,), ", "")), CorruptError, "the fields descr, fortran_order and shape"),
        (with_header(GOOD.replace("'shape'", "'descr'")), CorruptError, "one 'descr' was expected"),
        (with_header(GOOD.replace("'shape'", "'size'")), CorruptError, "descr, fortran_order or shape was expected"),
        (with_header(GOOD + "+ {}", b"\0" * 8), CorruptError, "nothing more was expected"),
        (with_header("__import__('os').system('true')"), CorruptError, "'{' was expected"),
        (with_header("{'descr': __import__('os'), }"), CorruptError, "a type was expected"),
        (with_header("(" * 60_000), CorruptError, "'{' was expected"),
        (with_header(GOOD.replace("(2,)", "(" * 60_000)), CorruptError, "a size was expected"),
        (with_header(b"\xff" * 8, version=(3, 0)), CorruptError, "is not text"),
        (with_header(GOOD + " " * 70_000, b"\0" * 8, (2, 0)), LimitError, "70058 bytes"),
        (b"\x93NUMPY\2\0" + b"\xff" * 4 + b" " * 100, CorruptError, "header of 4294967295 bytes"),
    ],
)
def test_what_is_no_plain_array_is_refused(content: bytes, expected: type[FileError], says: str) -> None:
    with pytest.raises(expected, match=says) as caught:
        read(content)
    assert type(caught.value) is expected
    assert str(caught.value).startswith("reading a.npy: ")
    assert len(str(caught.value)) < 500


def test_a_file_that_was_cut_anywhere_says_so() -> None:
    for version in ((1, 0), (2, 0)):
        content = npy(np.arange(3), version)
        for end in range(1, len(content)):
            with pytest.raises(CorruptError, match="cut off"):
                read(content[:end])


def test_two_arrays_of_one_name_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", npy(np.arange(3)))
        archive.writestr("a.npy", npy(np.arange(4)))
    with pytest.raises(CorruptError, match="two arrays of the name 'a'"):
        read_several(buffer.getvalue())


def test_one_array_that_cannot_be_read_is_named() -> None:
    with pytest.raises(UnsafeError, match=r"a\.npz, entry 'bad\.npy'"):
        read_several(npz(good=np.arange(3), bad=np.array([{}], object)))
    with pytest.raises(FormatError, match=r"a\.npz, entry 'words\.npy'"):
        read_several(npz(True, good=np.arange(3), words=np.array(["x"])))


@given(st.data())
def test_damage_gives_an_error_of_the_tree_or_an_array_that_numpy_reads_too(data: st.DataObject) -> None:
    content = bytearray(npy(np.arange(4, dtype=">i2").reshape(2, 2)))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        tensor = read(bytes(content))
    except FileError:
        return
    assert_equal(tensor, np.load(io.BytesIO(bytes(content))))
