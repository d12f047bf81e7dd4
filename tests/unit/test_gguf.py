"""GGUF files: what the `gguf` package writes is read as it reads it, and each block format gives the same weights."""

from __future__ import annotations

import itertools
import math
import re
import struct
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter
from gguf.scripts import gguf_convert_endian
from hypothesis import given
from hypothesis import strategies as st

from fault.gguf_forging import ARRAY, BIG_ENDIAN, FORMS, TEXT, Form
from fault.gguf_forging import gguf as forged
from perdure.disk.sources import BytesSource, PathSource
from perdure.foreign.gguf.blocks import READERS, dequantize
from perdure.foreign.gguf.files import read_gguf
from perdure.foreign.gguf.grids import grid
from perdure.foreign.gguf.types import BLOCK_TYPES, GGUF_TYPES
from perdure.foreign.inert import ComposedTensor, Content, Tensor
from perdure.weights.dequantizing import dequantized

NUMBERS = {found.name: number for number, found in GGUF_TYPES.items()}
DENSE = {"F32": "f4", "F16": "f2", "F64": "f8", "I8": "i1", "I16": "i2", "I32": "i4", "I64": "i8"}
WITHOUT_PEER = {"Q1_0", "Q2_0", "Q8_1", "Q8_K"}
"""Formats that the `gguf` package does not dequantise; Q8_1 and Q8_K are never in files that llama.cpp writes."""


def read(content: bytes) -> Content:
    return read_gguf(BytesSource(content), "file.gguf")


def bytes_of(tensor: Tensor) -> bytes:
    storage = tensor.storage
    assert tensor.offset == 0
    return storage.source.read(storage.position, storage.n_bytes)


def array_of(tensor: Tensor) -> np.ndarray:
    """Return a dense tensor's values; bfloat16 as its bits."""
    type = {"bfloat16": "u2"}.get(tensor.dtype, tensor.dtype)
    flat = np.frombuffer(bytes_of(tensor), np.dtype(type).newbyteorder("<"))
    strides = [step * flat.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides)


def weights_of(tensor: ComposedTensor) -> np.ndarray:
    blocks = torch.from_numpy(array_of(tensor.parts["blocks"]).copy())
    return dequantized(tensor.layout, blocks, tensor.shape).numpy()


def blocks_of(layout: str, n_blocks: int, *, wild: bool = False) -> np.ndarray:
    """Return random blocks; those that are not wild have finite scales."""
    known = BLOCK_TYPES[layout]
    random = np.random.default_rng(NUMBERS[layout])
    blocks = random.integers(0, 256, (n_blocks, known.n_bytes), np.uint8)
    if not wild:
        letters = "".join(letter * int(count or 1) for count, letter in re.findall(r"(\d*)(\w)", known.fields))
        ends = itertools.accumulate(struct.calcsize("<" + letter) for letter in letters)
        highest = [end - 1 for end, letter in zip(ends, letters, strict=True) if letter in "ef"]
        blocks[:, highest or {"IQ1_M": 55, "MXFP4": 0, "NVFP4": 0}[layout]] &= 0b10111111
    return blocks


def peer_weights(layout: str, blocks: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):
        return gguf.dequantize(blocks.copy(), GGMLQuantizationType[layout])


def assert_same_bits(found: np.ndarray, expected: np.ndarray) -> None:
    """Compare to the bit, but for which of the many bit patterns of "no number" it is: that is the processor's choice."""
    assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
    nothing = np.isnan(expected)
    assert np.array_equal(nothing, np.isnan(found))
    assert np.array_equal(found.view(np.uint32)[~nothing], expected.view(np.uint32)[~nothing])


# Blocks


def test_types_are_those_of_ggml() -> None:
    peers = {peer.value: peer for peer in GGMLQuantizationType}
    assert peers.keys() == GGUF_TYPES.keys() - {NUMBERS["Q2_0"]}  # which is newer than the package
    for number, peer in peers.items():
        known = GGUF_TYPES[number]
        assert known.name == peer.name
        if peer.name != "Q8_1":  # whose scales had 32 bits once, and still have in the package's table
            assert (known.n_elements, known.n_bytes) == gguf.GGML_QUANT_SIZES[peer], peer
    assert READERS.keys() == BLOCK_TYPES.keys()


@pytest.mark.parametrize("wild", [False, True], ids=["finite", "wild"])
@pytest.mark.parametrize("layout", sorted(READERS.keys() - WITHOUT_PEER))
def test_blocks(layout: str, wild: bool) -> None:
    blocks = blocks_of(layout, 3000, wild=wild)
    found = dequantize(layout, blocks)
    assert_same_bits(found, peer_weights(layout, blocks).reshape(found.shape))
    assert wild or np.isfinite(found).all()
    assert len(np.unique(found)) > 400


@pytest.mark.parametrize("layout", sorted(WITHOUT_PEER))
def test_blocks_without_a_peer(layout: str) -> None:
    """One number after the other, as ggml's loops go."""
    blocks = blocks_of(layout, 50)
    expected = []
    for block in blocks:
        raw = block.tobytes()
        (scale,) = struct.unpack_from("<f" if layout == "Q8_K" else "<e", raw)
        scale = np.float32(scale)
        if layout == "Q1_0":
            row = [scale if raw[2 + i // 8] >> i % 8 & 1 else -scale for i in range(128)]
        elif layout == "Q2_0":
            row = [((raw[2 + i // 4] >> i % 4 * 2 & 3) - 1) * scale for i in range(64)]
        else:
            known = BLOCK_TYPES[layout]
            row = [value * scale for value in struct.unpack_from(f"{known.n_elements}b", raw, 4)]
        expected.append(row)
    assert_same_bits(dequantize(layout, blocks), np.array(expected, np.float32))


@pytest.mark.parametrize("layout", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"])
def test_grids(layout: str) -> None:
    peer: Any = getattr(gguf.quants, layout)
    peer.init_grid()
    assert np.array_equal(grid(layout), peer.grid.reshape(peer.grid_shape))


def test_large_tensors_take_little_memory_beside_the_result() -> None:
    blocks = torch.from_numpy(blocks_of("Q4_K", 2**16))
    tracemalloc.start()
    weights = dequantized("Q4_K", blocks.view(256, -1), (256, 2**16))
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert weights.numel() * 4 == 2**26
    assert most < 4 * 2**20
    assert_same_bits(weights.view(-1, 256).numpy(), peer_weights("Q4_K", blocks.numpy()))


def test_no_blocks() -> None:
    assert dequantize("Q6_K", np.empty((0, 210), np.uint8)).shape == (0, 256)
    assert dequantized("Q6_K", torch.empty(4, 0, dtype=torch.uint8), (4, 0)).shape == (4, 0)


@pytest.mark.parametrize(
    ("layout", "blocks", "shape"),
    [
        ("Q9_Z", torch.zeros(1, 18, dtype=torch.uint8), (1, 32)),
        ("Q4_0", torch.zeros(1, 17, dtype=torch.uint8), (1, 32)),
        ("Q4_0", torch.zeros(1, 18, dtype=torch.uint8), (2, 32)),
        ("Q4_0", torch.zeros(1, 18, dtype=torch.uint8), (1, 31)),
        ("Q4_0", torch.zeros(1, 18, dtype=torch.int8), (1, 32)),
        ("Q4_0", torch.zeros(18, dtype=torch.uint8), ()),
    ],
)
def test_wrong_blocks(layout: str, blocks: torch.Tensor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=layout):
        dequantized(layout, blocks, shape)


# Files


def written(path: Path, tensors: dict[str, Any], endian: GGUFEndian = GGUFEndian.LITTLE, alignment: int = 0) -> Path:
    """Write a file with the package: metadata of each kind, and tensors as arrays or as (layout, blocks)."""
    writer = GGUFWriter(path, "llama", endianess=endian)
    if alignment:
        writer.add_custom_alignment(alignment)
    writer.add_name("a name – ü")
    writer.add_uint8("a.uint8", 255)
    writer.add_int8("a.int8", -128)
    writer.add_uint16("a.uint16", 65535)
    writer.add_int16("a.int16", -32768)
    writer.add_uint32("a.uint32", 2**32 - 1)
    writer.add_int32("a.int32", -(2**31))
    writer.add_float32("a.float32", 0.1)
    writer.add_uint64("a.uint64", 2**64 - 1)
    writer.add_int64("a.int64", -(2**63))
    writer.add_float64("a.float64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.empty", "")
    writer.add_array("many.texts", ["<s>", "ü", "\n", "𝄞"])
    writer.add_array("many.ints", [1, -2, 2**31 - 1])
    writer.add_array("many.floats", [0.5, -0.0, math.inf])
    writer.add_array("many.bools", [True, False])
    writer.add_array("many.bytes", b"\0\xff")
    writer.add_array("nested", [[1, 2], [3]])
    for name, tensor in tensors.items():
        if isinstance(tensor, tuple):
            writer.add_tensor(name, tensor[1], raw_dtype=GGMLQuantizationType[tensor[0]])
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


METADATA = {
    "general.architecture": "llama",
    "general.name": "a name – ü",
    "a.uint8": 255,
    "a.int8": -128,
    "a.uint16": 65535,
    "a.int16": -32768,
    "a.uint32": 2**32 - 1,
    "a.int32": -(2**31),
    "a.float32": float(np.float32(0.1)),
    "a.uint64": 2**64 - 1,
    "a.int64": -(2**63),
    "a.float64": 0.1,
    "a.bool": True,
    "many.texts": ["<s>", "ü", "\n", "𝄞"],
    "many.ints": [1, -2, 2**31 - 1],
    "many.floats": [0.5, -0.0, math.inf],
    "many.bools": [True, False],
    "many.bytes": [0, 255],
    "nested": [[1, 2], [3]],
}


def dense_arrays() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shapes = [(5,), (3, 4), (2, 3, 5), (2, 1, 3, 2), (1,), (7, 1), (33,)]
    return {
        name: np.frombuffer(random.bytes(math.prod(shape) * np.dtype(type).itemsize), type).reshape(shape)
        for (name, type), shape in zip(DENSE.items(), shapes, strict=True)
    }


@pytest.mark.parametrize("endian", GGUFEndian)
@pytest.mark.parametrize("alignment", [0, 8, 4096])
def test_files_of_the_package(tmp_path: Path, endian: GGUFEndian, alignment: int) -> None:
    arrays = dense_arrays()
    path = written(tmp_path / "a.gguf", arrays, endian, alignment)
    content = read_gguf(PathSource(path), str(path))
    metadata = dict(content.facts["metadata"])
    assert metadata.pop("general.alignment", 0) == alignment
    metadata.pop("a.empty", None)  # which the package leaves out
    assert metadata == METADATA
    assert [type(value) for value in metadata.values()] == [type(value) for value in METADATA.values()]
    assert content.facts["version"] == 3
    assert content.facts["byte_order"] == endian.name.lower()
    assert content.facts["alignment"] == (alignment or 32)
    assert content.value.keys() == arrays.keys()
    for name, array in arrays.items():
        tensor = content.value[name]
        assert isinstance(tensor, Tensor) and tensor.dtype == np.dtype(array.dtype).name
        assert tensor.shape == array.shape
        assert array_of(tensor).tobytes() == array.tobytes(), name
        assert np.array_equal(array_of(tensor), array, equal_nan=True)
    peers = {peer.name: peer.data for peer in GGUFReader(path).tensors}
    assert all(np.array_equal(peers[name], array, equal_nan=True) for name, array in arrays.items())


@pytest.mark.parametrize("layout", sorted(READERS.keys() - {"Q2_0", "Q8_1"}))
def test_blocks_in_files(tmp_path: Path, layout: str) -> None:
    known = BLOCK_TYPES[layout]
    blocks = blocks_of(layout, 2 * 3 * 4).reshape(2, 3, 4 * known.n_bytes)
    path = written(tmp_path / "a.gguf", {"before": np.ones(3, np.float32), "weight": (layout, blocks)})
    found = read_gguf(PathSource(path), str(path)).value["weight"]
    assert isinstance(found, ComposedTensor)
    assert (found.layout, found.dtype) == (layout, "float32")
    assert found.shape == (2, 3, 4 * known.n_elements)
    part = found.parts["blocks"]
    assert (part.dtype, part.shape) == ("uint8", blocks.shape)
    assert np.array_equal(array_of(part), blocks)
    assert_same_bits(weights_of(found).reshape(-1, known.n_elements), dequantize(layout, blocks.reshape(24, -1)))
    if layout not in WITHOUT_PEER:
        (peer,) = (peer for peer in GGUFReader(path).tensors if peer.name == "weight")
        assert_same_bits(weights_of(found), peer_weights(layout, peer.data))


def test_bfloat16(tmp_path: Path) -> None:
    bits = np.arange(6, dtype=np.uint16).reshape(2, 3) * 0x1234
    path = written(tmp_path / "a.gguf", {"weight": ("BF16", bits.view(np.uint8))})
    found = read_gguf(PathSource(path), str(path)).value["weight"]
    assert (found.dtype, found.shape, found.stride) == ("bfloat16", (2, 3), (3, 1))
    assert np.array_equal(array_of(found), bits)


SWAPS = {
    "Q4_0": gguf_convert_endian.byteswap_q4_0,
    "Q8_0": gguf_convert_endian.byteswap_q8_0,
    "Q4_K": gguf_convert_endian.byteswap_q4_k,
    "Q6_K": gguf_convert_endian.byteswap_q6_k,
    "MXFP4": gguf_convert_endian.byteswap_noop,
}


@pytest.mark.parametrize("layout", SWAPS)
def test_blocks_of_a_big_endian_machine(layout: str) -> None:
    """The package's own tool makes them from those of a little-endian one, for the formats that it knows."""
    known = BLOCK_TYPES[layout]
    blocks = blocks_of(layout, 40)

    class Peer:
        data = blocks.copy().reshape(-1)

    for number in range(40):
        SWAPS[layout](Peer, number * known.n_bytes)
    info = BIG_ENDIAN.info("weight", (8, 5 * known.n_elements), NUMBERS[layout], 0)
    content = read(forged((), [info], Peer.data.tobytes(), form=BIG_ENDIAN))
    assert content.facts["byte_order"] == "big"
    assert np.array_equal(array_of(content.value["weight"].parts["blocks"]).reshape(blocks.shape), blocks)


def test_reading_pieces_of_a_big_endian_tensor() -> None:
    values = np.arange(1000, dtype=np.int32)
    info = BIG_ENDIAN.info("weight", (1000,), NUMBERS["I32"], 0)
    storage = read(forged((), [info], values.astype(">i4").tobytes(), form=BIG_ENDIAN)).value["weight"].storage
    raw = values.tobytes()
    for start, n_bytes in [(0, 4000), (1, 1), (3, 2), (2, 3998), (3999, 1), (4000, 0), (17, 100)]:
        assert storage.source.read(storage.position + start, n_bytes) == raw[start : start + n_bytes]


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions(version: int) -> None:
    form = FORMS[version]
    pairs = [form.pair("text", TEXT, "ü"), form.pair("many", ARRAY, (TEXT, ["a", "", "bc"])), form.pair("n", 4, 7)]
    values = np.arange(6, dtype=np.float32).reshape(2, 3)
    content = read(forged(pairs, [form.info("w", (2, 3), 0, 0)], values.tobytes(), version=version))
    assert content.facts["metadata"] == {"text": "ü", "many": ["a", "", "bc"], "n": 7}
    assert content.facts["version"] == version
    assert np.array_equal(array_of(content.value["w"]), values)


def test_texts_that_are_not_utf8_stay_bytes() -> None:
    form = Form()
    pairs = [form.pair("one", TEXT, b"\xff\xfe"), form.pair("many", ARRAY, (TEXT, [b"a", b"\xc3", b"b"]))]
    assert read(forged(pairs)).facts["metadata"] == {"one": b"\xff\xfe", "many": [b"a", b"\xc3", b"b"]}


def test_whatever_is_no_zero_is_true() -> None:
    """As llama.cpp has it."""
    form = Form()
    pair = form.text("many") + struct.pack("<IIQ3B", ARRAY, 7, 3, 0, 1, 200)
    assert read(forged([pair])).facts["metadata"] == {"many": [False, True, True]}


def test_tensors_of_no_elements_and_of_no_axes() -> None:
    form = Form()
    infos = [form.info("none", (0, 4), 0, 0), form.info("scalar", (), 0, 0), form.info("rows", (0, 32), 2, 32)]
    content = read(forged((), infos, struct.pack("<f", 2.5).ljust(32, b"\0")))
    assert array_of(content.value["none"]).shape == (0, 4)
    assert array_of(content.value["scalar"]) == 2.5 and content.value["scalar"].stride == ()
    assert weights_of(content.value["rows"]).shape == (0, 32)


def test_tensors_in_another_order_than_their_bytes() -> None:
    form = Form()
    infos = [form.info("second", (1,), NUMBERS["I8"], 32), form.info("first", (2,), NUMBERS["I8"], 0)]
    content = read(forged((), infos, b"\1\2" + b"\0" * 30 + b"\3" + b"\0" * 31))
    assert array_of(content.value["first"]).tolist() == [1, 2]
    assert array_of(content.value["second"]).tolist() == [3]


def test_nothing() -> None:
    content = read(forged())
    assert content.value == {} and content.facts["metadata"] == {}
    assert read(forged() + b"\0" * 8).value == {}


def test_vocabularies_are_read_fast() -> None:
    tokens = [f"token {number}" for number in range(150_000)]
    form = Form()
    pairs = [
        form.pair("tokens", ARRAY, (TEXT, tokens)),
        form.pair("merges", ARRAY, (TEXT, tokens[::-1])),
        form.text("scores") + struct.pack("<IIQ", ARRAY, 6, 150_000) + np.arange(150_000, dtype="<f4").tobytes(),
    ]
    content = forged(pairs)
    begun = time.process_time()
    metadata = read(content).facts["metadata"]
    assert time.process_time() - begun < 1
    assert metadata == {"tokens": tokens, "merges": tokens[::-1], "scores": [float(n) for n in range(150_000)]}


def test_reading_a_header_needs_no_numpy() -> None:
    program = (
        "import sys; from perdure.foreign.gguf.files import read_gguf; from perdure.disk.sources import BytesSource; "
        f"read_gguf(BytesSource({forged()!r}), 'x'); print(sorted({{'numpy', 'torch'}} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# Random files

NUMBER_KINDS = {
    **{kind: st.integers(0, 2**bits - 1) for kind, bits in ((0, 8), (2, 16), (4, 32), (10, 64))},
    **{
        kind: st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        for kind, bits in ((1, 8), (3, 16), (5, 32), (11, 64))
    },
    6: st.floats(width=32, allow_nan=False),
    7: st.booleans(),
    12: st.floats(allow_nan=False),
}
kinds = {**NUMBER_KINDS, TEXT: st.text(max_size=9)}
plain_arrays = st.sampled_from(list(kinds)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(kinds[kind], max_size=5))
)
arrays = st.recursive(plain_arrays, lambda inner: st.tuples(st.just(ARRAY), st.lists(inner, max_size=3)), max_leaves=6)
values = st.sampled_from([*kinds, ARRAY]).flatmap(
    lambda kind: st.tuples(st.just(kind), arrays if kind == ARRAY else kinds[kind])
)
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def flat(kind: int, value: Any) -> Any:
    return [flat(value[0], one) for one in value[1]] if kind == ARRAY else value


@given(
    st.dictionaries(st.text(min_size=1, max_size=9), values, max_size=5),
    st.dictionaries(st.text(max_size=9), st.tuples(st.sampled_from(sorted(GGUF_TYPES)), shapes), max_size=5),
    st.sampled_from([FORMS[1], FORMS[2], FORMS[3], BIG_ENDIAN]),
    st.sampled_from([1, 8, 32, 256]),
    st.randoms(use_true_random=False),
)
def test_random_files(
    metadata: dict[str, Any], tensors: dict[str, Any], form: Form, alignment: int, random: Any
) -> None:
    metadata = {**metadata, "general.alignment": (4, alignment)}
    infos, data, expected = [], b"", {}
    for name, (number, shape) in tensors.items():
        known = GGUF_TYPES[number]
        shape = (*shape[:-1], shape[-1] * known.n_elements) if shape else (known.n_elements,)
        raw = random.randbytes(math.prod(shape) // known.n_elements * known.n_bytes)
        data += b"\0" * (-len(data) % alignment)
        infos.append(form.info(name, shape, number, len(data)))
        data += raw
        expected[name] = (shape, known, raw)
    pairs = [form.pair(key, kind, value) for key, (kind, value) in metadata.items()]
    version = 1 if form.count == "I" else 3
    content = read(forged(pairs, infos, data, version=version, form=form, alignment=alignment))
    assert content.facts["metadata"] == {key: flat(kind, value) for key, (kind, value) in metadata.items()}
    assert list(content.value) == list(expected)
    for name, (shape, known, raw) in expected.items():
        tensor = content.value[name]
        assert tensor.shape == shape
        dense = tensor if known.dtype else tensor.parts["blocks"]
        if form is BIG_ENDIAN:
            # the same places twice are the bytes as they were
            raw = b"".join(
                bytes(raw[start + place] for place in known.reversed_fields)
                for start in range(0, len(raw), known.n_bytes)
            )
        assert bytes_of(dense) == raw


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(st.sampled_from(sorted(DENSE)), shapes), max_size=5))
def test_random_files_of_the_package(tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, Any]) -> None:
    arrays = {
        name: np.arange(math.prod(shape)).reshape(shape).astype(DENSE[type])
        for name, (type, shape) in tensors.items()
        if shape
    }
    path = written(tmp_path_factory.mktemp("random") / "a.gguf", arrays)
    found = read_gguf(PathSource(path), str(path)).value
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(array_of(found[name]), array) for name, array in arrays.items())


def test_value_types_are_all_known() -> None:
    assert {kind.value for kind in GGUFValueType} == kinds.keys() | {ARRAY}
