"""The layout of a file: its header, and where its tensors go, without holes and aligned as far as their size allows."""

from __future__ import annotations

import io
import json
import struct

import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import perdure
from perdure.disk.header import DATA_ALIGNMENT, Entry, _read, _read_canonical, build, place
from perdure.records.dtypes import BITS, SHORT_NAMES, STORED_NAMES, byte_size

sizes = st.one_of(
    st.integers(0, 300), st.sampled_from([0, 64, 128, 4096, 2**40, 2**40 + 2]), st.integers(0, 20).map(lambda n: 2**n)
)


@given(st.dictionaries(st.text(max_size=5), sizes, max_size=30))
def test_place(wanted: dict[str, int]) -> None:
    offsets = place(wanted)
    assert offsets.keys() == wanted.keys()
    position = 0
    for name, (start, stop) in sorted(offsets.items(), key=lambda item: item[1]):
        size = wanted[name]
        assert (start, stop) == (position, position + size)
        if size:
            assert start % min(64, size & -size) == 0, name
        position = stop
    assert list(offsets.values()) == sorted(offsets.values())
    assert place(dict(reversed(wanted.items()))).keys() == offsets.keys()


@given(st.dictionaries(st.text(max_size=9), st.text(max_size=99), max_size=4), st.integers(0, 5000))
def test_headers_end_on_a_page(metadata: dict[str, str], n_tensors: int) -> None:
    n_tensors //= 100
    entries = {f"t{number}": Entry("F32", (2, 3), (24 * number, 24 * number + 24)) for number in range(n_tensors)}
    raw = build(metadata, entries)
    (length,) = struct.unpack("<Q", raw[:8])
    assert len(raw) == 8 + length and len(raw) % DATA_ALIGNMENT == 0
    parsed = json.loads(raw[8:])
    assert parsed.pop("__metadata__") == metadata
    assert parsed == {
        name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [*entry.data_offsets]}
        for name, entry in entries.items()
    }
    assert list(parsed) == list(entries)


names = st.text(max_size=6) | st.sampled_from(['"', "\\", "\n", "\x7f", "é", "\U0001f600", "__metadata__x"])
number = st.integers(0, 2**64) | st.sampled_from([2**63 - 1, 2**63, -1, True, 1.0, 1e400, None])


@st.composite
def headers(draw: st.DrawFn) -> bytes:
    """Headers as perdure and safetensors write them, and such as differ from those a little."""
    content: dict[str, object] = {"__metadata__": draw(st.dictionaries(names, names, max_size=3))}
    for name in draw(st.lists(names, max_size=3)):
        dtype = draw(st.sampled_from(["F32", "F32", "x", 3]))
        shape = draw(st.lists(number, max_size=3) | st.just([1] * 65))
        offsets = draw(st.lists(number, min_size=2, max_size=2) | st.lists(number, max_size=3))
        content[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    if draw(st.booleans()):
        del content["__metadata__"]
    raw = json.dumps(content, separators=(",", ":"), ensure_ascii=draw(st.booleans()))
    for _ in range(draw(st.integers(0, 2))):  # a key twice, a space, a field too many
        place = draw(st.integers(0, len(raw)))
        stop = draw(st.integers(place, min(place + 40, len(raw))))
        raw = draw(
            st.sampled_from([raw[:place] + raw[place:stop] * 2 + raw[stop:], raw[:place] + raw[stop:], raw + " "])
        )
    return raw.encode("utf-8", "surrogatepass")


@settings(max_examples=1000)
@given(headers())
@example(b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}')
@example(b'{"__metadata__":{"a":"1","a":"1"}}')
@example(b'{"__metadata__":{},"__metadata__":{}}')
@example(b'{"__metadata__":{},"a":{"dtype":"F32","shape":[-0],"data_offsets":[0,4]}}')
@example(b'{"__metadata__":{},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"dtype":"F32"}}')
def test_the_fast_way_to_read_a_header_reads_what_the_careful_one_does(raw: bytes) -> None:
    found = _read_canonical(raw)
    if found is not None:
        assert found == _read(raw, "it")


def test_the_fast_way_reads_what_perdure_and_safetensors_write() -> None:
    tensors = {"é": torch.zeros(2, 3), '"\n': torch.zeros(()), "b": torch.zeros(0, 4, dtype=torch.int64)}
    ours = io.BytesIO()
    perdure.save_weights(tensors, ours, notes={"a": "\x7f\u2028"})
    for raw in (ours.getvalue(), safetensors.torch.save(tensors), safetensors.torch.save(tensors, {"k": "v"})):
        (length,) = struct.unpack("<Q", raw[:8])
        assert _read_canonical(raw[8 : 8 + length]) == _read(raw[8 : 8 + length], "it")


def test_names_of_types_are_one_to_one() -> None:
    assert SHORT_NAMES.keys() == BITS.keys()
    assert len(set(SHORT_NAMES.values())) == len(SHORT_NAMES)
    assert {SHORT_NAMES[stored] for stored in STORED_NAMES.values()} == STORED_NAMES.keys()
    assert BITS.keys() - STORED_NAMES.values() == {"F6_E2M3", "F6_E3M2"}  # PyTorch has no such types


def test_sizes_of_types_are_torchs() -> None:
    import torch

    for short, stored in STORED_NAMES.items():
        if hasattr(torch, short):
            size = torch.empty(1, dtype=getattr(torch, short)).element_size()
            assert BITS[stored] == size * (4 if stored == "F4" else 8)


def test_byte_size() -> None:
    assert byte_size("F32", (2, 3)) == 24
    assert byte_size("F32", ()) == 4
    assert byte_size("F4", (3, 4)) == 6
    assert byte_size("F4", (3,)) is None
    assert byte_size("F6_E2M3", (4,)) == 3
    assert byte_size("F6_E2M3", (3,)) is None
    assert byte_size("C64", (0, 5)) == 0
