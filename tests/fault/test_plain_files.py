"""Against the safetensors library: what it writes perdure reads, and what perdure reads it reads with the same bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import safetensors.torch
import torch
from hypothesis import given, settings

import perdure
from fault.forging import header_of
from fault.forging import safetensors as plain
from perdure.errors import FileError

DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64,
    torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
    *([torch.float8_e8m0fnu] if hasattr(torch, "float8_e8m0fnu") else []),  # since PyTorch 2.7
)  # fmt: skip
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=12).filter(lambda name: name != "__metadata__")


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    n_bytes = torch.empty(shape, dtype=torch.uint8).numel() * dtype.itemsize
    content = bytearray(draw(st.binary(min_size=n_bytes, max_size=n_bytes)))
    if dtype is torch.bool:
        content = bytearray(byte & 1 for byte in content)
    if not content:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=dtype).view(shape)


def bits(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    raw = tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else torch.empty(0, dtype=torch.uint8)
    return tensor.dtype, tuple(tensor.shape), raw.numpy().tobytes()


def all_bits(found: Any) -> dict[str, Any]:
    return {name: bits(tensor) for name, tensor in dict(found).items()}


METADATA = st.dictionaries(st.text("abc.é\n", max_size=5), st.text(max_size=9), min_size=1)  # {} it writes as no JSON


@given(st.dictionaries(NAMES, tensors(), max_size=5), st.none() | METADATA)
def test_what_safetensors_writes_perdure_reads(state: dict[str, torch.Tensor], metadata: dict[str, str] | None) -> None:
    content = safetensors.torch.save(state, metadata=metadata)
    expected = all_bits(state)
    if all(
        str(tensor.dtype) != "torch.float8_e8m0fnu" for tensor in state.values()
    ):  # which it writes, but does not read
        assert all_bits(safetensors.torch.load(content)) == expected
    with perdure.open(content) as weights:
        assert weights.manifest is None and weights.digest == ""
        assert all_bits(weights) == expected
        assert {name: bits(weights.read(name)) for name in weights} == expected
        weights.verify()
        assert {name: spec.shape for name, spec in weights.specs.items()} == {
            name: b[1] for name, b in expected.items()
        }


@given(st.dictionaries(NAMES.filter(bool), tensors(), max_size=5))
@settings(max_examples=50)
def test_plain_files_on_disk_are_mapped_checked_and_described(state: dict[str, torch.Tensor]) -> None:
    path = Path("/dev/shm" if Path("/dev/shm").exists() else "/tmp") / "perdure-plain.safetensors"
    try:
        safetensors.torch.save_file(state, path)
        with perdure.open(path) as weights:
            assert all_bits(weights) == all_bits(state)
        report = perdure.check(path)
        assert (report.ok, report.n_tensors, [finding.kind for finding in report.findings]) == (True, 0, ["Unknown"])
        assert {spec.name for spec in perdure.info(path).tensors} == set(state)
    finally:
        path.unlink(missing_ok=True)


BASE = plain(
    {
        "__metadata__": {"format": "pt"},
        "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
        "b": {"dtype": "U8", "shape": [0], "data_offsets": [8, 8]},
        "c": {"dtype": "BF16", "shape": [], "data_offsets": [8, 10]},
    },
    bytes(range(10)),
)
LETTERS = list(' 0128-",:[]{}\\é\0\nabc')
WORDS = [
    "",
    "10",
    ".0",
    "e0",
    "\\u0061",
    "null",
    "true",
    "//",
    '"a":1,',
    "[0]",
    ",0",
    "0,",
    "F32",
    "I32",
    "U8",
    "BF16",
    "shape",
]
PIECES = st.sampled_from(LETTERS + WORDS)


@st.composite
def altered_headers(draw: st.DrawFn) -> bytes:
    """The header above with a few stretches of it replaced."""
    header, data = header_of(BASE)
    text = json.dumps(header, separators=(",", ":"))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        text = text[:start] + draw(PIECES) + text[start + draw(st.integers(0, 3)) :]
    return plain(text, data[: draw(st.sampled_from([10, 10, 10, 8, 9]))])


@given(altered_headers())
@settings(max_examples=1500)
def test_what_perdure_reads_of_altered_headers_safetensors_reads_alike(content: bytes) -> None:
    try:
        found = all_bits(perdure.open(content))
    except FileError:
        return
    assert found == all_bits(safetensors.torch.load(content))


@given(altered_headers())
@settings(max_examples=1500)
def test_what_perdure_refuses_of_altered_headers_breaks_a_rule(content: bytes) -> None:
    """It may refuse more than safetensors, but only for the reasons that FORMAT.md gives."""
    try:
        perdure.open(content)
    except FileError as error:
        message = str(error)
    else:
        return
    try:
        safetensors.torch.load(content)
    except Exception:  # it refuses too, whatever it calls that
        return
    stricter = ("begin with", "occurs twice", "no more", "must map text to text", "the unknown type", "three keys")
    assert any(reason in message for reason in stricter), message
