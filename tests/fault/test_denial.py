"""Small files that would take a reader long, or much memory: refused before that."""

from __future__ import annotations

import io
import json
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard

import perdure
from fault.forging import perdure_file, safetensors, with_blob, with_manifest, with_values
from fault.test_headers import MIB, bounded, raised
from perdure.errors import CorruptError, LimitError, PerdureError, UnsupportedValueError
from perdure.records.names import fold

PRIME = 2**61 - 1
"""Python's hash of a whole number is its remainder by this."""


def checkpoint(state: Any = None) -> bytes:
    file = io.BytesIO()
    perdure.save_checkpoint(state, file)
    return file.getvalue()


def bomb(n_bytes: int = 255 * MIB) -> bytes:
    return zstandard.compress(bytes(n_bytes))


def test_folding_names_takes_no_more_than_their_length() -> None:
    with bounded():
        assert fold(["0." * 100_000 + "w", "1." * 100_000 + "w"]) == ["0." * 100_000 + "w", "1." * 100_000 + "w"]
    with bounded():
        names = ["1." * 200 + f"{n}.w" for n in range(1000)]
        assert len(fold(names)) == 1000  # more numbers than are looked at
    assert fold(["a.0.w", "a.1.w"]) == ["a.{0..1}.w"]


def test_a_name_of_numbers_in_the_report_of_a_load(tmp_path: Path) -> None:
    path = tmp_path / "it.safetensors"
    name = "0." * 100_000 + "w"
    path.write_bytes(safetensors({name: {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}))
    with bounded(seconds=2):
        str(perdure.load_weights(torch.nn.Module(), path, strict=False))


def test_unknown_blobs_are_left_alone_and_known_ones_bounded_together() -> None:
    content = perdure_file({"w": ("U8", [1], b"1")})
    for number in range(40):
        content = with_blob(content, f"x{number}", bomb())
    with bounded(seconds=2):
        assert perdure.check(content).ok
    for name in ("architecture", "graph", "proof", "sources"):
        content = with_blob(content, name, bomb(100 * MIB))
    with bounded(memory_bytes=400 * MIB, seconds=4):
        report = perdure.check(content)
    assert not report.ok and "unpack to more than" in report.findings[0].message


def test_blobs_larger_than_any_writer_makes_are_refused(tmp_path: Path) -> None:
    big = bytes(12_000_001)  # 16,000,004 in base64
    for content in (with_blob(perdure_file({"w": ("U8", [1], b"1")}), "x", big),):
        assert type(raised(lambda: perdure.open(content))) is LimitError  # noqa: B023
        assert not perdure.check(content).ok


@pytest.mark.parametrize(
    "text",
    [
        f'{{"$":"fraction","of":["0x{"f" * 1_000_000}","0x{"e" * 1_000_000}"]}}',
        json.dumps({"$": "set", "of": [{"$": "int", "of": hex(k * PRIME)} for k in range(20_000)]}),
        json.dumps({"$": "frozenset", "of": [{"$": "tuple", "of": [{"$": "int", "of": hex(k * PRIME)}]} for k in range(20_000)]}),
        json.dumps({"$": "dict", "of": [[{"$": "int", "of": hex(k * PRIME)}, 1] for k in range(20_000)]}),
        json.dumps({"$": "counter", "of": [[{"$": "int", "of": hex(k * PRIME)}, 1] for k in range(20_000)]}),
        json.dumps({"$": "ordered", "of": [[{"$": "int", "of": hex(k * PRIME)}, 1] for k in range(20_000)]}),
    ],
    ids=["fraction", "set", "tuples", "dict", "counter", "ordered"],
)  # fmt: skip
def test_values_that_take_the_square_of_their_size(text: str) -> None:
    content = with_values(checkpoint(), text)
    with bounded():
        assert type(raised(lambda: perdure.load_checkpoint(content))) is CorruptError
    with bounded():
        assert not perdure.check(content).ok


@pytest.mark.parametrize("kind", [set, frozenset, dict.fromkeys, Counter])
def test_what_no_reader_takes_is_refused_on_saving(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedValueError, match=r"state\['a'\].*same hash"):
        perdure.save_checkpoint({"a": kind([k * PRIME for k in range(1500)])}, tmp_path / "it.safetensors")
    with pytest.raises(UnsupportedValueError, match=r"state\['a'\].*fraction"):
        perdure.save_checkpoint({"a": Fraction(1, 16**5000)}, tmp_path / "it.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_large_numbers_that_are_kept() -> None:
    state = {"f": Fraction(-(16**4096) + 1, 16**4096 - 3), "i": 16**100_000, "s": {k * PRIME for k in range(900)}}
    assert perdure.load_checkpoint(checkpoint(state)) == state


@pytest.mark.parametrize("inner", ["[]", "{}"])
def test_a_header_of_nothing_but_brackets(inner: str) -> None:
    content = safetensors('{"a":[' + f"{inner}," * 3_000_000 + inner + "]}")
    with bounded():
        assert type(raised(lambda: perdure.open(content))) is CorruptError


def test_brackets_within_strings_do_not_count(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"note": "[{" * 50_000 + '\\"[[\\\\'},
        "w": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
    }
    assert len(perdure.open(safetensors(header))) == 1
    notes = [[number] for number in range(20_000)]
    perdure.save_weights({"a": torch.ones(1)}, tmp_path / "model", notes=notes)
    assert perdure.open(tmp_path / "model").manifest.notes == notes  # type: ignore[union-attr]


def test_marks_within_a_string_are_no_values() -> None:
    for text in ("," * 4_100_000, '\\",' * 1_500_000 + "," * 4_100_000):
        assert perdure.load_checkpoint(checkpoint({"text": text})) == {"text": text}
    many = "[" + '"a,b",' * 4_000_001 + "0]"
    with bounded(memory_bytes=400 * MIB, seconds=4):
        assert type(raised(lambda: perdure.load_checkpoint(with_values(checkpoint(), many)))) is LimitError


def test_a_string_that_does_not_end() -> None:
    for text in ('["' + '\\"' * 5_000_000, '["' + "\\" * 5_000_000, '"' * 9_000_001 + "," * 5_000_000):
        with bounded(memory_bytes=400 * MIB, seconds=4):
            assert isinstance(raised(lambda: perdure.load_checkpoint(with_values(checkpoint(), text))), PerdureError)  # noqa: B023


def test_plain_values_that_cannot_be_read_are_found_by_check(tmp_path: Path) -> None:
    assert perdure.check(checkpoint({"a": torch.ones(2), "b": {3: (1, 2)}})).ok
    for text in ('{"$":"nonsense"}', "[1,", '{"$":"tensor","name":"absent"}'):
        assert not perdure.check(with_values(checkpoint(), text)).ok
        assert isinstance(raised(lambda: perdure.load_checkpoint(with_values(checkpoint(), text))), CorruptError)  # noqa: B023
    plain = perdure_file({"w": ("U8", [1], b"1")})
    assert not perdure.check(with_manifest(plain, notes={"$": "nonsense"})).ok
