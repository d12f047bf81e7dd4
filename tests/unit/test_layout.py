"""Where the tensors of a file go: without holes, each aligned as far as its size allows."""

from __future__ import annotations

import json
import struct

from hypothesis import given
from hypothesis import strategies as st

from perdure.disk.header import DATA_ALIGNMENT, Entry, build, place
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
    entries = {f"t{number}": Entry("F32", (2, 3), 24 * number, 24 * number + 24) for number in range(n_tensors)}
    raw = build(metadata, entries)
    (length,) = struct.unpack("<Q", raw[:8])
    assert len(raw) == 8 + length and len(raw) % DATA_ALIGNMENT == 0
    parsed = json.loads(raw[8:])
    assert parsed.pop("__metadata__") == metadata
    assert parsed == {
        name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [entry.start, entry.stop]}
        for name, entry in entries.items()
    }
    assert list(parsed) == list(entries)


def test_names_of_types_are_one_to_one() -> None:
    assert SHORT_NAMES.keys() == BITS.keys()
    assert len(set(SHORT_NAMES.values())) == len(SHORT_NAMES)
    assert {SHORT_NAMES[stored] for stored in STORED_NAMES.values()} == STORED_NAMES.keys()
    assert BITS.keys() - STORED_NAMES.values() == {"F6_E2M3", "F6_E3M2"}  # PyTorch has no such types


def test_sizes_of_types_are_torchs() -> None:
    import torch

    for short, stored in STORED_NAMES.items():
        assert BITS[stored] == torch.empty(1, dtype=getattr(torch, short)).element_size() * (4 if stored == "F4" else 8)


def test_byte_size() -> None:
    assert byte_size("F32", (2, 3)) == 24
    assert byte_size("F32", ()) == 4
    assert byte_size("F4", (3, 4)) == 6
    assert byte_size("F4", (3,)) is None
    assert byte_size("F6_E2M3", (4,)) == 3
    assert byte_size("F6_E2M3", (3,)) is None
    assert byte_size("C64", (0, 5)) == 0
